"""Rectifiers f(x) = x for x ≥ 0 and a x for x < 0, with a slope a of any sign and size."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._planes import Function, above, below, chord, inside
from ibpc.ops._products import flushable
from ibpc.ops.combinators import outward
from ibpc.ops.rules import Call, Planes


def leaky_interval(call: Call, x: Interval, function: Function, ulps: int) -> Interval:
    """[min(f(l), f(u), f(z)), max(f(l), f(u))], z the point of [l, u] nearest to 0; exact.

    f is linear on either side of 0, so its extremes lie at l, u or 0; f(0) = 0 is no maximum, because f rises to the
    right of 0. In binary32 f is off by up to `ulps`, network and bound together.
    """
    x = flushable(call, x)
    at_lower, at_upper = function(x.lower), function(x.upper)
    at_kink = function(inside(0.0, x.lower, x.upper))
    lower = torch.minimum(torch.minimum(at_lower, at_upper), at_kink)
    return outward(call, lower, torch.maximum(at_lower, at_upper), ulps)


def leaky_planes(x: Interval, function: Function, slope: Tensor) -> Planes:
    """Chord on one side; on the other the line through 0 with slope 1 or a, whichever leaves less area.

    f is convex for a ≤ 1 (chord above) and concave for a ≥ 1 (chord below). (Zhang et al. 2018, CROWN, arXiv
    1811.00866, table 2, with the adaptive slope.) f − line is piecewise linear, so its extremes lie at l, u or 0.
    """
    lower, upper = x.lower, x.upper
    ones = torch.ones_like(lower)
    slope = slope.expand_as(lower)
    points = [lower, upper, inside(0.0, lower, upper)]
    right = (lower >= 0) | ((upper > 0) & (upper > -lower))
    tangent = torch.where(right, ones, slope)
    secant = chord(lower, upper, function(lower), function(upper), tangent)
    convex = slope <= 1
    return Planes(
        below(function, torch.where(convex, tangent, secant), points),
        above(function, torch.where(convex, secant, tangent), points),
    )
