"""Training and certifying by intervals against auto_LiRPA: the same network, batch and machine, in turns.

    python benchmarks/against_training.py --lirpa PYTHON [--specs mnist_small …] [--rounds 7]
    PYTHONPATH=auto_LiRPA python benchmarks/against_training.py --device cuda [--tf32]

Rows: a training step (forward, loss with elided margins, backward), and bounds of the margins of 10,000 images. The
rival does what its training examples do: logits, then `compute_bounds(IBP=True)` with each sample's own matrix C. (The
loss as a part of the network, its other form, bounds less and is not converted with torch 2.14.)

On a CPU every contestant is a process of its own with one thread, and CPU time counts; PYTHON is the interpreter of an
environment that has the rival, and torch. On a GPU all take turns in this process, and the time from an idle device to
an idle device counts, steps in a row for at least a tenth of a second; the rival is a checkout of
https://github.com/Verified-Intelligence/auto_LiRPA on PYTHONPATH, with appdirs and graphviz, and what else it imports
ibpc needs too. Without `--tf32` all multiply in float32. All graphs train with their BatchNormalization, if any.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from contest import compete, perform, take_turns
from torch import nn
from torch.nn import functional as F

SPECS = Path(__file__).parents[1] / "specs"
SPEC_NAMES = ["mnist_small", "cifar_small", "mnist_medium", "cifar_medium", "mnist_large", "cifar_large", "cnn7_cifar"]
EPS = 2 / 255
KAPPA = 0.5
CERTIFIED = 10_000
CERTIFICATION_BATCH = {"cpu": 250, "cuda": 1000}
CUDA_BATCH = 256

Step: TypeAlias = Callable[[], object]
Builder: TypeAlias = Callable[[str, int, torch.device], Step]


# ── the same network for all ────────────────────────────────────────────────────────────────────────────────────
def module_of(spec: dict[str, Any]) -> nn.Module:
    """Return the chain of layers of a spec as torch.nn has it, with its normalization as a first layer."""
    layers: list[nn.Module] = []
    for layer in spec["layers"]:
        options = {key: value for key, value in layer.items() if key not in ("type", "name")}
        kind = layer["type"]
        if options.get("padding") == "same":  # zeros on both sides, also with a stride: as much arithmetic
            options["padding"] = (options["kernel_size"] - 1) // 2
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


def read_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((SPECS / f"{name}.json").read_text())
    return spec


def batch_of(name: str, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    spec, generator = read_spec(name), torch.Generator().manual_seed(0)
    x = torch.rand(size, *spec["input"]["shape"], generator=generator)
    return x.to(device), torch.randint(spec["classes"], (size,), generator=generator).to(device)


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────────
def our_network(name: str, device: torch.device) -> Any:
    import ibpc

    torch.manual_seed(0)
    return ibpc.compile(SPECS / f"{name}.json").to(device)


def our_graphs(name: str, device: torch.device, engine: str) -> Any:
    """Return the training graphs as a run has them: weights laid out for the device, run by the engine of that name."""
    from ibpc.training.engine import arrange, chosen_engine
    from ibpc.training.graphs import TrainingGraphs

    network = our_network(name, device)
    arrange(network.parameters.parameters())
    network.parameters.train()
    return TrainingGraphs(network, engine=chosen_engine(engine, device))


def our_step(engine: str) -> Builder:
    def build(name: str, size: int, device: torch.device) -> Step:
        from ibpc.training.objectives import blend, nominal_loss, robust_loss

        graphs = our_graphs(name, device, engine)
        x, labels = batch_of(name, size, device)

        def step() -> None:
            graphs.network.parameters.zero_grad(set_to_none=True)
            logits, margins = graphs.paired(x, graphs.ball(x, EPS), labels)
            blend(nominal_loss(logits, labels), robust_loss(margins, labels), KAPPA).backward()

        return step

    return build


def nominal_step(engine: str) -> Builder:
    def build(name: str, size: int, device: torch.device) -> Step:
        graphs = our_graphs(name, device, engine)
        x, labels = batch_of(name, size, device)

        def step() -> None:
            graphs.network.parameters.zero_grad(set_to_none=True)
            F.cross_entropy(graphs.nominal(x), labels).backward()

        return step

    return build


def our_certification(name: str, size: int, device: torch.device) -> Step:
    """Bounds in real arithmetic, as the rival's are; to prepare the graph counts too."""
    from ibpc.interval import Interval
    from ibpc.margins import margin_index, margins_of

    network, prepare = our_bounds(name, device)
    x, labels = batch_of(name, size, device)
    index = margin_index(network.classes).to(device)
    batch = CERTIFICATION_BATCH[device.type]

    def step() -> None:
        bound = prepare()
        for images, own in zip(x.split(batch), labels.split(batch), strict=True):
            found = bound(Interval.ball(images, EPS, network.input_range))
            margins_of(found.lower, found.upper, own, index)

    return step


