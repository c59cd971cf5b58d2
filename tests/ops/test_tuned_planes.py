"""Tuned planes are sound for every choice of parameters, and at the start equal those of the relaxation."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops import operators
from ibpc.ops.rules import Call, Plane, Rules
from ibpc.rounding import Arithmetic

CHOICES = 7

CALLS = {
    "Relu": Call({}, ((-1, 6),), {}, (-1, 6), Arithmetic.REAL),
    **{
        name: Call({}, ((-1, 8, 8),), {}, (-1, 8, 8), Arithmetic.REAL)
        for name in ("Sigmoid", "Tanh", "Erf", "Softsign", "Atan", "Asinh")
    },
    **{
        f"{name}{form}": Call(attributes, ((-1, 8, 8),), {}, (-1, 8, 8), Arithmetic.REAL)
        for name, form, attributes in (
            *((name, "", {}) for name in ("Exp", "Log", "Sqrt", "Reciprocal", "Softplus", "Mish", "HardSwish")),
            *((name, "", {}) for name in ("Sinh", "Cosh", "Atanh")),
            *(("Elu", f" with {alpha}", {"alpha": alpha}) for alpha in (1.0, 0.5, 2.0, -1.0)),
            *(("Celu", f" with {alpha}", {"alpha": alpha}) for alpha in (1.0, -2.0)),
            *(("Swish", f" with {alpha}", {"alpha": alpha}) for alpha in (1.0, -0.7, 3.0)),
            ("Selu", "", {"alpha": 1.67, "gamma": 1.05}),
            ("Gelu", "", {"approximate": "none", "constants": "exact"}),
            ("Gelu", " by tanh", {"approximate": "tanh", "constants": "rounded"}),
        )
    },
    "Mul": Call({}, ((-1, 3, 4), (-1, 3, 4)), {}, (-1, 3, 4), Arithmetic.REAL),
    "Mul of one row for all": Call({}, ((-1, 3, 4), (-1, 1, 4)), {}, (-1, 3, 4), Arithmetic.REAL),
    "MatMul": Call({}, ((-1, 2, 3), (-1, 3, 4)), {}, (-1, 2, 4), Arithmetic.REAL),
    "MatMul of one matrix for all": Call({}, ((-1, 2, 2, 3), (-1, 1, 3, 4)), {}, (-1, 2, 2, 4), Arithmetic.REAL),
    "Softmax": Call({"axis": -1}, ((-1, 3, 5),), {}, (-1, 3, 5), Arithmetic.REAL),
    "Softmax along the first": Call({"axis": 1}, ((-1, 4, 2),), {}, (-1, 4, 2), Arithmetic.REAL),
}


POSITIVE = ("Log", "Sqrt", "Reciprocal")


def boxes_of(name: str, width: float) -> tuple[Interval, ...]:
    lowers = [2.0 * torch.randn(1, *shape[1:], dtype=torch.float64) for shape in CALLS[name].operands]
    if name in POSITIVE:
        lowers = [low.abs() + 0.05 for low in lowers]
    if name == "Atanh":
        lowers, width = [0.9 * torch.tanh(low) for low in lowers], 0.09 * width / 4.0
    return tuple(Interval.bounds(low, low + width * torch.rand_like(low)) for low in lowers)


def points_in(box: Interval, count: int) -> Tensor:
    """Random points, and as many corners."""
    share = torch.rand(count, *box.lower.shape[1:], dtype=torch.float64)
    return box.lower + torch.cat([share, share.round()]) * (box.upper - box.lower)


def test_every_operator_with_parameters_is_tried() -> None:
    assert {name.split()[0] for name in CALLS} == {n for n, o in operators().items() if o.rules.tuned is not None}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("width", [0.0, 0.3, 4.0])
def test_every_choice_bounds_the_function(name: str, width: float) -> None:
    torch.manual_seed(0)
    call, rules = CALLS[name], operators()[name.split(maxsplit=1)[0]].rules
    assert rules.tuned is not None
    assert rules.start is not None
    assert rules.relaxation is not None
    boxes = boxes_of(name, width)
    start = rules.start(call, *boxes)
    assert ((start >= 0) & (start <= 1)).all()
    ends = torch.randint(0, 2, (CHOICES, *start.shape)).double()
    choices = torch.cat([ends, torch.rand(CHOICES, *start.shape, dtype=torch.float64)])
    planes = rules.tuned(call, choices, rules.relaxation(call, *boxes), *boxes)
    points = [points_in(box, 400) for box in boxes]
    values = rules.nominal(call, *points)
    below, above = planes.lower(*points), planes.upper(*points)
    assert (2 * CHOICES, *values.shape) in (below.shape, above.shape) or torch.equal(below, above)
    assert (below <= values + 1e-9).all()
    assert (above >= values - 1e-9).all()


@pytest.mark.parametrize("width", [0.0, 0.3, 4.0])
def test_every_choice_bounds_a_square(width: float) -> None:
    torch.manual_seed(0)
    call, rules = CALLS["Mul"], operators()["Mul"].rules
    assert rules.tuned is not None and rules.start is not None and rules.relaxation is not None
    (box, _) = boxes_of("Mul", width)
    choices = torch.cat([torch.rand(CHOICES, 1, 2, 3, 4), torch.randint(0, 2, (CHOICES, 1, 2, 3, 4))]).double()
    planes, plain = (
        rules.tuned(call, choices, rules.relaxation(call, box, box), box, box),
        rules.relaxation(call, box, box),
    )
    x = points_in(box, 400)
    assert (planes.lower(x, x) <= x * x + 1e-9).all()
    assert (planes.upper(x, x) >= x * x - 1e-9).all()
    begun = rules.tuned(call, rules.start(call, box, box), plain, box, box)
    assert torch.allclose(begun.lower(x, x), plain.lower(x, x)) and torch.allclose(begun.upper(x, x), plain.upper(x, x))


def numbers(plane: Plane) -> list[Tensor]:
    return [*plane.slopes, plane.offset]


@pytest.mark.parametrize("name", CALLS)
def test_the_start_is_the_relaxation(name: str) -> None:
    torch.manual_seed(1)
    call, rules = CALLS[name], operators()[name.split(maxsplit=1)[0]].rules
    assert rules.tuned is not None
    assert rules.start is not None
    assert rules.relaxation is not None
    boxes = boxes_of(name, 2.0)
    plain = rules.relaxation(call, *boxes)
    tuned = rules.tuned(call, rules.start(call, *boxes), plain, *boxes)
    for one, other in ((tuned.lower, plain.lower), (tuned.upper, plain.upper)):
        for found, wanted in zip(numbers(one), numbers(other), strict=True):
            assert torch.allclose(found, wanted.expand_as(found), atol=1e-12)


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Erf", "Softsign", "Atan", "Asinh"])
@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (-1e300, 1.7e308), (-1.7e308, 0.5), (-0.5, 1e200)])
def test_tangents_hold_over_boxes_that_are_wider_than_any_number(name: str, ends: tuple[float, float]) -> None:
    """Where the width of a box overflows, 0 · ∞ would suggest that no tangent passes, and then chords are unsound."""
    rules, call = operators()[name].rules, Call({}, ((-1, 1),), {}, (-1, 1), Arithmetic.REAL)
    assert rules.tuned is not None and rules.relaxation is not None
    lower, upper = (torch.tensor([[end]], dtype=torch.float64) for end in ends)
    box = Interval.bounds(lower, upper)
    plain = rules.relaxation(call, box)
    half = torch.full((1, 1, 2, 1), 0.5, dtype=torch.float64)
    for planes in (plain, rules.tuned(call, half, plain, box)):
        for x in (torch.full_like(lower, point).clamp(lower, upper) for point in (-1e10, -1.0, 0.0, 1.0, 1e10)):
            value = rules.nominal(call, x)
            assert not bool((planes.lower(x) > value + 1e-9).any())
            assert not bool((planes.upper(x) < value - 1e-9).any())


def test_shares_of_one_are_the_second_planes_exactly() -> None:
    """u_y, not l_y + (u_y − l_y), which is 0 where l_y is so large that the difference loses u_y."""
    call, rules = CALLS["Mul"], operators()["Mul"].rules
    assert rules.tuned is not None and rules.relaxation is not None
    x, y = (
        Interval.bounds(torch.full((1, 3, 4), low, dtype=torch.float64), torch.full((1, 3, 4), high).double())
        for low, high in ((1.0, 2.0), (-1e30, -1e-3))
    )
    planes = rules.tuned(call, torch.ones(1, 1, 2, 3, 4, dtype=torch.float64), rules.relaxation(call, x, y), x, y)
    assert torch.equal(planes.lower.slopes[0].squeeze(0), y.upper)
    assert torch.equal(planes.upper.slopes[0].squeeze(0), y.lower)


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Erf", "Softsign", "Atan", "Asinh"])
@pytest.mark.parametrize("width", [0.3, 2.0, 9.0])
def test_the_start_of_an_s_leaves_the_least_area(name: str, width: float) -> None:
    """The area under a plane is its value in the middle times the width, and no other tangent is lower there."""
    torch.manual_seed(2)
    call, rules = CALLS[name], operators()[name].rules
    assert rules.tuned is not None and rules.relaxation is not None
    (box,) = boxes_of(name, width)
    plain, middle = rules.relaxation(call, box), 0.5 * box.lower + 0.5 * box.upper
    for share in torch.linspace(0.0, 1.0, 33, dtype=torch.float64):
        planes = rules.tuned(call, share.expand(1, 1, 2, 8, 8), plain, box)
        assert bool((plain.upper(middle) <= planes.upper(middle).squeeze(0) + 1e-4).all())
        assert bool((plain.lower(middle) >= planes.lower(middle).squeeze(0) - 1e-4).all())


@pytest.mark.parametrize("name", ["Swish with 1.0", "Swish with -0.7", "Gelu", "Mish"])
def test_lines_of_curves_hold_where_they_touch(name: str) -> None:
    """At the point where f′ is the slope to the last digit: the rule covers what its coarser search misses."""
    torch.manual_seed(3)
    call, operator = CALLS[name], operators()[name.split(maxsplit=1)[0]]
    rules = operator.rules
    assert rules.tuned is not None and rules.relaxation is not None
    turns = {"Swish with -0.7": 3.4276532579, "Gelu": 2.0**0.5, "Mish": 2.2563763964}.get(name, 2.3993572806)
    lower = -turns - 4.0 * torch.rand(1, 8, 8, dtype=torch.float64)
    box = Interval.bounds(lower, turns + 4.0 * torch.rand_like(lower))
    choices = torch.rand(40, 1, 2, 8, 8, dtype=torch.float64)
    planes = rules.tuned(call, choices, rules.relaxation(call, box), box)
    for plane, side in ((planes.lower, -1.0), (planes.upper, 1.0)):
        (slope,) = plane.slopes
        for start, end in ((box.lower, -turns), (-turns, turns), (turns, box.upper)):
            point = touching(rules, call, slope, start + torch.zeros_like(slope), end + torch.zeros_like(slope))
            beyond = side * (rules.nominal(call, point) - plane(point))
            assert float(beyond.max()) <= 1e-14


def touching(rules: Rules, call: Call, slope: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return where f′ crosses the slope between two points, by bisection to the last digit."""
    rising = slope_at(rules, call, start) > slope
    for _ in range(60):
        middle = 0.5 * start + 0.5 * end
        before = (slope_at(rules, call, middle) > slope) == rising
        start, end = torch.where(before, middle, start), torch.where(before, end, middle)
    return 0.5 * start + 0.5 * end


