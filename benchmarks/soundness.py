"""Sampled and attacked points of every spec network against its bounds: how many, and how many lie outside.

    python benchmarks/soundness.py [--points 1000000] [--seed 0]

Every network gets two hundred points, the rest goes mostly to the small ones; a quarter of them are found by gradient
ascent on single margins, a quarter are corners, the rest lies inside. All must lie inside the float32 IBP bounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.margins import class_differences
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.rounding import Arithmetic

SPECS = Path(__file__).parents[1] / "specs"
BOXES = 8
EPS = 0.03
LEAST = 200


def cost(network: ibpc.Network) -> int:
    graph = network.graph
    return sum(operators()[node.operator].macs(call_of(graph, node)) for node in graph.order())


def shuffled_statistics(network: ibpc.Network, generator: torch.Generator) -> None:
    """Give BatchNormalization statistics that do something."""
    for name, buffer in network.parameters.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def ascended(network: ibpc.Network, box: Interval, row: torch.Tensor) -> torch.Tensor:
    point = box.center.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((network.nominal(point) @ row).sum(), point)
    return torch.where(gradient > 0, box.upper, box.lower)


def check(network: ibpc.Network, points: int, generator: torch.Generator) -> tuple[int, int]:
    x = torch.rand(BOXES, *network.input_shape, generator=generator)
    box = Interval.ball(x, EPS, (0, 1))
    matrix = class_differences(network.classes)
    bounds = METHODS["ibp"].bounder(walk_of(network.snapshot()), matrix, Arithmetic.FLOAT32)(box)
    lower, upper = bounds.lower.double(), bounds.upper.double()
    done = outside = number = 0
    while done < points:
        share = torch.rand(x.shape, generator=generator)
        if number % 4 == 0:
            sign = 1.0 if number % 8 else -1.0
            point = ascended(network, box, sign * matrix[number // 4 % len(matrix)])
        else:
            point = torch.lerp(box.lower, box.upper, share.round() if number % 4 == 1 else share)
        with torch.no_grad():
            margins = network.nominal(point).double() @ matrix.double().T
        outside += int(((margins < lower) | (margins > upper)).any(1).sum())
        done += BOXES
        number += 1
    return done, outside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    paths = sorted(path for path in SPECS.rglob("*.json") if "recipes" not in path.parts)
    networks = {str(path.relative_to(SPECS).with_suffix("")): ibpc.compile(path, seed=options.seed) for path in paths}
    weights = {name: (cost(network) + 1e6) ** -1.5 for name, network in networks.items()}
    print("| network | points | outside | seconds |\n|---|---:|---:|---:|")
    total = failures = 0
    for name, network in networks.items():
        shuffled_statistics(network, generator)
        started = time.monotonic()
        count = int(options.points * weights[name] / sum(weights.values())) + LEAST
        done, outside = check(network, count, generator)
        total, failures = total + done, failures + outside
        print(f"| {name} | {done:,} | {outside} | {time.monotonic() - started:.0f} |", flush=True)
    print(f"| all | {total:,} | {failures} | |")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
