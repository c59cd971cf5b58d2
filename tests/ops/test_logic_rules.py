"""Operators with jumps beyond the table: all small boxes enumerated, and flushing in binary32."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ibpc.interval import Interval
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic

GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)
BOXES = tuple((low, high) for low in GRID for high in GRID if low <= high)
TINY = 2.0**-130


def call_of(name, attributes=None, operands=((BATCH,),), arithmetic=Arithmetic.REAL):
    """Return the call of an operator on operands of these shapes."""
    record = operators()[name]
    complete = record.complete(attributes or {})
    return Call(complete, operands, {}, record.infer_shape(complete, operands, {}), arithmetic)


def bounds(name, call, *operands, **parameters):
    box = operators()[name].rules.interval(call, *operands, **parameters)
    return box.lower, box.upper


def grid_points(low, high):
    """Return the points of the grid in [low, high]; it includes halves, so it covers every case of two grid boxes."""
    return [value for value in GRID if low <= value <= high]


# ── comparisons and logic: the box of every pair of boxes is exactly the range over the grid ────────────────────
@pytest.mark.parametrize("name", ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor"])
def test_verdicts_are_the_range_over_all_points(name):
    pairs = list(product(BOXES, BOXES))
    x, y = (Interval.bounds(*(torch.tensor([pair[side][end] for pair in pairs]) for end in (0, 1))) for side in (0, 1))
    call = call_of(name, operands=((BATCH,), (BATCH,)))
    lower, upper = bounds(name, call, x, y)
    nominal = operators()[name].rules.nominal
    for index, (first, second) in enumerate(pairs):
        points = list(product(grid_points(*first), grid_points(*second)))
        values = nominal(call, *(torch.tensor([point[side] for point in points]) for side in (0, 1)))
        assert (float(lower[index]), float(upper[index])) == (float(values.min()), float(values.max())), (first, second)


def test_a_point_equals_only_itself():
    call = call_of("Equal", operands=((BATCH,), (1,)))
    x = Interval.bounds(torch.tensor([1.0, 1.0, 0.5]), torch.tensor([1.0, 1.5, 0.75]))
    lower, upper = bounds("Equal", call, x, torch.tensor([1.0]))
    assert lower.tolist() == [1.0, 0.0, 0.0]
    assert upper.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor"])
def test_nan_bounds_decide_nothing(name):
    call = call_of(name, operands=((BATCH,), (BATCH,)))
    unknown = Interval.bounds(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
    lower, upper = bounds(name, call, unknown, unknown)
    assert (float(lower), float(upper)) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["Sign", "Cast", "Not"])
def test_what_may_be_flushed_to_zero_counts_as_zero_in_binary32(name):
    attributes = {"to": "bool"} if name == "Cast" else {}
    x = Interval.bounds(torch.tensor([TINY, -TINY, 1.0]), torch.tensor([TINY, -TINY, 1.0]))
    exact = bounds(name, call_of(name, attributes), x)
    assert torch.equal(*exact)
    lower, upper = bounds(name, call_of(name, attributes, arithmetic=Arithmetic.FLOAT32), x)
    at_zero = operators()[name].rules.nominal(call_of(name, attributes), torch.zeros(3))
    assert ((lower <= at_zero) & (at_zero <= upper))[:2].all()
    assert float(lower[2]) == float(upper[2]) == float(exact[0][2])


def test_comparisons_of_what_may_be_flushed_are_open_in_binary32():
    call = call_of("Greater", operands=((BATCH,), (1,)), arithmetic=Arithmetic.FLOAT32)
    x = Interval.bounds(torch.tensor([2 * TINY]), torch.tensor([2 * TINY]))
    lower, upper = bounds("Greater", call, x, torch.tensor([TINY]))
    assert (float(lower), float(upper)) == (0.0, 1.0)


def test_rounding_down_what_may_be_flushed_may_give_zero():
    call = call_of("Floor", arithmetic=Arithmetic.FLOAT32)
    lower, upper = bounds("Floor", call, Interval.bounds(torch.tensor([-TINY]), torch.tensor([-TINY])))
    assert (float(lower), float(upper)) == (-1.0, 0.0)


# ── selection ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_where_is_the_hull_only_where_it_is_open():
    call = call_of("Where", operands=((BATCH, 3), (BATCH, 3), (3,)))
    condition = Interval.bounds(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]]))
    x = Interval.bounds(torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[2.0, 2.0, 2.0]]))
    lower, upper = bounds("Where", call, condition, x, torch.tensor([-1.0, -1.0, -1.0]))
    assert lower.tolist() == [[1.0, -1.0, -1.0]]
    assert upper.tolist() == [[2.0, -1.0, 2.0]]


# ── indices: all boxes of three elements over a grid of three values, ties included ─────────────────────────────
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
def test_indices_are_the_range_over_all_points(name, last):
    grid = (0.0, 1.0, 2.0)
    sides = [(low, high) for low in grid for high in grid if low <= high]
    boxes = torch.tensor(list(product(sides, repeat=3)))
    call = call_of(name, {"axis": 1, "select_last_index": last, "keepdims": False}, ((BATCH, 3),))
    lower, upper = bounds(name, call, Interval.bounds(boxes[..., 0], boxes[..., 1]))
    points = torch.tensor(list(product(grid, repeat=3)))
    values = operators()[name].rules.nominal(call, points)
    inside = ((boxes[:, None, :, 0] <= points) & (points <= boxes[:, None, :, 1])).all(-1)
    least = torch.where(inside, values, torch.inf).amin(1)
    most = torch.where(inside, values, -torch.inf).amax(1)
    assert torch.equal(lower, least)
    assert torch.equal(upper, most)


def test_the_first_and_the_last_of_ties():
    x = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    for last, expected in ((False, 1.0), (True, 2.0)):
        call = call_of("ArgMax", {"axis": 1, "select_last_index": last, "keepdims": False}, ((BATCH, 4),))
        assert operators()["ArgMax"].rules.nominal(call, x).tolist() == [expected]


def test_a_nan_bound_leaves_an_index_open():
    call = call_of("ArgMax", {"axis": 1, "keepdims": False}, ((BATCH, 3),))
    x = Interval.bounds(torch.tensor([[0.0, 1.0, torch.nan]]), torch.tensor([[0.5, 2.0, torch.nan]]))
    lower, upper = bounds("ArgMax", call, x)
    assert (float(lower), float(upper)) == (1.0, 2.0)


@pytest.mark.parametrize("axis", [1, 2])
def test_one_hot_entries_are_the_range_over_all_indices(axis):
    call = call_of("OneHot", {"axis": axis, "depth": 3, "on": 5.0, "off": -1.0}, ((BATCH, 1),))
    sides = [(float(low), float(high)) for low in range(-3, 5) for high in range(low, 5)]
    x = Interval.bounds(*(torch.tensor([[side[end]] for side in sides]) for end in (0, 1)))
    lower, upper = bounds("OneHot", call, x)
    nominal = operators()["OneHot"].rules.nominal
    for index, (low, high) in enumerate(sides):
        values = nominal(call, torch.arange(low, high + 1)[:, None])
        assert torch.equal(lower[index], values.amin(0)), (low, high)
        assert torch.equal(upper[index], values.amax(0)), (low, high)


@pytest.mark.parametrize("largest", [True, False])
def test_the_kth_element_rises_with_every_element(largest):
    call = call_of("TopK", {"axis": 1, "k": 2, "largest": largest}, ((BATCH, 3),))
    x = Interval.bounds(torch.tensor([[0.0, 1.0, torch.nan]]), torch.tensor([[0.5, 2.0, torch.nan]]))
    lower, upper = bounds("TopK", call, x)
    assert lower.tolist() == ([[1.0, 0.0]] if largest else [[-torch.inf, 0.0]])
    assert upper.tolist() == ([[torch.inf, 2.0]] if largest else [[0.5, 2.0]])


# ── remainders ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("fmod", [True, False])
@pytest.mark.parametrize("divisor", [0.75, -2.0, 3.0])
def test_remainders_are_the_range_over_all_points(fmod, divisor):
    """The supremum beside a jump is attained by no point; the grid comes within its step."""
    step = 2.0**-6
    grid = torch.arange(-256, 257) * step
    sides = [(low / 8, high / 8) for low in range(-30, 30, 3) for high in range(low, 31, 2)]
    call = call_of("Mod", {"fmod": fmod}, ((BATCH,), (1,)))
    x = Interval.bounds(*(torch.tensor([side[end] for side in sides]) for end in (0, 1)))
    lower, upper = bounds("Mod", call, x, torch.tensor([divisor]))
    for index, (low, high) in enumerate(sides):
        values = operators()["Mod"].rules.nominal(call, grid[(low <= grid) & (grid <= high)], torch.tensor([divisor]))
        assert float(values.min()) - step <= float(lower[index]) <= float(values.min()), (low, high)
        assert float(values.max()) <= float(upper[index]) <= float(values.max()) + step, (low, high)


def test_a_divisor_that_may_be_zero_says_nothing():
    call = call_of("Mod", {}, ((BATCH,), (BATCH,)))
    x = Interval.bounds(torch.ones(1), torch.ones(1))
    lower, upper = bounds("Mod", call, x, Interval.bounds(-torch.ones(1), torch.ones(1)))
    assert (float(lower), float(upper)) == (-torch.inf, torch.inf)


# ── what is no number ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["IsNaN", "IsInf"])
def test_only_finite_bounds_exclude_what_is_no_number(name):
    inf, nan = torch.inf, torch.nan
    x = Interval.bounds(torch.tensor([0.0, -inf, 0.0, nan, inf]), torch.tensor([1.0, 0.0, inf, nan, inf]))
    lower, upper = bounds(name, call_of(name), x)
    assert lower.tolist() == [0.0] * 5
    assert upper.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_only_the_infinities_that_are_looked_for_count():
    inf = torch.inf
    x = torch.tensor([-inf, 0.0, inf, torch.nan])
    for attributes, expected in (
        ({}, [1.0, 0.0, 1.0, 0.0]),
        ({"detect_negative": False}, [0.0, 0.0, 1.0, 0.0]),
        ({"detect_positive": False}, [1.0, 0.0, 0.0, 0.0]),
    ):
        assert operators()["IsInf"].rules.nominal(call_of("IsInf", attributes), x).tolist() == expected


# ── casts ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_cast_beyond_the_range_may_give_anything_in_it():
    call = call_of("Cast", {"to": "int32"}, arithmetic=Arithmetic.FLOAT32)
    x = Interval.bounds(torch.tensor([-3.5, 2.0**31, -(2.0**32)]), torch.tensor([7.5, 2.0**31, 0.0]))
    lower, upper = bounds("Cast", call, x)
    assert lower.tolist() == [-3.0, -(2.0**31), -(2.0**31)]
    assert upper.tolist() == [7.0, 2.0**31, 2.0**31]


def test_a_cast_rounds_toward_zero():
    call = call_of("Cast", {"to": "int8"})
    x = torch.tensor([-1.75, -0.5, 0.5, 1.75, 127.9])
    assert operators()["Cast"].rules.nominal(call, x).tolist() == [-1.0, 0.0, 0.0, 1.0, 127.0]


# ── quantization ────────────────────────────────────────────────────────────────────────────────────────────────
def test_quotients_near_a_half_are_open_in_binary32():
    """In binary32 numbers 0.35 / 0.1 exceeds 3.5, and the product with the rounded inverse is exactly 3.5."""
    scale, zero_point = torch.tensor(0.1), torch.tensor(0.0)
    x = torch.tensor([0.35])
    record = operators()["QuantizeLinear"]
    call = Call({"axis": None, "type": "int8"}, ((BATCH,),), {"scale": (), "zero_point": ()}, (BATCH,))
    strict = Call(call.attributes, call.operands, call.parameters, call.output, Arithmetic.FLOAT32)
    box = record.rules.interval(strict, Interval.bounds(x, x), scale=scale, zero_point=zero_point)
    ways = [torch.round(x / scale), torch.round(x * (1.0 / scale)), torch.round(x.double() / scale.double())]
    assert all(float(box.lower) <= float(way) <= float(box.upper) for way in ways)
    assert (float(box.lower), float(box.upper)) == (3.0, 4.0)
