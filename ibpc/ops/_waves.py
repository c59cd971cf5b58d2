"""Sin and Cos: ranges over boxes, and planes."""

from __future__ import annotations

from dataclasses import replace
from math import inf, pi
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined, substituted
from ibpc.ops._elementwise import elementwise
from ibpc.ops._planes import Function, above, below, chord, midpoint
from ibpc.ops.base import Operator
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import ELEMENTARY_ULPS, UNIT

# `ELEMENTARY_ULPS` relative to the greatest value, 1: argument reduction leaves an absolute error near the zeros.
ABSOLUTE_ERROR: Final = 2.0 * ELEMENTARY_ULPS * UNIT
TURN: Final = 2.0 * pi
# A box this wide counts as a whole turn. The 6e-6 that it may lack change the bounds by 5e-12.
WHOLE: Final = TURN * (1.0 - 2.0**-20)
# Beyond it, points of contact are not accurate enough.
FAR: Final = 1000.0


def wave(name: str, summary: str, function: Function, derivative: Function, quarter: float) -> Operator:
    """Return the operator of the function f(x) = sin(x + quarter π/2): the sine (`quarter` 0) or the cosine (1)."""

    def nominal(call: Call, x: Tensor) -> Tensor:
        """y = sin x, or cos x."""
        return function(x)

    def interval(call: Call, x: Interval) -> Interval:
        """Return the values at l and u, and ±1 where the box holds a crest or a trough; exact to 5e-12."""
        safe = (x.lower > -inf) & (x.upper < inf)
        lower, upper = wave_range(substituted(safe, x, 0.0), function, derivative)
        return defined(safe, outward(call, lower, upper, absolute=2.0 * ABSOLUTE_ERROR))

    def relaxation(call: Call, x: Interval) -> Planes:
        """Planes with the slope of the chord, or of the tangent where that is better; constants from half a turn on."""
        safe = (x.lower > -FAR) & (x.upper < FAR) & (x.upper - x.lower < pi)
        return wave_planes(substituted(safe, x, 0.0), interval(call, x), safe, function, derivative, quarter)

    return elementwise(name, summary, nonlinear(nominal, interval, relaxation), (7, 22))


def wave_range(x: Interval, function: Function, derivative: Function) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value over finite boxes.

    f′ has a zero every π, alternately at a crest and at a trough, so a box narrower than 2π holds at most two. If f′ is
    positive at l and not at u, the box holds one, a crest; in the opposite case a trough. If the signs agree, it holds
    none if narrower than π, else both. A wrong sign of f′ occurs only where f′ is nearly 0, and there f is ±1 up to the
    square of that. Arguments are not reduced here, so large ones cost no more than the error of the functions.
    """
    width = x.upper - x.lower
    at_lower, at_upper = function(x.lower), function(x.upper)
    rises, rose = derivative(x.lower) > 0, derivative(x.upper) > 0
    both = (width >= WHOLE) | ((width >= pi) & (rises == rose))
    crest, trough = both | (rises & ~rose), both | (~rises & rose)
    ones = torch.ones_like(at_lower)
    lower = torch.where(trough, -ones, torch.minimum(at_lower, at_upper))
    return lower, torch.where(crest, ones, torch.maximum(at_lower, at_upper))


def wave_planes(
    x: Interval, bounds: Interval, safe: Tensor, function: Function, derivative: Function, quarter: float
) -> Planes:
    """Return planes over boxes narrower than π, and constants where not `safe`.

    f − slope · x is extreme at l, u or where f′ is the slope: at ±arccos(slope) − quarter π/2 plus whole turns, at most
    once per sign in the box.
    """
    lower, upper = x.lower, x.upper
    middle = midpoint(lower, upper)
    at_lower, at_upper, tangent = function(lower), function(upper), derivative(middle)
    secant = chord(lower, upper, at_lower, at_upper, tangent).clamp(-1.0, 1.0)
    convex = torch.maximum(at_lower, at_upper) <= 0.0
    concave = torch.minimum(at_lower, at_upper) >= 0.0
    nothing = torch.zeros_like(lower)
    under = torch.where(safe, torch.where(convex, tangent, secant), nothing)
    over = torch.where(safe, torch.where(concave, tangent, secant), nothing)
    least = below(function, under, _touching(x, under, quarter))
    most = above(function, over, _touching(x, over, quarter))
    return Planes(
        replace(least, offset=torch.where(safe, least.offset, bounds.lower)),
        replace(most, offset=torch.where(safe, most.offset, bounds.upper)),
    )


def _touching(x: Interval, slope: Tensor, quarter: float) -> list[Tensor]:
    """Return l, u, and the points of the box where f′ is the slope (any points of the box if there are none)."""
    angle, shift = torch.arccos(slope.detach()), 0.5 * pi * quarter
    points = [x.lower, x.upper]
    for phase in (angle - shift, -angle - shift):
        point = phase + TURN * torch.ceil((x.lower - phase) / TURN)
        points.append(x.nearest(point))
    return points
