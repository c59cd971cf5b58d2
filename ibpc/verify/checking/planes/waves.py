"""Planes of Sin and Cos over boxes narrower than half a turn: the chord's slope, or the tangent's at the middle."""

from __future__ import annotations

from math import pi
from typing import Final

import numpy as np

from ibpc.verify.checking.planes.base import Sketch, chord, planes, touching
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array, Box

# Beyond this, multiples of 2π are too inaccurate to locate points with a given slope.
_FAR: Final = 1000.0


@planes("Sin", "Cos")
def wave(step: Step) -> Sketch:
    """Return planes of sin(x + q), q = 0 or π/2: the tangent's slope on the side where the wave bends away.

    The wave minus a line of slope s is extreme at the ends or where its derivative is s: at ±arccos(s) − q plus 2πk,
    for at most one k each. Errors in these points enter squared, since the difference is flat there.
    """
    x = step.box(0)
    quarter = 0.0 if step.node.op_type == "Sin" else 0.5 * pi
    known = (x.magnitude < _FAR) & (x.upper - x.lower < pi)
    middle = 0.5 * x.lower + 0.5 * x.upper

    def function(point: Array) -> Array:
        return np.where(known, np.sin(point + quarter), np.nan)

    ends, tangent = (function(x.lower), function(x.upper)), np.cos(middle + quarter)
    secant = np.clip(chord(x, *ends, tangent), -1.0, 1.0)
    below = np.where(np.maximum(*ends) <= 0, tangent, secant)
    above = np.where(np.minimum(*ends) >= 0, tangent, secant)
    points = [x.lower, x.upper, *_as_steep(x, below, quarter), *_as_steep(x, above, quarter)]
    return touching(x, function, (below, above), points)


def _as_steep(x: Box, slope: Array, quarter: float) -> list[Array]:
    """Return the points of the box where the wave has this slope, one of each kind, or an end if there is none."""
    angle = np.arccos(slope)
    points = (phase + 2 * pi * np.ceil((x.lower - phase) / (2 * pi)) for phase in (angle - quarter, -angle - quarter))
    return [np.clip(point, x.lower, x.upper) for point in points]
