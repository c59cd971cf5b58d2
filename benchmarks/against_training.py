"""Training and certifying by intervals against auto_LiRPA: the same network, batch and machine, in turns.

    python benchmarks/against_training.py --lirpa PYTHON [--specs mnist_small …] [--rounds 7]

PYTHON is the interpreter of an environment that has the rival, and torch. Rows: a training step (forward, loss with
elided margins, backward), and bounds of the margins of 10,000 images. All on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contest import compete, perform
from torch import nn
from torch.nn import functional as F

SPECS = Path(__file__).parents[1] / "specs"
SPEC_NAMES = ["mnist_small", "cifar_small", "mnist_medium", "cifar_medium", "cifar_large", "cnn7_cifar"]
EPS = 2 / 255
KAPPA = 0.5
CERTIFIED = 10_000
CERTIFICATION_BATCH = 250


# ── the same network for all ────────────────────────────────────────────────────────────────────────────────────
def module_of(spec: dict[str, Any]) -> nn.Module:
    """Return the chain of layers of a spec as torch.nn has it, with its normalization as a first layer."""
    layers: list[nn.Module] = []
    for layer in spec["layers"]:
        options = {key: value for key, value in layer.items() if key not in ("type", "name")}
        kind = layer["type"]
        lazy = kind.startswith(("Conv", "Linear", "BatchNorm"))
        layers.append(getattr(nn, f"Lazy{kind}" if lazy else kind)(**options))
    source = spec["input"]
    first = [Normalization(source["mean"], source["std"])] if "mean" in source else []
    network = nn.Sequential(*first, *layers)
    network(torch.zeros(2, *source["shape"]))
    return network


class Normalization(nn.Module):
    """(x − mean) / std for each channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x normalized."""
        return (x - self.mean) / self.std


def batch_of(spec: dict[str, Any], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(size, *spec["input"]["shape"], generator=generator)
    return x, torch.randint(spec["classes"], (size,), generator=generator)


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────────
def our_network(name: str) -> Any:
    import ibpc

    torch.manual_seed(0)
    return ibpc.compile(SPECS / f"{name}.json")


def our_step(name: str, size: int) -> Callable[[], object]:
    from ibpc.training.graphs import TrainingGraphs
    from ibpc.training.objectives import blend, nominal_loss, robust_loss

    network = our_network(name)
    graphs = TrainingGraphs(network)
    network.parameters.train()
    x, labels = batch_of(json.loads((SPECS / f"{name}.json").read_text()), size)

    def step() -> None:
        network.parameters.zero_grad(set_to_none=True)
        logits, margins = graphs.paired(x, graphs.ball(x, EPS), labels)
        blend(nominal_loss(logits, labels), robust_loss(margins, labels), KAPPA).backward()

    return step


def nominal_step(name: str, size: int) -> Callable[[], object]:
    network = our_network(name)
    network.parameters.train()
    x, labels = batch_of(json.loads((SPECS / f"{name}.json").read_text()), size)

    def step() -> None:
        network.parameters.zero_grad(set_to_none=True)
        F.cross_entropy(network.nominal_training(x), labels).backward()

    return step


def our_certification(name: str, size: int) -> Callable[[], object]:
    """Bounds in real arithmetic, as the rival's are."""
    from ibpc.bounds import method_named
    from ibpc.interval import Interval
    from ibpc.margins import class_differences, margin_index, margins_of
    from ibpc.rounding import Arithmetic

    network = our_network(name)
    network.parameters.eval()
    x, labels = batch_of(json.loads((SPECS / f"{name}.json").read_text()), size)
    index = margin_index(network.classes)

    def step() -> None:
        bound = method_named("ibp")(
            network.snapshot(), class_differences(network.classes), Arithmetic.REAL, torch.device("cpu")
        )
        for images, own in zip(x.split(CERTIFICATION_BATCH), labels.split(CERTIFICATION_BATCH), strict=True):
            found = bound(Interval.ball(images, EPS, network.input_range))
            margins_of(found.lower, found.upper, own, index)

    return step


