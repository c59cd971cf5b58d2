"""α-CROWN against auto_LiRPA on random smooth networks: how wide bounds are beside what points reach, and their price.

    PYTHON benchmarks/against_alpha.py [--networks 60] [--activations tanh sigmoid …]

PYTHON is the interpreter of an environment of its own that has this project and auto_LiRPA. The networks are those of
`hierarchy.py` (Tanh, Sigmoid, SiLU, and x tanh(x / 2), which multiplies two values), two boxes each, all in real
arithmetic. Both optimize what they choose by default: auto_LiRPA for 100 steps, and it stops where ten in a row gained
nothing. CPU seconds of one thread, networks prepared before.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from math import inf
from typing import TypeAlias

import torch

import ibpc
from benchmarks.hierarchy import SMOOTH, drawn_boxes, random_module, reached
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

Tensor: TypeAlias = torch.Tensor
Widths: TypeAlias = Callable[[], Tensor]

# auto_LiRPA 0.7.1 refuses the graph that torch makes of GELU.
READ = sorted(SMOOTH.keys() - {"gelu"})
BOXES = 2
NARROW = 1e-3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=60, help="networks of each kind")
    parser.add_argument("--activations", nargs="+", choices=READ, default=READ)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print("| networks | method | median width / reached | mean | CPU seconds |\n|---|---|---:|---:|---:|")
    for kind in options.activations:
        ratios: dict[str, list[float]] = {}
        seconds: dict[str, float] = {}
        for seed in range(options.networks):
            compared(kind, seed, ratios, seconds)
        for name, found in ratios.items():
            middle, mean = statistics.median(found), statistics.fmean(found)
            print(f"| {kind} | {name} | {middle:.3f} | {mean:.3f} | {seconds[name]:.1f} |", flush=True)


def compared(kind: str, seed: int, ratios: dict[str, list[float]], seconds: dict[str, float]) -> None:
    """Add what both make of one network."""
    module = random_module(kind, seed)
    low, high = drawn_boxes(module, seed, BOXES)
    values = torch.cat(list(reached(module, seed, BOXES)))
    least = values.amax(0) - values.amin(0)
    for name, widths in (ours(module, low, high) | theirs(module, low, high)).items():
        started = time.process_time()
        found = widths()
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - started
        ratios.setdefault(name, []).extend((found / least)[least > NARROW].tolist())


def ours(module: torch.nn.Sequential, low: Tensor, high: Tensor) -> dict[str, Widths]:
    """Return our methods by name."""
    graph, box = ibpc.compile(module, low).snapshot(), Interval.bounds(low, high)

    def widths(method: str) -> Widths:
        bound = METHODS[method].bounder(walk_of(graph), torch.eye(2), Arithmetic.REAL)

        def width() -> Tensor:
            found = bound(box)
            return (found.upper - found.lower).double()

        return width

    return {f"`{method}`": widths(method) for method in ("crown", "alpha-crown")}


def theirs(module: torch.nn.Sequential, low: Tensor, high: Tensor) -> dict[str, Widths]:
    """Return those of auto_LiRPA by name."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    model = BoundedModule(module, low, device="cpu")
    point = BoundedTensor(0.5 * low + 0.5 * high, PerturbationLpNorm(norm=inf, x_L=low, x_U=high))

    def widths(method: str) -> Widths:
        def width() -> Tensor:
            with redirect_stdout(StringIO()):
                lower, upper = model.compute_bounds(x=(point,), method=method)
            return (upper - lower).detach().double()

        return width

    return {f"auto_LiRPA, {method}": widths(method) for method in ("CROWN", "alpha-CROWN")}


if __name__ == "__main__":
    main()
