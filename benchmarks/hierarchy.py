"""IBP ⊇ forward, CROWN-IBP ⊇ CROWN ⊇ α-CROWN ⊇ exact on random small networks, points inside all of them.

`python benchmarks/hierarchy.py --networks 2000` prints the count of boxes and faults and how wide each method is,
relative to the exact bounds; with `--activations tanh sigmoid gated`, networks whose exact bounds nothing knows, to
what points reach.

Even seeds bound real arithmetic, and the program alone, without the other methods, is the judge. Odd ones bound every
binary32 execution, and that is what computes the points. Bounds of real arithmetic leave their own rounding out: points
are granted 1e-6 there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from statistics import median

import torch

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.mip import program_bounds
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic


class Gated(torch.nn.Module):
    """x tanh(x / 2): a product of two values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values of x (N, K)."""
        return x * torch.tanh(0.5 * x)


SMOOTH = {
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "gated": Gated,
    "silu": torch.nn.SiLU,
    "gelu": torch.nn.GELU,
}
ACTIVATIONS = {
    "relu": torch.nn.ReLU,
    "leaky": lambda: torch.nn.LeakyReLU(0.125),
    "hardtanh": torch.nn.Hardtanh,
}
CHAINS = (("ibp", "forward"), ("ibp", "crown-ibp", "crown", "alpha-crown", "exact"))
TOLERANCE = 3e-6
Tensor = torch.Tensor


def main() -> None:
    """Compare the methods on many networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--boxes", type=int, default=2)
    parser.add_argument("--activations", nargs="+", choices=[*ACTIVATIONS, *SMOOTH], default=sorted(ACTIVATIONS))
    parser.add_argument("--first", type=int, default=0, help="first seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names, count, found = options.activations, 0, 0
    ratios: dict[str, list[float]] = {}
    for seed in range(options.first, options.first + options.networks):
        module = random_module(names[seed % len(names)], seed)
        bounds = bounds_of(module, seed, *drawn_boxes(module, seed, options.boxes))
        for fault in faults_in(module, seed, options.boxes, bounds):
            found += 1
            print(f"seed {seed}: {fault}", flush=True)
        exact = least_width(module, seed, options.boxes, bounds)
        for name, (low, high) in bounds.items() if exact is not None else ():
            ratios.setdefault(name, []).extend(((high - low) / exact)[exact > 1e-3].tolist())
        count += 1
        if count % 100 == 0:
            print(f"{count} networks, {count * options.boxes} boxes, {found} faults", flush=True)
    print(f"\n{count} networks, {count * options.boxes} boxes, {found} faults\n")
    print("| method | median width / least width | largest |\n|---|---:|---:|")
    for name, values in ratios.items():
        print(f"| {name} | {median(values):.3f} | {max(values):.1f} |")


def random_module(activation: str, seed: int) -> torch.nn.Sequential:
    """Return a network of one to three hidden layers of 2 to 7 neurons, weights twice the usual."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    depth = int(torch.randint(1, 4, (), generator=generator))
    sizes = [int(torch.randint(2, 8, (), generator=generator)) for _ in range(depth + 1)]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), (ACTIVATIONS | SMOOTH)[activation]()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 2)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    return module


def drawn_boxes(module: torch.nn.Sequential, seed: int, boxes: int) -> tuple[Tensor, Tensor]:
    """Return lower and upper ends (boxes, n): radii up to 1, one of each box's often 0."""
    generator = torch.Generator().manual_seed(seed)
    size = int(module[0].in_features)
    center = 2.0 * torch.rand(boxes, size, generator=generator) - 1.0
    radius = torch.rand(boxes, size, generator=generator) * torch.rand(boxes, 1, generator=generator)
    return center - radius, center + radius


def bounds_of(module: torch.nn.Sequential, seed: int, low: Tensor, high: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Return the bounds (boxes, 2) of the outputs by each method."""
    graph = ibpc.compile(module, low).snapshot()
    arithmetic = Arithmetic.FLOAT32 if seed % 2 else Arithmetic.REAL
    bounders = {name: METHODS[name].bounder for chain in CHAINS for name in chain if name in METHODS}
    if is_smooth(module):
        bounders.pop("exact", None)
    elif arithmetic is Arithmetic.REAL:
        bounders["exact"] = program_bounds
    found = {}
    for name, bounder in bounders.items():
        bound = bounder(walk_of(graph), torch.eye(2), arithmetic)
        box = bound(Interval.bounds(low, high))
        found[name] = (box.lower.double(), box.upper.double())
    return found


def is_smooth(module: torch.nn.Sequential) -> bool:
    """Return whether programs do not know the exact bounds."""
    return isinstance(module[1], tuple(SMOOTH.values()))


def least_width(
    module: torch.nn.Sequential, seed: int, boxes: int, bounds: Mapping[str, tuple[Tensor, Tensor]]
) -> Tensor | None:
    """Return the exact width (boxes, 2), of smooth networks what points reach, None where neither is known."""
    if "exact" in bounds:
        return bounds["exact"][1] - bounds["exact"][0]
    if not is_smooth(module):
        return None
    values = torch.cat(list(reached(module, seed, boxes)))
    return values.amax(0) - values.amin(0)


def faults(module: torch.nn.Sequential, seed: int, boxes: int) -> Iterator[str]:
    """Yield what is wrong: a method looser than the one before it, or a point outside the bounds of one."""
    yield from faults_in(module, seed, boxes, bounds_of(module, seed, *drawn_boxes(module, seed, boxes)))


def faults_in(
    module: torch.nn.Sequential, seed: int, boxes: int, bounds: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterator[str]:
    """Yield the faults of bounds that are known already."""
    for chain in CHAINS:
        for outer, inner in pairwise(name for name in chain if name in bounds):
            looser = torch.maximum(bounds[outer][0] - bounds[inner][0], bounds[inner][1] - bounds[outer][1])
            if bool((looser > TOLERANCE * (1.0 + torch.maximum(*(end.abs() for end in bounds[outer])))).any()):
                yield f"{inner} is looser than {outer} by {float(looser.max()):.2e}"
    room = 0.0 if seed % 2 else 1e-6
    for y in reached(module, seed, boxes):
        for name, (lower, upper) in bounds.items():
            outside = torch.maximum(lower - y, y - upper).max()
            if float(outside) > room:
                yield f"a point lies outside {name} by {float(outside):.2e}"


def reached(module: torch.nn.Sequential, seed: int, boxes: int) -> Iterator[Tensor]:
    """Yield values (P, boxes, 2) of the outputs at the points that are tried."""
    low, high = drawn_boxes(module, seed, boxes)
    run = module if seed % 2 else deepcopy(module).double()
    for points in tried_points(module, low, high, seed):
        with torch.no_grad():
            y = run(points.flatten(0, 1).to(next(run.parameters()).dtype))
        yield y.double().reshape(*points.shape[:2], 2)


def tried_points(module: torch.nn.Sequential, low: Tensor, high: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield points (P, boxes, n): random ones, corners, and ends of sign gradient steps for each output, both ways."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(200, *low.shape, generator=generator)
    yield _placed(low, high, shares)
    yield _placed(low, high, shares.round())
    points = _placed(low, high, torch.rand(8, *low.shape, generator=generator))
    for row, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        moved = points
        for step in range(10):
            moved = moved.detach().requires_grad_()
            (slope,) = torch.autograd.grad(sign * module(moved)[..., row].sum(), moved)
            moved = (moved + slope.sign() * (high - low) / (step + 2)).clamp(low, high)
        yield moved.detach()


def _placed(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    return (low + share * (high - low)).clamp(low, high)


if __name__ == "__main__":
    main()