def our_preparation(name: str, size: int, device: torch.device) -> Step:
    """Fold BatchNormalization, merge the margins, take |W|: what the certification begins with."""
    return our_bounds(name, device)[1]


def our_bounds(name: str, device: torch.device) -> tuple[Any, Callable[[], Any]]:
    from ibpc.bounds import method_named
    from ibpc.bounds.values import walk_of
    from ibpc.margins import class_differences
    from ibpc.rounding import Arithmetic

    network = our_network(name, device)
    network.parameters.eval()
    differences = class_differences(network.classes)
    return network, lambda: method_named("ibp").bounder(
        walk_of(network.snapshot(), device), differences, Arithmetic.REAL
    )


# ── auto_LiRPA ──────────────────────────────────────────────────────────────────────────────────────────────────
def around(images: torch.Tensor) -> Any:
    """Return the images with their clipped balls, as the rival takes them."""
    from auto_LiRPA import BoundedTensor, PerturbationLpNorm

    ends = {"x_L": (images - EPS).clamp(0, 1), "x_U": (images + EPS).clamp(0, 1)}
    return BoundedTensor(images, PerturbationLpNorm(norm=float("inf"), eps=EPS, **ends))


def lirpa(name: str, size: int, device: torch.device) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the bounded module, images, labels, and the matrix of each label's margins (B, K − 1, K)."""
    from auto_LiRPA import BoundedModule

    torch.manual_seed(0)
    x, labels = batch_of(name, size, device)
    model = BoundedModule(module_of(read_spec(name)).to(device), x[:2], device=device)
    classes = read_spec(name)["classes"]
    margins = torch.eye(classes, device=device)[labels].unsqueeze(1) - torch.eye(classes, device=device)
    rows = margins[~F.one_hot(labels, classes).bool()].reshape(size, classes - 1, classes)
    return model, x, labels, rows


def lirpa_preparation(name: str, size: int, device: torch.device) -> Step:
    """Make the bounded module, which every use of the rival begins with."""
    from auto_LiRPA import BoundedModule

    x, _ = batch_of(name, size, device)
    module = module_of(read_spec(name)).to(device)
    return lambda: BoundedModule(module, x[:2], device=device)


def lirpa_step(name: str, size: int, device: torch.device) -> Step:
    """Do what its examples do: logits, IBP margins of each sample by its own matrix C, cross-entropies."""
    model, x, labels, rows = lirpa(name, size, device)
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        logits = model(around(x))
        lower, _ = model.compute_bounds(IBP=True, C=rows, method=None, bound_upper=False)
        worst = torch.cat([lower.new_zeros(len(x), 1), -lower], 1)
        loss = F.cross_entropy(worst, torch.zeros_like(labels))
        (KAPPA * F.cross_entropy(logits, labels) + (1 - KAPPA) * loss).backward()

    return step


def lirpa_certification(name: str, size: int, device: torch.device) -> Step:
    model, x, _, rows = lirpa(name, size, device)
    model.eval()
    batch = CERTIFICATION_BATCH[device.type]

    @torch.no_grad()
    def step() -> None:
        for images, own in zip(x.split(batch), rows.split(batch), strict=True):
            model.compute_bounds(x=(around(images),), IBP=True, C=own, method=None)

    return step


# ── taking part ──────────────────────────────────────────────────────────────────────────────────────────────────
ROLES: dict[str, Builder] = {
    "nominal": nominal_step("eager"),
    "ours": our_step("eager"),
    "nominal captured": nominal_step("auto"),
    "ours captured": our_step("auto"),
    "lirpa": lirpa_step,
    "our certification": our_certification,
    "our preparation": our_preparation,
    "lirpa certification": lirpa_certification,
    "lirpa preparation": lirpa_preparation,
}


def play(role: str, name: str, size: int, memory: str) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    step = ROLES[role](name, size, device)
    if memory == "system":
        perform(step)
        return
    from ibpc.memory import kept_memory

    with kept_memory(device):
        perform(step)


def on_cpu(
    roles: Mapping[str, tuple[str, str, str]], name: str, size: int, rounds: int, warm_up: int
) -> dict[str, float]:
    """Return the milliseconds of contestants on a CPU, by column: each has a role, its memory and its interpreter."""
    commands = {
        column: [python, __file__, "--play", role, name, str(size), memory]
        for column, (role, memory, python) in roles.items()
    }
    return {column: cost.cpu for column, cost in compete(commands, rounds, warm_up).items()}


