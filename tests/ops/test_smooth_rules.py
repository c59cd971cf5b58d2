"""Ranges of elementary functions over boxes where the table's grid is too coarse or the function is not defined."""

from __future__ import annotations

import pytest
import torch

from ibpc.interval import Interval
from ibpc.ops import operators
from ibpc.ops.base import Call
from ibpc.rounding import Arithmetic

Tensor = torch.Tensor
INF = torch.inf


def call(*shapes: tuple[int, ...], arithmetic: Arithmetic = Arithmetic.REAL, **attributes: float) -> Call:
    return Call(attributes, shapes, {}, shapes[0], arithmetic)


def boxes(count: int, spread: float, widest: float, seed: int = 0) -> Interval:
    generator = torch.Generator().manual_seed(seed)
    lower = spread * (2.0 * torch.rand(count, generator=generator, dtype=torch.float64) - 1.0)
    width = widest * torch.rand(count, generator=generator, dtype=torch.float64)
    return Interval.bounds(lower, lower + width)


def grid(box: Interval, count: int = 4001) -> Tensor:
    share = torch.linspace(0.0, 1.0, count, dtype=box.lower.dtype)[:, None]
    return torch.minimum(box.lower + share * (box.upper - box.lower), box.upper)


@pytest.mark.parametrize("name", ["Sin", "Cos"])
@pytest.mark.parametrize("spread", [10.0, 1e6])
def test_waves_are_exact(name: str, spread: float) -> None:
    """Crests and troughs are found however far the box is, up to and beyond a whole turn."""
    operator, box = operators()[name], boxes(3000, spread, 8.0)
    bounds = operator.rules.interval(call((-1,)), box)
    values = operator.rules.nominal(call((-1,)), grid(box))
    for found, reached in ((bounds.lower, values.amin(0)), (-bounds.upper, -values.amax(0))):
        assert (found <= reached + 1e-12).all()
        assert (found >= reached - 1e-6).all()


@pytest.mark.parametrize("name", ["Sin", "Cos"])
def test_waves_hold_in_binary32_far_from_zero(name: str) -> None:
    operator, wide = operators()[name], boxes(3000, 1e6, 8.0)
    box = Interval.bounds(wide.lower.float(), wide.upper.float())
    bounds = operator.rules.interval(call((-1,), arithmetic=Arithmetic.FLOAT32), box)
    points = grid(box, 301)
    for values in (operator.rules.nominal(call((-1,)), points.double()), operator.rules.nominal(call((-1,)), points)):
        assert (bounds.lower.double() <= values.double()).all()
        assert (bounds.upper.double() >= values.double()).all()


EXPONENTS = torch.tensor([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)


def power_boxes() -> Interval:
    box = boxes(2000, 2.0, 2.0)
    lower, upper = box.lower.clone(), box.upper.clone()
    lower[:200], upper[:200] = 0.0, upper[:200].abs()
    lower[200:300], upper[200:300] = -1.0, 0.0
    lower[300:310], upper[300:310] = 0.0, 0.0
    return Interval.bounds(lower[:, None], upper[:, None])


def power_values(box: Interval) -> Tensor:
    share = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)[:, None, None]
    points = torch.minimum(box.lower + share * (box.upper - box.lower), box.upper)
    nearest = torch.zeros_like(points[:1]).clamp(box.lower, box.upper)
    return torch.pow(torch.cat([points, nearest]), EXPONENTS)


def test_powers_are_exact_and_honest() -> None:
    """Every value is inside, both bounds are attained, and where a NaN or a pole of both signs is met there is none."""
    box = power_boxes()
    bounds = operators()["Pow"].rules.interval(call((-1, 1), (12,)), box, EXPONENTS)
    values = power_values(box)
    undefined = values.isnan().any(0)
    pole = (box.lower <= 0) & (box.upper >= 0) & (EXPONENTS < 0) & (EXPONENTS % 2 == 1)
    for bound, sign in ((bounds.lower, -INF), (bounds.upper, INF)):
        assert (bound[undefined | pole] == sign).all()
    least, most = values.amin(0), values.amax(0)
    for found, reached in ((bounds.lower, least), (bounds.upper, most)):
        same = (found == reached) | ((found - reached).abs() <= 1e-12 * reached.abs())
        assert (same | undefined | pole).all()


@pytest.mark.parametrize("arithmetic", list(Arithmetic))
@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [
        ("Log", -1.0, 2.0),
        ("Log", -3.0, -2.0),
        ("Sqrt", -1e-3, 2.0),
        ("Reciprocal", -1.0, 2.0),
        ("Reciprocal", 0.0, 2.0),
        ("Reciprocal", INF, INF),
        ("Sin", 0.0, INF),
        ("Cos", -INF, 1.0),
    ],
)
def test_nothing_is_claimed_where_a_value_is_undefined(
    name: str, lower: float, upper: float, arithmetic: Arithmetic
) -> None:
    box = Interval.bounds(torch.tensor([lower]), torch.tensor([upper]))
    bounds = operators()[name].rules.interval(call((-1,), arithmetic=arithmetic), box)
    assert bounds.lower.item() == -INF
    assert bounds.upper.item() == INF


@pytest.mark.parametrize("name", ["Log", "Sqrt", "Reciprocal"])
def test_flushing_is_paid_for(name: str) -> None:
    """An element below the normal range may be 0 or itself."""
    box = Interval.bounds(torch.tensor([1e-41]), torch.tensor([2e-40]))
    operator = operators()[name]
    bounds = operator.rules.interval(call((-1,), arithmetic=Arithmetic.FLOAT32), box)
    for point in (0.0, 1e-41, 2e-40):
        value = operator.rules.nominal(call((-1,)), torch.tensor([point], dtype=torch.float64))
        assert bounds.lower.double() <= value <= bounds.upper.double()


def test_an_exponential_that_overflows_has_a_finite_lower_bound() -> None:
    box = Interval.bounds(torch.tensor([90.0]), torch.tensor([91.0]))
    bounds = operators()["Exp"].rules.interval(call((-1,), arithmetic=Arithmetic.FLOAT32), box)
    assert 1e38 < bounds.lower.item() < INF
    assert bounds.upper.item() == INF