# ── auto_LiRPA ──────────────────────────────────────────────────────────────────────────────────────────────────
def lirpa(name: str, size: int) -> tuple[Any, Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the bounded module, the perturbation, images, labels, and the matrix of each label's margins (B, K, K)."""
    from auto_LiRPA import BoundedModule, PerturbationLpNorm

    spec = json.loads((SPECS / f"{name}.json").read_text())
    torch.manual_seed(0)
    x, labels = batch_of(spec, size)
    model = BoundedModule(module_of(spec), x[:2], device="cpu", bound_opts={"conv_mode": "patches"})

    def around(images: torch.Tensor) -> Any:
        return PerturbationLpNorm(
            norm=float("inf"), eps=EPS, x_L=(images - EPS).clamp(0, 1), x_U=(images + EPS).clamp(0, 1)
        )

    classes = spec["classes"]
    margins = torch.eye(classes)[labels].unsqueeze(1) - torch.eye(classes)
    return model, around, x, labels, margins


def lirpa_step(name: str, size: int) -> Callable[[], object]:
    """Do what its examples do: logits, IBP margins of each sample by its own matrix C, cross-entropies."""
    from auto_LiRPA import BoundedTensor

    model, around, x, labels, margins = lirpa(name, size)
    model.train()
    others = ~F.one_hot(labels, margins.shape[1]).bool()
    rows = margins[others].reshape(len(x), -1, margins.shape[2])

    def step() -> None:
        model.zero_grad(set_to_none=True)
        logits = model(BoundedTensor(x, around(x)))
        lower, _ = model.compute_bounds(IBP=True, C=rows, method=None, bound_upper=False)
        worst = torch.cat([lower.new_zeros(len(x), 1), -lower], 1)
        loss = F.cross_entropy(worst, torch.zeros_like(labels))
        (KAPPA * F.cross_entropy(logits, labels) + (1 - KAPPA) * loss).backward()

    return step


def lirpa_certification(name: str, size: int) -> Callable[[], object]:
    from auto_LiRPA import BoundedTensor

    model, around, x, labels, margins = lirpa(name, size)
    model.eval()
    others = ~F.one_hot(labels, margins.shape[1]).bool()
    rows = margins[others].reshape(len(x), -1, margins.shape[2])

    def step() -> None:
        with torch.no_grad():
            for images, own in zip(x.split(CERTIFICATION_BATCH), rows.split(CERTIFICATION_BATCH), strict=True):
                model.compute_bounds(x=(BoundedTensor(images, around(images)),), IBP=True, C=own, method=None)

    return step


# ── taking part ──────────────────────────────────────────────────────────────────────────────────────────────────
ROLES: dict[str, Callable[[str, int], Callable[[], object]]] = {
    "nominal": nominal_step,
    "ours": our_step,
    "lirpa": lirpa_step,
    "our certification": our_certification,
    "lirpa certification": lirpa_certification,
}


def play(role: str, name: str, size: int, memory: str) -> None:
    torch.set_num_threads(1)
    step = ROLES[role](name, size)
    if memory == "system":
        perform(step)
        return
    from ibpc.memory import kept_memory

    with kept_memory(torch.device("cpu")):
        perform(step)


def batch_for(name: str) -> int:
    import ibpc
    from ibpc.ops import operators
    from ibpc.ops.base import call_of

    graph = ibpc.compile(SPECS / f"{name}.json").graph
    macs = sum(operators()[node.operator].macs(call_of(graph, node)) for node in graph.order())
    return max(8, min(256, 2 ** int(3e9 / macs).bit_length() // 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lirpa", default=sys.executable, help="interpreter with auto_LiRPA")
    parser.add_argument("--specs", nargs="+", default=SPEC_NAMES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=CERTIFIED, help="images to certify; 0: none")
    parser.add_argument("--play", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        role, name, size, memory = options.play
        play(role, name, int(size), memory)
        return

    def command(role: str, name: str, size: int, memory: str, python: str = sys.executable) -> list[str]:
        return [python, __file__, "--play", role, name, str(size), memory]

    print("| spec | batch | nominal | paired, memory handed back | paired | auto_LiRPA | paired / nominal | speed-up |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in options.specs:
        size = batch_for(name)
        found = compete(
            {
                "nominal": command("nominal", name, size, "kept"),
                "before": command("ours", name, size, "system"),
                "paired": command("ours", name, size, "kept"),
                "lirpa": command("lirpa", name, size, "system", options.lirpa),
            },
            options.rounds,
        )
        times = " | ".join(f"{value:.1f}" for value in found.values())
        ratios = f"{found['paired'] / found['nominal']:.2f} | {found['lirpa'] / found['paired']:.2f}"
        print(f"| {name} | {size} | {times} | {ratios} |", flush=True)
    if not options.images:
        return
    print(
        f"\n| spec | IBP margins of {options.images:,} images, ms | auto_LiRPA, ms | speed-up |\n|---|---:|---:|---:|"
    )
    for name in options.specs:
        found = compete(
            {
                "ours": command("our certification", name, options.images, "kept"),
                "lirpa": command("lirpa certification", name, options.images, "system", options.lirpa),
            },
            max(1, options.rounds // 3),
        )
        ratio = found["lirpa"] / found["ours"]
        print(f"| {name} | {found['ours']:.0f} | {found['lirpa']:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
