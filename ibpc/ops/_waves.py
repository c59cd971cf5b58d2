"""Sin and Cos: their ranges over boxes, and planes."""

from __future__ import annotations

from dataclasses import replace
from math import inf, pi
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined, substituted
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._planes import Function, above, below, chord, midpoint
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import ELEMENTARY_ULPS, UNIT

# `ELEMENTARY_ULPS` of the greatest value: reducing the argument leaves an absolute error where the result vanishes.
ABSOLUTE_ERROR: Final = 2.0 * ELEMENTARY_ULPS * UNIT
TURN: Final = 2.0 * pi
# From here on a box is taken to hold a whole turn. What it may lack of one, 6e-6, changes the bounds by 5e-12.
WHOLE: Final = TURN * (1.0 - 2.0**-20)
# Beyond it the points where a plane touches are not known well enough.
FAR: Final = 1000.0


def wave(name: str, summary: str, function: Function, derivative: Function, quarter: float) -> Operator:
    """Return the operator of the sine (`quarter` 0) or the cosine (1): a function f that is sin(x + quarter π/2)."""

    def nominal(call: Call, x: Tensor) -> Tensor:
        """y = sin x, or cos x."""
        return function(x)

    def interval(call: Call, x: Interval) -> Interval:
        """Return the values at l and u, and ±1 where the box holds a crest or a trough; exact to 5e-12."""
        safe = (x.lower > -inf) & (x.upper < inf)
        lower, upper = wave_range(substituted(safe, x, 0.0), function, derivative)
        return defined(safe, outward(call, lower, upper, absolute=2.0 * ABSOLUTE_ERROR))

    def relaxation(call: Call, x: Interval) -> Planes:
        """Planes of the chord's slope, or of the tangent's where that is better; constants over half a turn."""
        safe = (x.lower > -FAR) & (x.upper < FAR) & (x.upper - x.lower < pi)
        return wave_planes(substituted(safe, x, 0.0), interval(call, x), safe, function, derivative, quarter)

    return Operator(
        name=name,
        summary=summary,
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(import_as(name, (7, 22)),),
        writes=export_as(name),
        layers=(option_free_layer(name),),
    )


def wave_range(x: Interval, function: Function, derivative: Function) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value over boxes that are finite.

    f′ has a zero every π, alternately crest and trough. A box narrower than 2π holds at most two. If f′ is positive at
    l and not at u it holds one, a crest; the other way round a trough; if the signs agree, none where it is narrower
    than π and else both. Wrong signs of f′, where it is nearly 0, mistake only points at which f is ±1 up to the square
    of that. No argument is reduced here, so what far arguments cost is the error of the functions themselves.
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

    f − slope · x is extreme at l, u or where f′ is the slope: at ±arccos(slope) − quarter π/2 plus whole turns, of each
    sign at most once in the box.
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
    """Return l, u and the points of the box at which f′ is the slope (or others of the box, if there are none)."""
    angle, shift = torch.arccos(slope.detach()), 0.5 * pi * quarter
    points = [x.lower, x.upper]
    for phase in (angle - shift, -angle - shift):
        point = phase + TURN * torch.ceil((x.lower - phase) / TURN)
        points.append(x.nearest(point))
    return points
