"""What smooth operators share: domains, and the ranges of gated activations.

Where an operator is undefined (the logarithm of a negative number) its value is NaN, so the bounds over a box that may
hold such a point are [−∞, ∞], and its planes lie at ∓∞.
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
# The error that binary64 itself makes in a gate that cancels to almost 0.
OWN_GATE_ERROR: Final = 2.0**-50


# ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────────
def spared(call: Call, x: Operand) -> tuple[Tensor, Tensor]:
    """Return the ends of a box, in binary32 moved outward to 0 or a normal number, and infinite inner ends made finite.

    Flushing moves an element to 0. A function that is monotone on either side of 0 is then bounded by its values at
    these ends, whether or not the network or the bound flushes. An overflow may leave a lower end of ∞.
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
    """Return the bounds of a nonnegative result, with a lower bound that was rounded below 0 raised to 0."""
    return Interval.bounds(torch.relu(bounds.lower), bounds.upper)


def unbroken(call: Call, lower: Tensor, upper: Tensor, largest: float = LARGEST) -> tuple[Tensor, Tensor]:
    """Return the bounds, in binary32 moved back to ±`largest` where their evaluation overflowed to the wrong side.

    Where a step of the evaluation overflows, the result has a modulus of at least `largest`.
    """
    if call.arithmetic is Arithmetic.REAL:
        return lower, upper
    return lower.clamp(max=largest), upper.clamp(min=-largest)


def half_overflown(call: Call, bounds: Interval) -> Interval:
    """Return the bounds of half of a sum, in binary32 infinite where the sum may overflow before it is halved."""
    if call.arithmetic is Arithmetic.REAL:
        return bounds
    half, infinite = 0.5 * LARGEST, torch.full_like(bounds.lower, inf)
    lower, upper = bounds.lower, bounds.upper
    return Interval.bounds(torch.where(lower < -half, -infinite, lower), torch.where(upper > half, infinite, upper))


def defined(safe: Tensor, bounds: Interval) -> Interval:
    """Return the bounds where the operator is defined throughout the box, else [−∞, ∞]."""
    unknown = torch.full_like(bounds.lower, torch.inf)
    return Interval.bounds(torch.where(safe, bounds.lower, -unknown), torch.where(safe, bounds.upper, unknown))


def substituted(safe: Tensor, x: Interval, point: float) -> Interval:
    """Return the box where the operator is defined throughout it, else the box of a single point."""
    instead = torch.full_like(x.lower, point)
    return Interval.bounds(torch.where(safe, x.lower, instead), torch.where(safe, x.upper, instead))


def defined_planes(safe: Tensor, planes: Planes) -> Planes:
    """Return the planes where the operator is defined throughout the box, else −∞ and ∞."""
    unknown = torch.full_like(planes.lower.offset, torch.inf)
    return Planes(_defined_plane(safe, planes.lower, -unknown), _defined_plane(safe, planes.upper, unknown))


def _defined_plane(safe: Tensor, plane: Plane, unknown: Tensor) -> Plane:
    slopes = tuple(torch.where(safe, slope, torch.zeros_like(slope)) for slope in plane.slopes)
    return Plane(slopes, torch.where(safe, plane.offset, unknown))


# ── gated activations: x times a gate between 0 and 1 ───────────────────────────────────────────────────────────
def gated_interval(call: Call, x: Interval, function: Function, bottom: float, error: float) -> Interval:
    """[f(z), max(f(l), f(u))], z nearest to `bottom`, where f(x) = x g(x) falls up to `bottom` and then rises. Exact.

    In binary32 network and bound are each taken to be off by `error` in the gate g(x) ∈ [0, 1], and by a few roundings
    in the product. At ±∞ the product may be NaN, so boxes with an infinite end are bounded by [−∞, ∞]; in binary32 so
    are those with an end so large that x times a multiple of the gate may overflow.
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
