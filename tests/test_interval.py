"""Interval and Paired: which form a box is kept in, and what the constructors promise."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibpc.errors import IbpcError, UsageError
from ibpc.interval import Interval, Paired
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic

LOWER = torch.tensor([[-1.0, 0.0, 2.0]])
UPPER = torch.tensor([[3.0, 0.0, 4.0]])
CENTER = torch.tensor([[1.0, 0.0, 3.0]])
RADIUS = torch.tensor([[2.0, 0.0, 1.0]])


class TestForms:
    def test_bounds_give_center_and_radius(self) -> None:
        box = Interval.bounds(LOWER, UPPER)
        assert torch.equal(box.center, CENTER)
        assert torch.equal(box.radius, RADIUS)

    def test_center_and_radius_give_bounds(self) -> None:
        box = Interval.around(CENTER, RADIUS)
        assert torch.equal(box.lower, LOWER)
        assert torch.equal(box.upper, UPPER)

    def test_what_the_producer_gave_is_returned_as_it_is(self) -> None:
        box = Interval.bounds(LOWER, UPPER)
        assert box.lower is LOWER
        assert box.upper is UPPER
        box = Interval.around(CENTER, RADIUS)
        assert box.center is CENTER
        assert box.radius is RADIUS

    def test_a_derived_form_is_computed_once(self) -> None:
        box = Interval.bounds(LOWER, UPPER)
        assert box.center is box.center
        assert box.radius is box.radius
        box = Interval.around(CENTER, RADIUS)
        assert box.lower is box.lower
        assert box.upper is box.upper

    def test_the_form_stays_that_of_the_producer(self) -> None:
        made_of_bounds, made_of_center = Interval.bounds(LOWER, UPPER), Interval.around(CENTER, RADIUS)
        assert not made_of_bounds.is_centered
        assert made_of_center.is_centered
        _ = made_of_bounds.center, made_of_center.lower
        assert not made_of_bounds.is_centered
        assert made_of_center.is_centered
        assert "lower/upper" in repr(made_of_bounds)
        assert "center/radius" in repr(made_of_center)

    def test_proxies_get_a_conversion_only_where_it_is_asked_for(self) -> None:
        def emitted(form: str) -> list[str]:
            graph = torch.fx.Graph()
            tracer = torch.fx.proxy.GraphAppendingTracer(graph)
            lower, upper = (cast(torch.Tensor, torch.fx.Proxy(graph.placeholder(name), tracer)) for name in "lu")
            box = Interval.bounds(lower, upper)
            for _ in range(2):
                getattr(box, form)
            return [node.name for node in graph.nodes if node.op != "placeholder"]

        assert emitted("lower") == emitted("upper") == []
        assert len(emitted("center")) == 1
        assert len(emitted("width")) == 2

    def test_the_width_is_that_of_the_bounds(self) -> None:
        assert torch.equal(Interval.around(CENTER, RADIUS).width, torch.tensor([[4.0, 0.0, 2.0]]))

    def test_a_point_has_no_width_and_is_exact(self) -> None:
        x = torch.tensor([0.1, -0.3])
        box = Interval.point(x)
        assert box.lower is x
        assert box.upper is x
        assert box.center is x
        assert torch.equal(box.radius, torch.zeros(2))

    @pytest.mark.parametrize("value", [3e38, -3e38, 1e-45, 0.1])
    def test_the_center_of_a_point_given_by_bounds_is_the_point(self, value: float) -> None:
        x = torch.tensor([value])
        assert torch.equal(Interval.bounds(x, x).center, x)


class TestContains:
    def test_bounds_belong_to_the_box(self) -> None:
        box = Interval.bounds(LOWER, UPPER)
        assert box.contains(LOWER).all()
        assert box.contains(UPPER).all()

    def test_nothing_beyond_them_does(self) -> None:
        box = Interval.bounds(LOWER, UPPER)
        assert not box.contains(torch.nextafter(LOWER, torch.tensor(-torch.inf))).any()
        assert not box.contains(torch.nextafter(UPPER, torch.tensor(torch.inf))).any()

    def test_nan_never_does(self) -> None:
        nan = torch.full_like(LOWER, torch.nan)
        assert not Interval.bounds(LOWER, UPPER).contains(nan).any()
        assert not Interval.bounds(nan, UPPER).contains(LOWER).any()
        assert not Interval.bounds(LOWER, nan).contains(LOWER).any()


class TestBall:
    def test_one_radius_for_all(self) -> None:
        box = Interval.ball(torch.tensor([0.5, 0.25]), 0.125)
        assert torch.equal(box.lower, torch.tensor([0.375, 0.125]))
        assert torch.equal(box.upper, torch.tensor([0.625, 0.375]))

    def test_a_radius_of_its_own_per_feature_broadcasts(self) -> None:
        box = Interval.ball(torch.zeros(2, 2), torch.tensor([0.5, 2.0]))
        assert torch.equal(box.upper, torch.tensor([[0.5, 2.0], [0.5, 2.0]]))

    def test_clip_intersects_with_the_range(self) -> None:
        box = Interval.ball(torch.tensor([0.0, 0.5, 1.0]), 0.25, clip=(0.0, 1.0))
        assert torch.equal(box.lower, torch.tensor([0.0, 0.25, 0.75]))
        assert torch.equal(box.upper, torch.tensor([0.25, 0.75, 1.0]))

    def test_radius_zero_is_the_point(self) -> None:
        x = torch.tensor([0.1, 0.7])
        box = Interval.ball(x, 0)
        assert torch.equal(box.lower, x)
        assert torch.equal(box.upper, x)

    @pytest.mark.parametrize("eps", [-1e-9, -1, float("nan")])
    def test_a_negative_radius_is_refused(self, eps: float) -> None:
        with pytest.raises(UsageError) as caught:
            Interval.ball(torch.zeros(2), eps)
        (problem,) = caught.value.problems
        assert problem.where == "eps"
        assert str(eps) in problem.found
        assert problem.expected
        assert isinstance(caught.value, IbpcError)

    @pytest.mark.parametrize("eps", [-1e-9, float("nan")])
    def test_a_negative_radius_among_others_is_refused(self, eps: float) -> None:
        with pytest.raises(UsageError):
            Interval.ball(torch.zeros(2), torch.tensor([0.1, eps]))

    @given(st.floats(-1, 2), st.floats(0, 1))
    def test_a_clipped_ball_lies_in_range_and_is_no_larger(self, x: float, eps: float) -> None:
        point = torch.tensor([x], dtype=torch.float64)
        box, free = Interval.ball(point, eps, clip=(0.0, 1.0)), Interval.ball(point, eps)
        assert box.lower >= 0.0
        assert box.upper <= 1.0
        if 0.0 <= x <= 1.0:
            assert box.contains(point)
            assert free.lower <= box.lower <= box.upper <= free.upper


class TestPaired:
    def test_a_stack_holds_the_nominal_value_then_the_center(self) -> None:
        nominal = torch.tensor([[9.0, 8.0, 7.0]])
        pair = Paired.separate(nominal, Interval.bounds(LOWER, UPPER))
        assert not pair.is_stacked
        assert torch.equal(pair.stack, torch.cat([nominal, CENTER]))

    def test_halves_come_back_apart(self) -> None:
        nominal = torch.tensor([[9.0, 8.0, 7.0]])
        pair = Paired.stacked(torch.cat([nominal, CENTER]), RADIUS)
        assert pair.is_stacked
        assert torch.equal(pair.nominal, nominal)
        assert torch.equal(pair.interval.center, CENTER)
        assert pair.interval.radius is RADIUS
        assert torch.equal(pair.interval.lower, LOWER)

    def test_parts_and_stacks_are_kept(self) -> None:
        pair = Paired.stacked(torch.cat([CENTER, CENTER]), RADIUS)
        assert pair.nominal is pair.nominal
        assert pair.interval is pair.interval
        pair = Paired.separate(CENTER, Interval.around(CENTER, RADIUS))
        assert pair.stack is pair.stack


def test_a_promise_of_no_negative_saves_passes_and_changes_next_to_nothing() -> None:
    """A convolution in binary32 behind a Relu, and behind the same box without the promise."""
    conv, relu = operators()["Conv"], operators()["Relu"]
    x = torch.randn(3, 2, 6, 6)
    call = Call({}, ((BATCH, 2, 6, 6),), {}, (BATCH, 2, 6, 6), Arithmetic.FLOAT32)
    promised = relu.rules.interval(call, Interval.bounds(x - 0.3, x + 0.3))
    plain = Interval.bounds(promised.lower, promised.upper)
    assert promised.modulus is promised.center
    assert bool((promised.lower >= 0).all())
    torch.testing.assert_close(promised.modulus, plain.modulus, rtol=0, atol=0)
    torch.testing.assert_close(Interval.bounds(x - 0.3, x + 0.3).modulus, x.abs())
    weight = torch.randn(4, 2, 3, 3)
    attributes = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 1}
    shapes = {"weight": tuple(weight.shape)}
    behind = Call(attributes, (call.output,), shapes, (BATCH, 4, 6, 6), Arithmetic.FLOAT32)
    first, second = (conv.rules.interval(behind, box, weight=weight) for box in (promised, plain))
    torch.testing.assert_close(first.lower, second.lower, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first.upper, second.upper, rtol=1e-6, atol=1e-6)


def test_a_scaled_radius_is_a_radius() -> None:
    for share, scale in ((RADIUS * 4.0, 0.25), (RADIUS * -4.0, -0.25)):
        box = Interval.scaled(CENTER, share, scale)
        assert box.is_centered
        assert torch.equal(box.lower, LOWER)
        assert torch.equal(box.upper, UPPER)
        assert torch.equal(box.radius, RADIUS)


@pytest.mark.parametrize("name", ["Flatten", "Transpose", "Slice"])
def test_copies_of_numbers_that_are_not_below_zero_are_not_either(name: str) -> None:
    attributes = {
        "Flatten": {},
        "Transpose": {"perm": [0, 2, 1]},
        "Slice": {"starts": [0], "ends": [1], "axes": [1], "steps": [1]},
    }[name]
    call = Call(attributes, ((BATCH, 2, 3),), {}, (BATCH, 6))
    x = torch.rand(2, 2, 3)
    rule = operators()[name].rules.interval
    assert rule(call, Interval.nonnegative(x, x + 1.0)).is_nonnegative
    assert not rule(call, Interval.bounds(x, x + 1.0)).is_nonnegative


def test_padding_with_a_number_below_zero_breaks_the_promise() -> None:
    call = Call({"pads": [0, 0, 0, 1], "value": -1.0, "mode": "constant"}, ((BATCH, 2),), {}, (BATCH, 3))
    x = torch.rand(2, 2)
    assert not operators()["Pad"].rules.interval(call, Interval.nonnegative(x, x + 1.0)).is_nonnegative


def test_map_acts_on_both_ends() -> None:
    box = Interval.around(CENTER, RADIUS).map(torch.exp)
    assert not box.is_centered
    assert torch.equal(box.lower, LOWER.exp())
    assert torch.equal(box.upper, UPPER.exp())


def test_the_nearest_point_lies_inside_and_leaves_nan() -> None:
    box = Interval.bounds(torch.tensor([-1.0, -1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 3.0, torch.nan]))
    nearest = box.nearest(torch.tensor([5.0, torch.nan, 2.5, 0.0]))
    assert torch.equal(nearest.isnan(), torch.tensor([False, True, False, True]))
    assert torch.equal(nearest[[0, 2]], torch.tensor([1.0, 2.5]))
