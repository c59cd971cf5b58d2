"""Ranges of elementary functions where the table's grid is too coarse or the function is undefined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import Checker
from tests.onnx_models import chain

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
    """Crests and troughs are found wherever the box lies, up to and beyond a whole turn."""
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
    """All values lie inside and both bounds are attained; they are infinite where NaN or a two-sided pole may occur."""
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
        ("Atanh", -1.0, 0.5),
        ("Atanh", 0.5, 1.0),
        ("Atanh", 0.5, 2.0),
        ("Atanh", -3.0, -2.0),
        ("Atanh", -INF, 0.0),
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


@pytest.mark.parametrize("name", ["Sinh", "Cosh"])
def test_a_sum_that_overflows_before_it_is_halved_is_not_excluded(name: str) -> None:
    """At 89 the result is a number of binary32, 2.2e38, but not the exponential that it is half of."""
    box = Interval.bounds(torch.tensor([88.0, 89.0, 90.0]), torch.tensor([88.5, 89.0, 91.0]))
    bounds = operators()[name].rules.interval(call((-1,), arithmetic=Arithmetic.FLOAT32), box)
    assert bounds.upper.isfinite().tolist() == [True, False, False]
    assert bounds.lower.isfinite().all()
    checker = Checker(chain((name,), start=[1, 3], constants={}))
    _, upper = checker.bound_rows([box.lower.double().numpy()], [box.upper.double().numpy()], np.eye(3), "float32")
    assert np.isfinite(upper).tolist() == [True, False, False]


def test_the_checker_claims_nothing_where_a_value_is_undefined() -> None:
    """Beyond −1 and 1 the inverse of the tangent is NaN, and so is the tangent of that."""
    lower, upper = np.array([0.5, -1.5, -3.0, 0.25]), np.array([2.0, 0.5, -2.0, 0.5])
    checker = Checker(chain(("Atanh",), ("Tanh",), start=[1, 4], constants={}))
    for arithmetic in ("real", "float32"):
        for end in checker.bound_rows([lower], [upper], np.eye(4), arithmetic):
            assert np.isfinite(end).tolist() == [False, False, False, True]


THRESHOLDS = [
    ("ThresholdedRelu", {"alpha": 0.5}),
    ("ThresholdedRelu", {"alpha": -0.5}),
    ("Shrink", {"lambd": 0.5, "bias": 0.0}),
    ("Shrink", {"lambd": 0.25, "bias": 1.5}),
    ("Shrink", {"lambd": 0.75, "bias": -0.5}),
    ("Shrink", {"lambd": 0.0, "bias": 0.25}),
]


@pytest.mark.parametrize(("name", "attributes"), THRESHOLDS)
def test_jumps_are_exact_up_to_limits(name: str, attributes: dict[str, float]) -> None:
    """Points just beside the jumps attain the bounds, and boxes that end at a jump exclude its far side."""
    operator, box = operators()[name], boxes(2000, 1.5, 2.0)
    jumps = [attributes["alpha"]] if name == "ThresholdedRelu" else [attributes["lambd"], -attributes["lambd"]]
    lower, upper = box.lower.clone(), box.upper.clone()
    for number, jump in enumerate(jumps):
        lower[40 * number : 40 * number + 20] = jump
        upper[40 * number : 40 * number + 20] = jump + torch.linspace(0.0, 0.5, 20, dtype=torch.float64)
        upper[40 * number + 20 : 40 * number + 40] = jump
        lower[40 * number + 20 : 40 * number + 40] = jump - torch.linspace(0.0, 0.5, 20, dtype=torch.float64)
    box = Interval.bounds(lower, upper)
    beside = [torch.full_like(lower, jump + step) for jump in jumps for step in (-1e-12, 0.0, 1e-12)]
    points = torch.cat([grid(box), torch.stack(beside).clamp(lower, upper)])
    values = operator.rules.nominal(call((-1,), **attributes), points)
    bounds = operator.rules.interval(call((-1,), **attributes), box)
    assert torch.allclose(bounds.lower, values.amin(0), rtol=0.0, atol=1e-11)
    assert torch.allclose(bounds.upper, values.amax(0), rtol=0.0, atol=1e-11)
    assert (bounds.lower <= values.amin(0)).all()
    assert (bounds.upper >= values.amax(0)).all()


@pytest.mark.parametrize("alpha", [0.1, -0.1, 1e-42])
def test_a_threshold_that_binary32_lacks_is_rounded_either_way(alpha: float) -> None:
    """An x just above the threshold may be taken to be below it, and vice versa."""
    operator = operators()["ThresholdedRelu"]
    near = torch.tensor([alpha], dtype=torch.float32)
    for x in (near, torch.nextafter(near, near + 1), torch.nextafter(near, near - 1)):
        box = Interval.bounds(x, x)
        bounds = operator.rules.interval(call((-1,), arithmetic=Arithmetic.FLOAT32, alpha=alpha), box)
        for value in (
            operator.rules.nominal(call((-1,), alpha=alpha), x.double()),
            torch.where(x > near, x, torch.zeros_like(x)),
        ):
            assert (bounds.lower.double() <= value.double()).all()
            assert (bounds.upper.double() >= value.double()).all()


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Gelu", {"approximate": "none", "constants": "exact"}),
        ("Gelu", {"approximate": "tanh", "constants": "exact"}),
        ("Gelu", {"approximate": "tanh", "constants": "rounded"}),
        ("Mish", {}),
        ("HardSwish", {}),
        ("Swish", {"alpha": 1.0}),
        ("Swish", {"alpha": -2.5}),
    ],
)
def test_the_least_value_is_found_and_planes_are_close(name: str, attributes: dict[str, float]) -> None:
    operator, box = operators()[name], boxes(2000, 8.0, 6.0)
    here = call((-1,), **attributes)
    points = grid(box)
    values, bounds = operator.rules.nominal(here, points), operator.rules.interval(here, box)
    for found, reached in ((bounds.lower, values.amin(0)), (-bounds.upper, -values.amax(0))):
        assert (found <= reached + 1e-12).all()
        assert (found >= reached - 1e-5).all()
    assert operator.rules.relaxation is not None
    planes = operator.rules.relaxation(here, box)
    above, below = planes.upper(points) - values, values - planes.lower(points)
    for gap in (above, below):
        assert (gap >= -1e-9).all()
        assert (gap.amin(0) <= 1e-4).all(), "the plane touches nowhere"
