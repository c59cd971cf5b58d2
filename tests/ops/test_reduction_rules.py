"""Exactness of reductions, norms and pools: brute force over the corners and zeros of small boxes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic


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


@pytest.mark.parametrize(
    ("name", "attributes", "parameters"),
    [
        ("RMSNormalization", {"axis": 1, "epsilon": 1e-3}, {"weight": torch.tensor([1.0, -2.0, 0.5, 1.0]).double()}),
        ("LpNormalization", {"axis": 1, "p": 1}, {}),
        ("LpNormalization", {"axis": 1, "p": 2}, {}),
    ],
)
@pytest.mark.parametrize("low", [-2.0, 0.1])
def test_quotients_are_exact(
    name: str, attributes: dict[str, object], parameters: dict[str, Tensor], low: float
) -> None:
    x = boxes(60, 4, low, seed=3)
    operator = operators()[name]
    complete, shape = operator.complete(attributes), (BATCH, 4)
    call = Call(complete, (shape,), dict.fromkeys(parameters, (4,)), shape)
    box = operator.rules.interval(call, x, **parameters)
    zero = torch.zeros_like(x.lower).clamp(x.lower, x.upper)
    sides, columns = torch.stack([x.lower, zero, x.upper]), torch.arange(4)
    values = torch.stack(
        [
            operator.rules.nominal(call, sides[torch.tensor(choice), :, columns].T, **parameters)
            for choice in product(range(3), repeat=4)
        ]
    )
    torch.testing.assert_close(box.lower, values.amin(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(box.upper, values.amax(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 2.0])
def test_local_responses_are_exact(beta: float) -> None:
    """Over the corners of the others and a fine grid of the own channel."""
    x = boxes(30, 3, seed=4)
    call = call_of("LRN", (3, 1), size=3, alpha=3.0, beta=beta, bias=0.5)
    rules = operators()["LRN"].rules
    box = rules.interval(call, x.map(lambda end: end.unsqueeze(2)))
    zero = torch.zeros_like(x.lower).clamp(x.lower, x.upper)
    sides, columns = torch.stack([x.lower, zero, x.upper]), torch.arange(3)
    least, most = torch.full((2, 30, 3), torch.inf).double() * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
    for choice in product(range(3), repeat=3):
        point = sides[torch.tensor(choice), :, columns].T.clone()
        for own in range(3):
            for share in torch.linspace(0.0, 1.0, 201).tolist():
                moved = point.clone()
                moved[:, own] = torch.lerp(x.lower[:, own], x.upper[:, own], share)
                value = rules.nominal(call, moved.unsqueeze(2))[:, own, 0]
                least[:, own], most[:, own] = torch.minimum(least[:, own], value), torch.maximum(most[:, own], value)
    for found, reached in ((box.lower.squeeze(2), least), (-box.upper.squeeze(2), -most)):
        assert (found <= reached + 1e-12).all()
        torch.testing.assert_close(found, reached, rtol=0, atol=1e-3)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_pooled_norms_are_exact(p: int) -> None:
    x = boxes(40, 4)
    call = call_of("LpPool", (1, 4), kernel_shape=[4], strides=[1], pads=[0, 0], dilations=[1], p=p)
    rules = operators()["LpPool"].rules
    box = rules.interval(call, x.map(lambda end: end.unsqueeze(1)))
    zero = torch.zeros_like(x.lower).clamp(x.lower, x.upper)
    farthest = torch.where(x.upper > -x.lower, x.upper, x.lower)
    torch.testing.assert_close(box.lower, rules.nominal(call, zero.unsqueeze(1)))
    torch.testing.assert_close(box.upper, rules.nominal(call, farthest.unsqueeze(1)))


def test_quotients_of_what_underflows_or_overflows_claim_nothing() -> None:
    for name, attributes in (("RMSNormalization", {}), ("LpNormalization", {"axis": 1})):
        for size in (1e-30, 1e30) if name == "LpNormalization" else (1e30,):
            call = replace(call_of(name, (2,), **attributes), arithmetic=Arithmetic.FLOAT32)
            box = operators()[name].rules.interval(call, Interval.point(torch.full((1, 2), size)))
            assert not box.lower.isfinite().any()
            assert not box.upper.isfinite().any()
