"""The bounds of whole networks: against an independent reference, and against sampled and attacked points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.margins import class_differences
from ibpc.rounding import Arithmetic
from tests import ROOT
from tests.reference import Reference

SPECS = ROOT / "specs"
ALL = sorted([*SPECS.glob("*.json"), *SPECS.glob("replication/*.json")])
QUICK = [SPECS / f"{name}.json" for name in ("digits_small", "mlp_mnist", "mnist_small", "resnet_cifar")]
EPS = 0.03


def named(path: Path) -> str:
    return str(path.relative_to(SPECS).with_suffix(""))


def compiled(path: Path) -> ibpc.Network:
    """A network whose BatchNormalizations have seen something: nothing folds to the identity."""
    network = ibpc.compile(path, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, buffer in network.parameters.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return network


def images(network: ibpc.Network, count: int) -> torch.Tensor:
    return torch.rand(count, *network.input_shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("path", ALL, ids=named)
def test_bounds_equal_an_independent_reference(path):
    network = compiled(path)
    box = Interval.ball(images(network, 1), EPS, (0, 1))
    with torch.no_grad():
        found = network.interval(box)
    lower, upper = Reference(path, network.snapshot().state)(box.lower, box.upper)
    scale = (upper - lower).abs().max() + torch.maximum(lower.abs(), upper.abs()).max()
    assert (found.lower.double() - lower).abs().max() <= 1e-5 * scale
    assert (found.upper.double() - upper).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize(
    ("path", "method"),
    [
        *((path, "ibp") for path in QUICK),
        *((path, name) for path in QUICK[:2] for name in METHODS if name not in ("ibp", "mip")),
    ],
    ids=str,
)
def test_sampled_and_attacked_points_lie_inside(path, method):
    network = compiled(path)
    x = images(network, 2)
    box = Interval.ball(x, EPS, (0, 1))
    matrix = class_differences(network.classes)
    bounds = METHODS[method].bounder(walk_of(network.snapshot()), matrix, Arithmetic.FLOAT32)(box)
    for points in (*corners(box, 40), *attacked(network, box, matrix)):
        with torch.no_grad():
            logits = network.nominal(points)
        differences = logits.double() @ matrix.double().T
        assert (differences >= bounds.lower.double()).all()
        assert (differences <= bounds.upper.double()).all()


def corners(box: Interval, rounds: int):
    """Random interior points, and random corners."""
    generator = torch.Generator().manual_seed(4)
    for number in range(rounds):
        share = torch.rand(box.lower.shape, generator=generator)
        share = share.round() if number % 2 else share
        yield torch.lerp(box.lower, box.upper, share).clamp(min=box.lower).clamp(max=box.upper)


def attacked(network: ibpc.Network, box: Interval, matrix: torch.Tensor):
    """Points pushed by the gradient of one margin after the other, to either side."""
    for row in matrix[::9]:
        for side in (-1.0, 1.0):
            point = box.center.clone()
            for _ in range(4):
                point.requires_grad_(True)
                (gradient,) = torch.autograd.grad((network.nominal(point) @ row).sum() * side, point)
                point = torch.where(gradient > 0, box.upper, box.lower).detach()
                yield point


def test_elision_is_tighter_than_bounds_of_the_logits():
    network = compiled(SPECS / "mnist_small.json")
    box = Interval.ball(images(network, 4), EPS, (0, 1))
    matrix = class_differences(network.classes)
    merged = METHODS["ibp"].bounder(walk_of(network.snapshot()), matrix, Arithmetic.REAL)(box)
    with torch.no_grad():
        logits = network.interval(box)
    loose = F.linear(logits.radius, matrix.abs())
    assert (merged.radius <= loose * (1 + 1e-5)).all()
    assert merged.radius.mean() < 0.99 * loose.mean()


def test_float32_bounds_contain_real_bounds_and_stay_close():
    network = compiled(SPECS / "mnist_small.json")
    box = Interval.ball(images(network, 4), EPS, (0, 1))
    matrix = class_differences(network.classes)
    real, float32 = (
        METHODS["ibp"].bounder(walk_of(network.snapshot()), matrix, arithmetic)(box) for arithmetic in Arithmetic
    )
    assert (float32.lower <= real.lower).all() and (float32.upper >= real.upper).all()
    assert (float32.width <= real.width * 1.005).all()
