"""ReduceProd: the product over some axes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._planes import midpoint
from ibpc.ops._products import corners
from ibpc.ops._reductions import count, gathered, reduction
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import FLUSHED, Arithmetic, down, up


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = Π x."""
    return gathered(call, x).prod(-1)


def interval(call: Call, x: Interval) -> Interval:
    """Multiply the boxes of the factors in pairs; exact.

    The factors are independent, so x₁ x₂ takes all values between its least and greatest corner product, and so on. In
    binary32 a product of n factors in any order has a relative error of γₙ, and loses to underflow at most the loss in
    one factor or partial product times all other factors, bounded by the product of max(|x|, 1). Where that overflows,
    nothing is claimed.
    """
    factors = x.map(partial(gathered, call))
    result = _product(factors, count(call))
    if call.arithmetic is Arithmetic.REAL:
        return result
    size = torch.maximum(-factors.lower, factors.upper).clamp(min=1.0)
    lost = 2.0 * count(call) * FLUSHED * _product(Interval.bounds(size, size), count(call)).upper
    ulps = 2 * count(call) + 16
    return Interval.bounds(down(result.lower - lost, ulps), up(result.upper + lost, ulps))


def _product(x: Interval, size: int) -> Interval:
    """Return the box of the product of `size` factors along the last dimension."""
    if size == 1:
        return x.map(lambda end: end.squeeze(-1))
    half = size // 2
    first, second = x.map(lambda end: end.narrow(-1, 0, half)), x.map(lambda end: end.narrow(-1, half, half))
    lower, upper = corners(first, second, torch.mul)
    if size % 2:
        lower = torch.cat([lower, x.lower.narrow(-1, size - 1, 1)], -1)
        upper = torch.cat([upper, x.upper.narrow(-1, size - 1, 1)], -1)
    return _product(Interval.bounds(lower, upper), half + size % 2)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of the mean value form, or the bounds as constants where these are better at the center.

    Let m be the center, r the radius and [g_i − s_i, g_i + s_i] the bounds over the box of ∂y/∂x_i, the product of the
    other factors. Then |y(x) − y(m) − Σ g_i (x_i − m_i)| ≤ Σ s_i r_i.
    """
    size, factors = count(call), x.map(partial(gathered, call))
    bounds = _product(factors, size)
    slopes = _product(_others(factors, size), size)
    middle = midpoint(factors.lower, factors.upper)
    slope = midpoint(slopes.lower, slopes.upper)
    error = ((0.5 * slopes.upper - 0.5 * slopes.lower) * (0.5 * factors.upper - 0.5 * factors.lower)).sum(-1)
    value = middle.prod(-1)
    offset = value - (slope * middle).sum(-1)
    views = (lambda point: gathered(call, point),)
    flat = torch.zeros_like(slope)
    sloped_below, sloped_above = value - error >= bounds.lower, value + error <= bounds.upper
    return Planes(
        Plane(
            (torch.where(sloped_below.unsqueeze(-1), slope, flat),),
            torch.where(sloped_below, offset - error, bounds.lower),
            views,
        ),
        Plane(
            (torch.where(sloped_above.unsqueeze(-1), slope, flat),),
            torch.where(sloped_above, offset + error, bounds.upper),
            views,
        ),
    )


def _others(x: Interval, size: int) -> Interval:
    """Return the factors (…, n) repeated as rows (…, n, n), with factor i of row i replaced by 1."""
    own = torch.eye(size, dtype=torch.bool, device=x.lower.device)
    ones = torch.ones_like(x.lower).unsqueeze(-2)
    return x.map(lambda end: torch.where(own, ones, end.unsqueeze(-2)))


OPERATOR = register(
    reduction("ReduceProd", "The product over some axes", (1, 11, 13, 18), nonlinear(nominal, interval, relaxation))
)
