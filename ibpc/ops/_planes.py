"""Planes that bound a function over a box: the building blocks of relaxation rules.

Every function here is elementwise and free of branches on values. `above` and `below` take the slope from the caller
and compute the offset from the points at which function − line may be extreme, so soundness never depends on how well
the slope was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops.rules import Operand, Plane, Planes

Function: TypeAlias = Callable[[Tensor], Tensor]

BISECTIONS: Final = 16


def midpoint(lower: Tensor, upper: Tensor) -> Tensor:
    """Return (lower + upper) / 2 without overflow."""
    return 0.5 * lower + 0.5 * upper


def inside(point: float, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the point of [lower, upper] nearest to `point`."""
    return torch.minimum(lower.clamp(min=point), upper)


def chord(lower: Tensor, upper: Tensor, at_lower: Tensor, at_upper: Tensor, otherwise: Tensor | float) -> Tensor:
    """Return the slope (at_upper − at_lower) / (upper − lower), and `otherwise` where upper ≤ lower.

    Operands are halved so that differences of the largest numbers do not overflow.
    """
    half = 0.5 * upper - 0.5 * lower
    wide = half > 0
    rise = 0.5 * at_upper - 0.5 * at_lower
    return torch.where(wide, rise / torch.where(wide, half, torch.ones_like(half)), otherwise)


def above(function: Function, slope: Tensor, points: Iterable[Tensor]) -> Plane:
    """Return the lowest plane of this slope that lies on or above the function at all `points`.

    It bounds the function over the box if function − line has its maximum over the box at one of the points.
    """
    return Plane((slope,), reduce(torch.maximum, [function(point) - slope * point for point in points]))


def below(function: Function, slope: Tensor, points: Iterable[Tensor]) -> Plane:
    """Return the highest plane of this slope that lies on or below the function at all `points`; see `above`."""
    return Plane((slope,), reduce(torch.minimum, [function(point) - slope * point for point in points]))


# ── products ────────────────────────────────────────────────────────────────────────────────────────────────────
def product_planes(x: Operand, y: Operand) -> Planes:
    """Return the planes of the elementwise product x y, exact if an operand is exact.

    Two boxes: l_y x + l_x y − l_x l_y ≤ x y ≤ u_y x + l_x y − l_x u_y, from (x − l_x)(y − l_y) ≥ 0 and
    (x − l_x)(u_y − y) ≥ 0 (McCormick 1976; the choice of Shi et al. 2020, arXiv 2002.06622, section 3.3). The same box
    twice, x²: tangent at the midpoint and chord, each slope split over the two operands.
    """
    if not isinstance(x, Interval) or not isinstance(y, Interval):
        return _exact_planes(x, y)
    if x is y:
        return _square_planes(x)
    least, greatest = x.lower * y.lower, x.lower * y.upper
    return Planes(Plane((y.lower, x.lower), -least), Plane((y.upper, x.lower), -greatest))


def blended_planes(x: Interval, y: Interval, below: Tensor, above: Tensor) -> Planes:
    """Return planes of the product of two boxes: on either side a blend of two, with a share in [0, 1] of the second.

    Below: l_y x + l_x y − l_x l_y and u_y x + u_x y − u_x u_y; above: u_y x + l_x y − l_x u_y and
    l_y x + u_x y − u_x l_y (McCormick 1976). The first two are those of `product_planes`.
    """
    least = torch.lerp(x.lower * y.lower, x.upper * y.upper, below)
    greatest = torch.lerp(x.lower * y.upper, x.upper * y.lower, above)
    return Planes(
        Plane((torch.lerp(y.lower, y.upper, below), torch.lerp(x.lower, x.upper, below)), -least),
        Plane((torch.lerp(y.upper, y.lower, above), torch.lerp(x.lower, x.upper, above)), -greatest),
    )


def _exact_planes(x: Operand, y: Operand) -> Planes:
    if isinstance(x, Interval):
        assert not isinstance(y, Interval)
        plane = Plane((y, torch.zeros_like(y)), torch.zeros_like(x.lower * y))
    else:
        assert isinstance(y, Interval)
        plane = Plane((torch.zeros_like(x), x), torch.zeros_like(x * y.lower))
    return Planes(plane, plane)


def _square_planes(x: Interval) -> Planes:
    middle = midpoint(x.lower, x.upper)
    return Planes(Plane((middle, middle), -(middle * middle)), square_chord(x))


def square_chord(x: Interval) -> Plane:
    """Return the chord of x², its slope l + u split between the two operands."""
    return Plane((x.upper, x.lower), -(x.lower * x.upper))
