"""The bounds of standardization against brute force: all corners and all stationary levels."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops._standardization import MOST_ENUMERATED
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic

OPERATOR = operators()["LayerNormalization"]


def call_of(size: int, epsilon: float, arithmetic: Arithmetic = Arithmetic.REAL) -> Call:
    shape = (BATCH, size)
    return Call({"axis": -1, "epsilon": epsilon}, (shape,), {}, shape, arithmetic)


def boxes(size: int, width: float, count: int = 40, seed: int = 0) -> Interval:
    """Boxes around normally distributed numbers, some of them points, some equal."""
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(count, size, generator=generator).double()
    upper = lower + width * torch.rand(count, size, generator=generator)
    kind = torch.rand(count, size, generator=generator)
    upper = torch.where(kind < 0.1, lower, upper)
    chosen = kind > 0.9
    lower, upper = torch.where(chosen, lower[:, :1], lower), torch.where(chosen, lower[:, :1] + width, upper)
    return Interval.bounds(lower, upper)


def corners(x: Interval) -> Tensor:
    """All corners, (corners, boxes, elements)."""
    sides = torch.tensor(list(product((False, True), repeat=x.lower.shape[1])))
    return torch.where(sides.unsqueeze(1), x.upper, x.lower)


def reached(call: Call, x: Interval) -> Tensor:
    """The greatest value of each element that a corner or a stationary level attains."""
    best = OPERATOR.rules.nominal(call, corners(x)).amax(0)
    size = x.lower.shape[1]
    ends = torch.cat([x.lower, x.upper], 1).sort(1).values
    middles = (ends[:, 1:] + ends[:, :-1]) / 2
    middles = torch.cat([ends[:, :1] - 1, middles, ends[:, -1:] + 1], 1)
    for element in range(size):
        own, others = x.upper[:, element], torch.arange(size) != element
        for level in middles.T:
            above, below = x.lower > level[:, None], x.upper < level[:, None]
            apart = own[:, None] - torch.where(above, x.lower, x.upper)
            held = (above | below) & others
            total, squares = (apart * held).sum(1), (apart * apart * held).sum(1)
            stationary = own - (squares + size * call["epsilon"]) / total
            stationary = torch.where(stationary.isfinite(), stationary, level)
            point = torch.minimum(torch.maximum(stationary[:, None].expand_as(x.lower), x.lower), x.upper).clone()
            point[:, element] = own
            value = OPERATOR.rules.nominal(call, point)[:, element]
            best[:, element] = torch.maximum(best[:, element], value)
    return best


@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
@pytest.mark.parametrize("width", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("size", [2, 3, 5, MOST_ENUMERATED])
def test_bounds_of_few_elements_are_exact(size: int, width: float, epsilon: float) -> None:
    call, x = call_of(size, epsilon), boxes(size, width)
    box = OPERATOR.rules.interval(call, x)
    torch.testing.assert_close(box.upper, reached(call, x), rtol=0, atol=1e-10)
    mirrored = Interval.bounds(-x.upper, -x.lower)
    torch.testing.assert_close(box.lower, -reached(call, mirrored), rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [0.01, 0.3, 3.0])
def test_bounds_of_many_elements_are_as_near_as_stated(width: float) -> None:
    """V² is within w² / (4 N² A) on the side of the mean, and exact on the other."""
    size, epsilon = MOST_ENUMERATED + 2, 1e-3
    others = size - 1
    call, x = call_of(size, epsilon), boxes(size, width, 20)
    bound, exact = OPERATOR.rules.interval(call, x).upper, reached(call, x)
    assert (bound >= exact - 1e-12).all()
    positive = exact > 1e-9
    torch.testing.assert_close(bound[positive], exact[positive], rtol=0, atol=1e-10)
    squares = [size * value.square() / (others * (1 + value.square())) for value in (exact, bound)]
    apart = Interval.bounds(x.upper.unsqueeze(2) - x.upper.unsqueeze(1), x.upper.unsqueeze(2) - x.lower.unsqueeze(1))
    nearest = torch.relu(torch.maximum(apart.lower, -apart.upper)).square()
    nearest = nearest * (1 - torch.eye(size).double())
    least = (nearest.sum(2) + size * epsilon) / others
    widest = (x.upper - x.lower).amax(1, keepdim=True)
    gap = widest.square() / (4 * others**2 * least)
    negative = exact < -1e-9
    assert (squares[0] - squares[1] <= gap + 1e-10)[negative].all()


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("size", [3, 40, 700])
def test_binary32_bounds_hold_what_binary32_computes(size: int, offset: float) -> None:
    """In two passes and in one, also with a mean far from 0; and they are near those of real arithmetic."""
    double = boxes(size, 0.1, 10, seed=size)
    single = Interval.bounds((double.lower + offset).float(), (double.upper + offset).float())
    call = call_of(size, 1e-3, Arithmetic.FLOAT32)
    box = OPERATOR.rules.interval(call, single)
    real = OPERATOR.rules.interval(call_of(size, 1e-3), Interval.bounds(single.lower.double(), single.upper.double()))
    assert (box.lower <= real.lower).all()
    assert (box.upper >= real.upper).all()
    if offset == 0.0:
        assert (box.upper - real.upper).max() < 1e-2
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        share = torch.rand(single.lower.shape, generator=generator).round()
        point = torch.where(share > 0, single.upper, single.lower)
        mean = point.mean(1, keepdim=True)
        deviation = ((point * point).mean(1, keepdim=True) - mean * mean + 1e-3).sqrt()
        for value in (OPERATOR.rules.nominal(call, point), (point - mean) / deviation):
            unknown = box.lower.isinf() & box.upper.isinf()
            assert (((box.lower <= value) & (value <= box.upper)) | unknown).all()


def test_a_large_group_is_bounded_in_memory_of_its_size() -> None:
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(1, 20000, generator=generator).double()
    box = OPERATOR.rules.interval(call_of(20000, 1e-5), Interval.bounds(point - 0.01, point + 0.01))
    assert (box.upper - box.lower).max() < 0.2
    value = OPERATOR.rules.nominal(call_of(20000, 1e-5), point)
    assert ((box.lower <= value) & (value <= box.upper)).all()


def test_constant_groups_and_values_that_are_no_numbers() -> None:
    call = call_of(12, 1e-5)
    same = torch.full((1, 12), 3.0)
    box = OPERATOR.rules.interval(call, Interval.bounds(same, same))
    torch.testing.assert_close(box.lower, torch.zeros(1, 12))
    torch.testing.assert_close(box.upper, torch.zeros(1, 12))
    for wrong in (torch.nan, torch.inf):
        upper = same.clone()
        upper[0, 3] = wrong
        assert not OPERATOR.rules.interval(call, Interval.bounds(same, upper)).upper.isfinite().any()
