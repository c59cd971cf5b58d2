"""Milliseconds of a training step: nominal and paired, eager and compiled, for every spec, in one run.

    python benchmarks/train_step.py [--specs mnist_small cifar_medium] [--rounds 7] [--device cpu] [--eager]
    python benchmarks/train_step.py --layouts

With `--layouts` eager steps are compared with those whose images and weights lie channels last, in CPU time on a CPU.

A step is forward, loss and backward, without the optimizer, which is the same for both. The variants take turns within
each round, and medians over the rounds are compared, so that a slow moment of the machine hits all of them. The
arithmetic floor of a paired step is three nominal ones for the layers behind the first: nominal value and center
through W, radius through |W|. The batch is chosen so that a nominal step takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

import ibpc
from ibpc.interval import Interval
from ibpc.lowering import lower_paired, parameter_tree
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.memory import kept_memory
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.passes.merge_specification import merge_specification
from ibpc.training.objectives import nominal_loss, robust_loss

SPECS = Path(__file__).parents[1] / "specs"
MACS_PER_STEP = 3e9
EPS = 2 / 255


def batch_for(network: ibpc.Network) -> int:
    graph = network.graph
    macs = sum(operators()[node.operator].macs(call_of(graph, node)) for node in graph.order())
    return max(8, min(256, 2 ** int(MACS_PER_STEP / macs).bit_length() // 2))


def paired_graph(network: ibpc.Network) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    merged = merge_specification(network.graph, class_differences(network.classes)).graph
    tree = parameter_tree(merged, network.parameters).to(network.device)
    return lower_paired(merged, tree, nominal=merged.outputs[:1], bounded=merged.outputs[1:])


def variants(
    network: ibpc.Network,
    batch: int,
    compiled: bool,
    arrange: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.contiguous,
) -> dict[str, Callable[[], None]]:
    generator = torch.Generator().manual_seed(0)
    x = arrange(torch.rand(batch, *network.input_shape, generator=generator).to(network.device))
    labels = torch.randint(network.classes, (batch,), generator=generator).to(network.device)
    box = Interval.ball(x, EPS, network.input_range)
    index = margin_index(network.classes).to(network.device)

    def nominal(model: Callable[..., torch.Tensor]) -> Callable[[], None]:
        def step() -> None:
            network.parameters.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), labels).backward()

        return step

    def paired(model: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[[], None]:
        def step() -> None:
            network.parameters.zero_grad(set_to_none=True)
            logits, lower, upper = model(x, box.lower, box.upper)
            margins = margins_of(lower, upper, labels, index)
            (0.5 * nominal_loss(logits, labels) + 0.5 * robust_loss(margins, labels)).backward()

        return step

    pair = paired_graph(network)
    found = {"nominal": nominal(network.nominal_training), "paired": paired(pair)}
    if compiled:
        found["nominal compiled"] = nominal(torch.compile(network.nominal_training))
        found["paired compiled"] = paired(torch.compile(pair))
    return found


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def medians(
    steps: dict[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            synchronize(device)
            started = clock()
            step()
            synchronize(device)
            if number >= 2:
                times[name].append((clock() - started) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(specs: list[str], rounds: int, device: torch.device, compiled: bool) -> None:
    print(f"| {'spec':<26} | batch | nominal | paired | ratio | nominal compiled | paired compiled | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for spec in specs:
        network = ibpc.compile(SPECS / f"{spec}.json").to(device)
        batch = batch_for(network)
        found = medians(variants(network, batch, compiled), rounds, device)
        cells = [found["nominal"], found["paired"], found["paired"] / found["nominal"]]
        if compiled:
            cells += [found["nominal compiled"], found["paired compiled"]]
            cells.append(found["paired compiled"] / found["nominal compiled"])
        row(spec, batch, cells)
        torch._dynamo.reset()


def layout_table(specs: list[str], rounds: int, device: torch.device) -> None:
    """Print eager steps as everything is laid out by itself, and with images and weights channels last."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    print(f"| {'spec':<26} | batch | nominal | channels last | ratio | paired | channels last | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for spec in specs:
        usual, turned = (ibpc.compile(SPECS / f"{spec}.json").to(device) for _ in range(2))
        batch = batch_for(usual)
        for parameter in turned.parameters.parameters():
            parameter.data = channels_last(parameter.data)
        steps = variants(usual, batch, compiled=False)
        last = variants(turned, batch, compiled=False, arrange=channels_last)
        with kept_memory(device):
            found = medians(steps | {f"{name} last": step for name, step in last.items()}, rounds, device, clock)
        pairs = [(found[name], found[f"{name} last"]) for name in steps]
        row(spec, batch, [cell for one, other in pairs for cell in (one, other, other / one)])


def row(spec: str, batch: int, cells: list[float]) -> None:
    digits = (1, 1, 2, 1, 1, 2)
    text = " | ".join(f"{cell:.{count}f}" for cell, count in zip(cells, digits, strict=False))
    print(f"| {spec:<26} | {batch} | {text} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = sorted(
        str(path.relative_to(SPECS).with_suffix("")) for path in SPECS.rglob("*.json") if "recipes" not in path.parts
    )
    parser.add_argument("--specs", nargs="+", default=every)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--layouts", action="store_true", help="compare with channels last instead")
    options = parser.parse_args()
    device = torch.device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    print(
        f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads, median of {options.rounds} rounds, ms"
    )
    if options.layouts:
        layout_table(options.specs, options.rounds, device)
    else:
        table(options.specs, options.rounds, device, not options.eager)


if __name__ == "__main__":
    main()
