"""Piecewise linear functions, possibly with jumps: their ranges over boxes, and planes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined
from ibpc.ops._planes import chord
from ibpc.ops._steps import flushed
from ibpc.ops.combinators import outward
from ibpc.ops.rules import Call, NominalRule, Plane, Planes, RelaxationRule
from ibpc.rounding import LARGEST, SMALLEST, Arithmetic


@dataclass(frozen=True)
class Piece:
    """The line slope · x + offset from `start` to `end`; open ends are excluded."""

    start: float
    end: float
    slope: float
    offset: float
    is_open_left: bool = False
    is_open_right: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the line."""
        return self.slope * x + self.offset if self.slope else torch.zeros_like(x) + self.offset

    def is_met(self, x: Interval) -> Tensor:
        """Return which boxes hold a point of the piece."""
        left = x.upper > self.start if self.is_open_left else x.upper >= self.start
        right = x.lower < self.end if self.is_open_right else x.lower <= self.end
        return left & right

    def within(self, x: Interval) -> tuple[Tensor, Tensor]:
        """Return the ends of the part of the piece inside the box; if it is empty, in any order."""
        if any(LARGEST < abs(kink) < inf for kink in (self.start, self.end)):  # not a binary32 number
            lower, upper = x.lower.double().clamp(min=self.start), x.upper.double().clamp(max=self.end)
            return lower.to(x.lower.dtype), upper.to(x.upper.dtype)
        return x.lower.clamp(min=self.start), x.upper.clamp(max=self.end)


def pieces_interval(call: Call, x: Interval, pieces: Sequence[Piece], ulps: int, absolute: float) -> Interval:
    """Return the hull of the ranges of all pieces that the box meets; exact.

    Network and bound together are off by up to `ulps` and `absolute`, both 0 if pieces are copies of x or constant.
    In binary32 the thresholds between the pieces are rounded, and elements and thresholds may be flushed to 0.
    """
    box = flushed(call, x)
    lower, upper = torch.full_like(box.lower, inf), torch.full_like(box.lower, -inf)
    for piece in map(_blurred, pieces) if call.arithmetic is Arithmetic.FLOAT32 else pieces:
        start, end = piece.within(box)
        first, last = (piece(start), piece(end)) if piece.slope >= 0 else (piece(end), piece(start))
        met = piece.is_met(box)
        lower = torch.where(met, torch.minimum(lower, first), lower)
        upper = torch.where(met, torch.maximum(upper, last), upper)
    known = (box.lower <= box.upper) | (lower <= upper)
    bounds = defined(known, Interval.bounds(lower, upper))
    return outward(call, bounds.lower, bounds.upper, ulps, absolute)


def _blurred(piece: Piece) -> Piece:
    """Return a piece that contains the given one, whichever binary32 neighbours its thresholds are rounded to."""
    start, end = _rounded(piece.start, -inf), _rounded(piece.end, inf)
    return Piece(
        start,
        end,
        piece.slope,
        piece.offset,
        piece.is_open_left and start == piece.start,
        piece.is_open_right and end == piece.end,
    )


def _rounded(value: float, toward: float) -> float:
    """Return the value if it is a binary32 number, else the neighbour on this side: 0 if it may be flushed."""
    single = torch.tensor(value, dtype=torch.float32)
    if 0.0 < abs(value) < SMALLEST:
        return max(value, 0.0) if toward > 0 else min(value, 0.0)
    if float(single) == value:
        return value
    return float(torch.nextafter(single, torch.tensor(toward, dtype=torch.float32)))


def pieces_relaxation(pieces: Callable[[Call], Sequence[Piece]], nominal: NominalRule) -> RelaxationRule:
    """Return the relaxation rule of the function `nominal`, which consists of `pieces(call)`; see `pieces_planes`."""

    def relaxation(call: Call, x: Interval) -> Planes:
        return pieces_planes(x, pieces(call), nominal(call, x.lower), nominal(call, x.upper))

    return relaxation


def pieces_planes(x: Interval, pieces: Sequence[Piece], at_lower: Tensor, at_upper: Tensor) -> Planes:
    """Return planes with the slope of the chord, or constants where these are nearer.

    f − line is linear on every piece, so its extremes over a box lie at the ends of the pieces in it. Each side takes
    slope 0 or that of the chord, whichever leaves less room in the middle of the box.
    """
    secant = chord(x.lower, x.upper, at_lower, at_upper, torch.zeros_like(x.lower))
    single = reduce(torch.logical_or, [(x.lower > piece.start) & (x.upper < piece.end) for piece in pieces])
    flat = torch.zeros_like(secant)
    middle = 0.5 * x.lower + 0.5 * x.upper
    planes = []
    for side in (-1.0, 1.0):
        offsets = [_offset(x, pieces, slope, side) for slope in (secant, flat)]
        sloped = single | (side * (offsets[0] + secant * middle) < side * offsets[1])
        planes.append(Plane((torch.where(sloped, secant, flat),), torch.where(sloped, offsets[0], offsets[1])))
    return Planes(planes[0], planes[1])


def _offset(x: Interval, pieces: Sequence[Piece], slope: Tensor, side: float) -> Tensor:
    offset = torch.full_like(slope, -inf)
    for piece in pieces:
        met = piece.is_met(x)
        for point in piece.within(x):
            inside = torch.where(met, point, torch.zeros_like(point))
            height = side * (piece(inside) - slope * inside)
            offset = torch.where(met, torch.maximum(offset, height), offset)
    return side * offset
