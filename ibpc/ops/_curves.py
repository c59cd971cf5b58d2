"""What smooth operators share: which points of a box count, and ranges of valleys.

A point where an operator is not defined (the logarithm of a negative number) makes a NaN, so a box that may hold one is
bounded by nothing: [−∞, ∞], and by planes at ∓∞.
"""

from __future__ import annotations

from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._planes import Function, inside
from ibpc.ops.combinators import outward
from ibpc.ops.rules import Call, Operand, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, LARGEST, SMALLEST, Arithmetic

FAR: Final = 2.0**120
# What binary64 itself makes of a share that cancels to almost 0.
OWN_SHARE: Final = 2.0**-50


# ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────────
def spared(call: Call, x: Operand) -> tuple[Tensor, Tensor]:
    """Return the ends of a box, in binary32 moved outward to 0 or a normal number, and finite where they are too far.

    Flushing moves an element to 0. A function that is monotone on either side of 0 is then bounded by its values at
    these ends, whether or not the network or the bound flushes. A lower end of ∞ is what an overflow leaves.
    """
    lower, upper = (x.lower, x.upper) if isinstance(x, Interval) else (x, x)
    if call.arithmetic is Arithmetic.REAL:
        return lower, upper
    return -_spared_upper(-lower), _spared_upper(upper)


def _spared_upper(upper: Tensor) -> Tensor:
    small = (upper.abs() < SMALLEST) & (upper != 0)
    nearest = torch.where(upper > 0, torch.full_like(upper, SMALLEST), torch.zeros_like(upper))
    return torch.where(small, nearest, upper).clamp(min=-LARGEST)


def nonnegative(bounds: Interval) -> Interval:
    """Return the bounds of a result that is not negative, which their rounding outward does not know."""
    return Interval.bounds(torch.relu(bounds.lower), bounds.upper)


def unbroken(call: Call, lower: Tensor, upper: Tensor, largest: float = LARGEST) -> tuple[Tensor, Tensor]:
    """Return bounds, in binary32 moved back to ±`largest` where their evaluation overflowed to the far side.

    `largest` is what the result is at least where a step of the evaluation overflows.
    """
    if call.arithmetic is Arithmetic.REAL:
        return lower, upper
    return lower.clamp(max=largest), upper.clamp(min=-largest)


def defined(safe: Tensor, bounds: Interval) -> Interval:
    """Return the bounds where the operator is defined all over the box, and [−∞, ∞] elsewhere."""
    unknown = torch.full_like(bounds.lower, torch.inf)
    return Interval.bounds(torch.where(safe, bounds.lower, -unknown), torch.where(safe, bounds.upper, unknown))


def substituted(safe: Tensor, x: Interval, point: float) -> Interval:
    """Return the box where the operator is defined all over it, and that of a single point elsewhere."""
    instead = torch.full_like(x.lower, point)
    return Interval.bounds(torch.where(safe, x.lower, instead), torch.where(safe, x.upper, instead))


def defined_planes(safe: Tensor, planes: Planes) -> Planes:
    """Return the planes where the operator is defined all over the box, and −∞ and ∞ elsewhere."""
    unknown = torch.full_like(planes.lower.offset, torch.inf)
    return Planes(_defined_plane(safe, planes.lower, -unknown), _defined_plane(safe, planes.upper, unknown))


def _defined_plane(safe: Tensor, plane: Plane, unknown: Tensor) -> Plane:
    slopes = tuple(torch.where(safe, slope, torch.zeros_like(slope)) for slope in plane.slopes)
    return Plane(slopes, torch.where(safe, plane.offset, unknown))


# ── valleys: x times a share between 0 and 1 ────────────────────────────────────────────────────────────────────
def gated_interval(call: Call, x: Interval, function: Function, bottom: float, error: float) -> Interval:
    """[f(z), max(f(l), f(u))], z nearest to `bottom`, of f(x) = x g(x) that falls up to there and rises from it. Exact.

    In binary32 the share g(x) in [0, 1] is taken to be off by `error`, in the network and in the bound, and the product
    by few roundings. At ±∞, 0 times the share may be NaN, so an infinite end is bounded by nothing; in binary32 nor is
    one so far that x times a multiple of the share may overflow.
    """
    lower, upper = x.lower, x.upper
    limit = inf if call.arithmetic is Arithmetic.REAL else FAR
    safe = (lower > -limit) & (upper < limit)
    box = substituted(safe, x, bottom)
    least = function(inside(bottom, box.lower, box.upper))
    most = torch.maximum(function(box.lower), function(box.upper))
    if call.arithmetic is Arithmetic.REAL:
        return defined(safe, Interval.bounds(least, most))
    slack = 2.0 * error * torch.maximum(-box.lower, box.upper)
    return defined(safe, outward(call, least - slack, most + slack, ELEMENTARY_ULPS))
