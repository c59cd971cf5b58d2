"""Exactness of reductions, norms and pools: brute force over the corners and zeros of small boxes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from ibpc.interval import Interval
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops.base import Call
from ibpc.rounding import Arithmetic

Tensor = torch.Tensor


def call_of(name: str, shape: tuple[int, ...], **attributes: object) -> Call:
    operator = operators()[name]
    complete = operator.complete(attributes)
    operands = ((BATCH, *shape),)
    return Call(complete, operands, {}, operator.infer_shape(complete, operands, {}))


def boxes(count: int, size: int, low: float = -2.0, seed: int = 0) -> Interval:
    """Random boxes, some of them points, some symmetric, some touching zero."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (low + (2.0 - low) * torch.rand(count, size, generator=generator).double() for _ in range(2))
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    kind = torch.rand(count, size, generator=generator)
    upper = torch.where(kind < 0.1, lower, upper)
    if low < 0:
        lower = torch.where((kind > 0.1) & (kind < 0.2), -upper.abs(), lower)
        upper = torch.where((kind > 0.1) & (kind < 0.2), upper.abs(), upper)
        lower = torch.where((kind > 0.2) & (kind < 0.3) & (upper > 0), 0.0, lower)
    return Interval.bounds(lower, upper)


def extremes(name: str, call: Call, x: Interval) -> tuple[Tensor, Tensor]:
    """The least and greatest value at the corners, the element nearest to zero included."""
    zero = torch.zeros_like(x.lower).clamp(x.lower, x.upper)
    sides = torch.stack([x.lower, zero, x.upper])
    columns = torch.arange(x.lower.shape[1])
    values = torch.stack(
        [
            operators()[name].rules.nominal(call, sides[torch.tensor(choice), :, columns].T)
            for choice in product(range(3), repeat=x.lower.shape[1])
        ]
    )
    return values.amin(0), values.amax(0)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", ["ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare"])
def test_norms_and_products_are_exact(name: str, size: int) -> None:
    call, x = call_of(name, (size,), axes=[1]), boxes(40, size)
    found, (least, greatest) = operators()[name].rules.interval(call, x), extremes(name, call, x)
    torch.testing.assert_close(found.lower, least, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.upper, greatest, rtol=1e-12, atol=1e-12)


def test_products_that_may_underflow_or_overflow_claim_nothing_wrong() -> None:
    """10⁻³⁰ · 10⁻³⁰ · 10³⁰ · 10³⁰ is 1, and 0, ∞ or NaN in some order of binary32."""
    call = call_of("ReduceProd", (4,), axes=[1])
    point = torch.tensor([[1e-30, 1e-30, 1e30, 1e30]])
    box = operators()["ReduceProd"].rules.interval(replace(call, arithmetic=Arithmetic.FLOAT32), Interval.point(point))
    assert not (box.lower > 0).any()
    assert not (box.upper < torch.inf).any()


def test_the_logarithm_of_a_sum_that_may_be_negative() -> None:
    call = call_of("ReduceLogSum", (2,), axes=[1])
    x = Interval.bounds(torch.tensor([[-1.0, 0.5], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    box = operators()["ReduceLogSum"].rules.interval(call, x)
    assert box.lower.tolist() == [[-torch.inf], [-torch.inf]]
    torch.testing.assert_close(box.upper, torch.tensor([[2.0], [2.0]]).log())
