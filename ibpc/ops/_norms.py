"""Moduli, their powers and p-norms over a box, for reductions, pools and normalizations.

Functions of several elements act along the last dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._planes import chord, midpoint
from ibpc.ops._reductions import summed
from ibpc.ops.combinators import outward
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, Arithmetic

View: TypeAlias = Callable[[Tensor], Tensor]


def moduli(x: Interval) -> Interval:
    """Return the box of |x|: [max(l, −u, 0), max(−l, u)]; exact in any arithmetic."""
    return Interval.bounds(torch.relu(torch.maximum(x.lower, -x.upper)), torch.maximum(-x.lower, x.upper))


def prefixes(x: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, … n elements."""
    return torch.cat([torch.zeros_like(x.narrow(-1, 0, 1)), x.cumsum(-1)], -1)


def suffixes(x: Tensor) -> Tensor:
    """Return the sums of the last n, n − 1, … 0 elements."""
    return prefixes(x.flip(-1)).flip(-1)


def sums_of_others(x: Tensor, size: int) -> Tensor:
    """Return for each of `size` elements the sum of the others, without subtracting."""
    return prefixes(x).narrow(-1, 0, size) + suffixes(x).narrow(-1, 1, size)


def norm(x: Tensor, p: float) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) along the last dimension, with the gradient 0 at 0."""
    result: Tensor = torch.linalg.vector_norm(x, p, -1)
    return result


def norm_interval(call: Call, x: Interval, p: float, size: int) -> Interval:
    """Return the bounds of the p-norm of `size` elements, p ≥ 1: the norms of the least and greatest moduli. Exact.

    In binary32 the powers are summed unscaled, as a network may sum them: if they overflow, the upper bound is
    infinite, and losses to underflow are covered before the root. Rounding the exponent 1/p changes the root of a
    binary32 number by up to 90u.
    """
    size_of = moduli(x)
    if p == 1:
        return summed(call, size_of, size)
    if call.arithmetic is Arithmetic.REAL:
        return size_of.map(lambda end: norm(end, p))
    powers = size_of.map(lambda end: _power(end, p))
    total = summed(call, powers, size, 2 * ELEMENTARY_ULPS)
    if p == 2:
        return outward(call, total.lower.sqrt(), total.upper.sqrt(), 2 * ELEMENTARY_ULPS)
    return outward(call, total.lower ** (1.0 / p), total.upper ** (1.0 / p), 2 * ELEMENTARY_ULPS + 100)


def _power(x: Tensor, p: float) -> Tensor:
    return x * x if p == 2 else x**p


def norm_planes(x: Interval, p: float, view: View) -> Planes:
    """Return the planes of the p-norm over the box x, which is the operand's box seen through `view`.

    Below: the tangent at the midpoint m, Σ sign(m) (|m| / ‖m‖)^(p−1) x, at most ‖x‖ by Hölder's inequality.
    Above: each |x|ᵖ lies under its chord, so ‖x‖ ≤ Q^(1/p) with Q affine, and Q^(1/p), concave, lies under its tangent
    at the midpoint.
    """
    middle = midpoint(x.lower, x.upper)
    length = norm(middle, p).unsqueeze(-1)
    ones = torch.ones_like(length)
    unit = middle.abs() / torch.where(length > 0, length, ones)
    nothing = torch.zeros_like(length.squeeze(-1))
    below = Plane((middle.sign() * (unit ** (p - 1.0)),), nothing, (view,))
    slope, constant = power_chord(x, p)
    total = (slope * middle + constant).sum(-1)
    present = total > 0
    root = torch.where(present, total, torch.ones_like(total)) ** (1.0 / p)
    rate = torch.where(present, root ** (1.0 - p) / p, nothing)
    offset = torch.where(present, root, nothing) + rate * (constant.sum(-1) - total)
    return Planes(below, Plane((slope * rate.unsqueeze(-1),), offset, (view,)))


def power_chord(x: Interval, p: float) -> tuple[Tensor, Tensor]:
    """Return slope and constant of the chord of |x|ᵖ over each element's box."""
    lower, upper = x.lower, x.upper
    at_lower, at_upper = _power(lower.abs(), p), _power(upper.abs(), p)
    slope = chord(lower, upper, at_lower, at_upper, torch.zeros_like(lower))
    return slope, torch.maximum(at_lower - slope * lower, at_upper - slope * upper)