def slope_at(rules: Rules, call: Call, point: Tensor) -> Tensor:
    point = point.detach().requires_grad_()
    (slope,) = torch.autograd.grad(rules.nominal(call, point).sum(), point)
    return slope


@pytest.mark.parametrize(
    ("name", "ends", "points"),
    [
        ("Reciprocal", (1e160, 1e200), (1e160, 1e180, 1e200)),
        ("Gelu by tanh", (-1e155, -0.5), (-26.0, -3.0, -1.0)),
        ("Swish with 3.0", (-1.7e308, -1e-3), (-300.0, -1.0, -0.5)),
    ],
)
def test_where_a_derivative_is_no_number_nothing_is_claimed(
    name: str, ends: tuple[float, float], points: tuple[float, ...]
) -> None:
    """x² or 3 x overflows at an end of the box, or 1 / x² underflows inside it."""
    call, rules = CALLS[name], operators()[name.split(maxsplit=1)[0]].rules
    assert rules.tuned is not None and rules.relaxation is not None
    lower, upper = (torch.full((1, 8, 8), end, dtype=torch.float64) for end in ends)
    box = Interval.bounds(lower, upper)
    plain = rules.relaxation(call, box)
    for share in (0.0, 0.5, 1.0):
        planes = rules.tuned(call, torch.full((1, 1, 2, 8, 8), share, dtype=torch.float64), plain, box)
        for each in (plain, planes):
            for x in (torch.full_like(lower, point) for point in points):
                value = rules.nominal(call, x)
                assert not bool((each.lower(x) > value + 1e-9 * value.abs()).any())
                assert not bool((each.upper(x) < value - 1e-9 * value.abs()).any())


def test_gelu_is_within_its_planes_where_binary64_cancels() -> None:
    """1 + erf is computed as 0 there, while the exact value, −1.3 · 10⁻²⁹, is not 0; only the error term covers it."""
    call, rules = CALLS["Gelu"], operators()["Gelu"].rules
    assert rules.relaxation is not None
    for end in (-11.455571, -9.2, -8.4):
        lower = torch.full((1, 8, 8), end, dtype=torch.float64)
        planes = rules.relaxation(call, Interval.bounds(lower, lower + 2e-6))
        exact = mpmath.mpf(end) * mpmath.erfc(-mpmath.mpf(end) / mpmath.sqrt(2)) / 2
        assert mpmath.mpf(planes.lower(lower).max().item()) <= exact <= mpmath.mpf(planes.upper(lower).min().item())


@pytest.mark.parametrize("alpha", [0.0, 1e-40, -1e-40])
def test_a_sharpness_that_may_be_flushed_is_refused(alpha: float) -> None:
    assert list(operators()["Swish"].check_attributes({"alpha": alpha}))
    assert not list(operators()["Swish"].check_attributes({"alpha": 2.0**-126}))