def on_gpu(roles: Mapping[str, str], name: str, size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Return the milliseconds of contestants on a GPU, by column: each has a role."""
    found = take_turns({column: ROLES[role](name, size, device) for column, role in roles.items()}, rounds, device)
    torch.cuda.empty_cache()
    return found


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────
def batch_for(name: str) -> int:
    """Return a batch whose nominal step takes a core a fraction of a second."""
    import ibpc
    from ibpc.ops import operators
    from ibpc.ops.rules import call_of

    graph = ibpc.compile(SPECS / f"{name}.json").graph
    macs = sum(operators()[node.operator].macs(call_of(graph, node)) for node in graph.order())
    return max(8, min(256, 2 ** int(3e9 / macs).bit_length() // 2))


def row(*cells: object) -> None:
    print(
        "| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def heads(*cells: str) -> None:
    row(*cells)
    print("|---|" + "---:|" * (len(cells) - 1))


PREPARED_APART = "its preparation (not in it)"
SPEED_UPS = ("speed-up", "with both preparations", "with neither")


def speed_ups(found: Mapping[str, float]) -> list[float]:
    """Return how many times as long the rival takes: as measured, from the network on, and once both are ready."""
    ours, rival = found["ours"], found["auto_LiRPA"]
    return [rival / ours, (rival + found[PREPARED_APART]) / ours, rival / (ours - found["of it preparation"])]


def cpu_tables(specs: list[str], rounds: int, images: int, batch: int | None, lirpa: str) -> None:
    ours = sys.executable
    training = {
        "nominal": ("nominal", "kept", ours),
        "paired, memory handed back": ("ours", "system", ours),
        "paired": ("ours", "kept", ours),
        "auto_LiRPA": ("lirpa", "system", lirpa),
    }
    heads("spec", "batch", *training, "paired / nominal", "speed-up")
    for name in specs:
        size = batch or batch_for(name)
        found = on_cpu(training, name, size, rounds, warm_up=2)
        pair = found["paired"]
        ratios = pair / found["nominal"], found["auto_LiRPA"] / pair
        row(name, size, *(f"{value:.1f}" for value in found.values()), *ratios)
    if not images:
        return
    certifying = {
        "ours": ("our certification", "kept", ours),
        "of it preparation": ("our preparation", "kept", ours),
        "auto_LiRPA": ("lirpa certification", "system", lirpa),
        PREPARED_APART: ("lirpa preparation", "system", lirpa),
    }
    print(f"\nIBP margins of {images:,} images:\n")
    heads("spec", *certifying, *SPEED_UPS)
    for name in specs:
        found = on_cpu(certifying, name, images, max(1, rounds // 3), warm_up=1)
        row(name, *(f"{value:.0f}" for value in found.values()), *speed_ups(found))


def gpu_tables(specs: list[str], rounds: int, images: int, batch: int | None, device: torch.device) -> None:
    training = {
        "nominal": "nominal",
        "paired": "ours",
        "nominal, captured": "nominal captured",
        "paired, captured": "ours captured",
        "auto_LiRPA": "lirpa",
    }
    heads("spec", "batch", *training, "paired / nominal", "captured", "speed-up", "captured")
    for name in specs:
        size = batch or CUDA_BATCH
        found = on_gpu(training, name, size, rounds, device)
        pair = found["paired, captured"]
        ratios = [found["paired"] / found["nominal"], pair / found["nominal, captured"]]
        ratios += [found["auto_LiRPA"] / found["paired"], found["auto_LiRPA"] / pair]
        row(name, size, *found.values(), *ratios)
    if not images:
        return
    certifying = {"ours": "our certification", "of it preparation": "our preparation"}
    certifying |= {"auto_LiRPA": "lirpa certification", PREPARED_APART: "lirpa preparation"}
    print(f"\nIBP margins of {images:,} images:\n")
    heads("spec", *certifying, *SPEED_UPS)
    for name in specs:
        found = on_gpu(certifying, name, images, rounds, device)
        row(name, *found.values(), *speed_ups(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lirpa", default=sys.executable, help="interpreter with auto_LiRPA, on a CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tf32", action="store_true", help="let all contestants multiply in TF32 on a GPU")
    parser.add_argument("--specs", nargs="+", default=SPEC_NAMES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="images of a training step; default: 256 on a GPU, fewer on a CPU")
    parser.add_argument("--images", type=int, default=CERTIFIED, help="images to certify; 0: none")
    parser.add_argument("--play", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        role, name, size, memory = options.play
        play(role, name, int(size), memory)
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    where = torch.cuda.get_device_name() if options.device == "cuda" else "one thread, CPU time"
    print(f"torch {torch.__version__}, {where}, medians of {options.rounds} rounds, ms\n")
    if options.device == "cuda":
        gpu_tables(options.specs, options.rounds, options.images, options.batch, torch.device("cuda"))
    else:
        cpu_tables(options.specs, options.rounds, options.images, options.batch, options.lirpa)


if __name__ == "__main__":
    main()
