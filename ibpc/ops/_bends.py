"""Planes of functions that are convex or concave piece by piece, with slopes that may be tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from itertools import pairwise
from math import inf
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined_planes, substituted
from ibpc.ops._planes import Function, chord, inside, midpoint
from ibpc.ops.rules import Call, Plane, Planes, RelaxationRule, Rules

Domain: TypeAlias = Callable[[Interval], Tensor]
# Where a plane is a tangent over the whole box, and its least, default and greatest slopes.
Side: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

_SIGNS: Final = (-1.0, 1.0)

# To find where a line touches: bisections, then secant steps on f′ in the remaining bracket.
_STEPS: Final = 5
_LAST_STEPS: Final = 2
# A slope of a smaller modulus may have underflowed.
_LEAST_SLOPE: Final = 2.0**-900
# A point in the domain of every function, which may be the numbers above 0 or those between −1 and 1.
_KNOWN: Final = 0.5


class Bend(Enum):
    """How a function bends on a piece; EITHER: convex or concave, depending on the element."""

    LINE = "line"
    CONVEX = "convex"
    CONCAVE = "concave"
    EITHER = "either"


# The kinds of pieces inside which a lower line may touch, and an upper one.
_FROM_BELOW: Final = (Bend.CONVEX, Bend.EITHER)
_FROM_ABOVE: Final = (Bend.CONCAVE, Bend.EITHER)
BELL: Final = (Bend.CONCAVE, Bend.CONVEX, Bend.CONCAVE)


@dataclass(frozen=True)
class Curve:
    """A continuous function, its derivative, and how it bends on each of the pieces between its turns.

    A plane of any slope is sound: its offset is the extreme of f − line over l, u, the turns and, in each piece where f
    bends away from the line, the point where f′ is the slope, moved outward by the error of the search for that point.

    Over a box within one piece the plane on one side is a tangent at any point and on the other side the chord. Over a
    box with a turn inside, any slope that f has in the box may be the best on either side. By default tangents touch
    in the middle of the box, and other planes have the slope of the chord.

    At a turn, `derivative` returns the limit of f′ from a piece that is not a line. `domain` says over which boxes the
    function is defined; over others the planes are ∓∞. The network's value may be off by `missed` times the greatest
    modulus in the box.
    """

    function: Function
    derivative: Function
    bends: tuple[Bend, ...]
    turns: tuple[float, ...] = ()
    domain: Domain | None = None
    missed: float = 0.0

    def planes(self, x: Interval) -> Planes:
        """Return the default planes; their anchors are what `tuned` needs."""
        box = self._known(x)
        sides = self._sides(box)
        lower, upper = (self._plain(box, side, sign) for side, sign in zip(sides, _SIGNS, strict=True))
        return replace(self._where_defined(x, Planes(lower, upper)), anchors=(*sides[0], *sides[1]))

    def tuned(self, share: Tensor, plain: Planes, x: Interval) -> Planes:
        """Return the planes chosen by `share` (…, B, 2, *shape), below and above.

        A tangent touches at that share of the way from l to u. Other slopes are, at 0, the least that f has in the box,
        at 1/2 that of the chord, at 1 the greatest.
        """
        box = self._known(x)
        mixed = self._mixed(box).flatten().nonzero().squeeze(1)
        choices, sides = share.unbind(share.dim() - x.lower.dim()), (plain.anchors[:4], plain.anchors[4:])
        lower, upper = (
            self._chosen(box, choice, side, sign, plane, mixed)
            for choice, side, sign, plane in zip(choices, sides, _SIGNS, (plain.lower, plain.upper), strict=True)
        )
        return self._where_defined(x, Planes(lower, upper))

    def _plain(self, x: Interval, side: Sequence[Tensor], sign: float) -> Plane:
        """Return the default plane."""
        height = self._height(x, side[2], sign)
        middle = midpoint(x.lower, x.upper)
        touching = torch.maximum(height, sign * (self.function(middle) - side[2] * middle))
        return self._plane(x, side[2], sign, torch.where(side[0], touching, height))

    def _chosen(
        self, x: Interval, share: Tensor, side: Sequence[Tensor], sign: float, plain: Plane, mixed: Tensor
    ) -> Plane:
        """Return the chosen plane, or the plain one if there is none. `mixed`: flat indices of boxes with a turn."""
        is_tangent, *slopes = side
        if bool(is_tangent.any()):
            plain = self._tangent(x, share, is_tangent, sign, plain)
        if not len(mixed):
            return plain
        rank = x.lower.dim()
        box = x.map(lambda end: end.flatten()[mixed])
        slope = _between([each.flatten()[mixed] for each in slopes], share.flatten(-rank)[..., mixed])
        found = self._plane(box, slope, sign, self._height(box, slope, sign))
        shape = torch.broadcast_to(plain.offset, share.shape).shape
        parts = [(plain.slopes[0], slope), (plain.offset, found.offset)]
        whole = [
            part.expand(shape).flatten(-rank).index_copy(-1, mixed, inner.to(part.dtype)).reshape(shape)
            for part, inner in parts
        ]
        return Plane((whole[0],), whole[1])

    def _tangent(self, x: Interval, share: Tensor, is_tangent: Tensor, sign: float, plain: Plane) -> Plane:
        """Return the plane with tangents that touch at shares of the way from l to u.

        Only the slope carries a gradient. By the point of contact the offset has none, because f′ there is the slope.
        """
        point = torch.minimum(torch.maximum(torch.lerp(x.lower, x.upper, share), x.lower), x.upper)
        slope = self.derivative(point)
        is_known = slope.isfinite() & (slope.abs() >= _LEAST_SLOPE)
        is_tangent, point = is_tangent & is_known, point.detach()
        with torch.no_grad():
            value = self.function(point)
        touching = self._plane(x, slope, sign, sign * (value - slope * point))
        return Plane(
            (torch.where(is_tangent, slope, plain.slopes[0]),),
            torch.where(is_tangent, touching.offset, plain.offset),
        )

    def _known(self, x: Interval) -> Interval:
        """Return the boxes, those over which the function is not defined replaced by a point where it is."""
        return x if self.domain is None else substituted(self.domain(x), x, _KNOWN)

    def _where_defined(self, x: Interval, planes: Planes) -> Planes:
        return planes if self.domain is None else defined_planes(self.domain(x), planes)

    def _mixed(self, x: Interval) -> Tensor:
        """Return which boxes have a turn inside."""
        mixed = torch.zeros_like(x.lower, dtype=torch.bool)
        for turn in self.turns:
            mixed = mixed | ((x.lower < turn) & (x.upper > turn))
        return mixed

    def _sides(self, x: Interval) -> tuple[Side, Side]:
        """Return the choices of the lower and of the upper plane."""
        lower, upper = x.lower, x.upper
        middle, zero, mixed = midpoint(lower, upper), torch.zeros_like(lower), self._mixed(x)
        at_lower, at_upper = self.function(lower), self.function(upper)
        tangent = _finite(self.derivative(middle), zero)
        secant = _finite(chord(lower, upper, at_lower, at_upper, tangent), zero)
        is_above = self.function(middle) > 0.5 * at_lower + 0.5 * at_upper
        steepness = [self.derivative(point) for point in self._ends(x)]
        least, greatest = reduce(torch.minimum, steepness), reduce(torch.maximum, steepness)

        def side(bend: Bend, is_bent: Tensor) -> Side:
            is_tangent = self._within(x, bend) | (self._within(x, Bend.EITHER) & is_bent)
            plain = torch.where(is_tangent, tangent, secant)
            low, high = (_finite(torch.where(mixed, slope, plain), plain) for slope in (least, greatest))
            return is_tangent, torch.minimum(low, plain), plain, torch.maximum(high, plain)

        return side(Bend.CONVEX, ~is_above), side(Bend.CONCAVE, is_above)

    def _within(self, x: Interval, bend: Bend) -> Tensor:
        """Return which boxes lie within a piece with this bend."""
        found = torch.zeros_like(x.lower, dtype=torch.bool)
        for kind, (start, end) in zip(self.bends, pairwise((-inf, *self.turns, inf)), strict=True):
            if kind is bend:
                found = found | ((x.lower >= start) & (x.upper <= end))
        return found

    def _ends(self, x: Interval) -> list[Tensor]:
        """Return the ends of the pieces, clipped to the box."""
        return [x.lower, *(inside(turn, x.lower, x.upper) for turn in self.turns), x.upper]

    def _height(self, x: Interval, slope: Tensor, sign: float) -> Tensor:
        """Return how far f goes above (sign 1) or below (sign −1) a line through 0, tangents of the box excepted.

        The extreme lies at an end of a piece, or inside one where f bends away from the line.
        """
        ends = self._ends(x)
        height = reduce(torch.maximum, [sign * (self.function(end) - slope * end) for end in ends])
        wanted = _FROM_ABOVE if sign > 0 else _FROM_BELOW
        pieces = [pair for bend, pair in zip(self.bends, pairwise(ends), strict=True) if bend in wanted]
        if not self.turns or not pieces:
            return height
        starts, stops = (
            torch.stack(parts).reshape(len(pieces), *[1] * (slope.dim() - x.lower.dim()), *x.lower.shape)
            for parts in zip(*pieces, strict=True)
        )
        return torch.maximum(height, self._inner_height(starts, stops, slope, sign))

    def _plane(self, x: Interval, slope: Tensor, sign: float, height: Tensor) -> Plane:
        if self.missed:
            height = height + self.missed * torch.maximum(x.lower.abs(), x.upper.abs())
        return Plane((slope,), sign * height)

    # ── where lines touch ───────────────────────────────────────────────────────────────────────────────────────
    def _inner_height(self, start: Tensor, end: Tensor, slope: Tensor, sign: float) -> Tensor:
        """Return how far f may at most go beyond the line inside pieces (P, …) where it bends away from the line.

        f′ is monotone on a piece, so it crosses the slope at most once, and then inside the last bracket [p, q]. There
        f − line is convex or concave, so it stays on one side of its tangent at the point d found, hence within
        |f′(d) − slope| (q − p) of its value at d. Without a crossing an end is extreme. Where f′ is NaN at an end,
        nothing is known.
        """
        point, missed = self._touching(start, end, slope)
        return (sign * (self.function(point) - slope * point) + missed).amax(0)

    @torch.no_grad()
    def _touching(self, start: Tensor, end: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point of each piece where f′ is nearly the slope, and how far f − line may rise above it."""
        first, last = self.derivative(start) - slope, self.derivative(end) - slope
        rising, is_lost = first > 0, (end > start) & (first.isnan() | last.isnan())
        crosses = (end > start) & ((last > 0) != rising)
        point, gap = start, first
        for step in range(_STEPS + _LAST_STEPS):
            point = midpoint(start, end) if step < _STEPS else _crossing(start, end, first, last)
            gap = self.derivative(point) - slope
            before = (gap > 0) == rising
            start, first = torch.where(before, point, start), torch.where(before, gap, first)
            end, last = torch.where(before, end, point), torch.where(before, last, gap)
        width = (end - start).clamp(min=0.0)
        missed = torch.where(crosses, gap.abs() * width, torch.zeros_like(gap))
        return point, torch.where(is_lost, torch.full_like(missed, inf), missed)


def _crossing(start: Tensor, end: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Return the zero of the line through both gaps, or the midpoint if that zero lies outside."""
    share = first / (first - last)
    return torch.lerp(start, end, torch.where((share >= 0) & (share <= 1), share, torch.full_like(share, 0.5)))


def curved(curve: Callable[[Call], Curve], rules: Callable[[RelaxationRule], Rules]) -> Rules:
    """Return the rules that `rules` makes of a relaxation, with the tunable planes of a curve."""

    def relaxation(call: Call, x: Interval) -> Planes:
        return curve(call).planes(x)

    def tuned(call: Call, share: Tensor, plain: Planes, x: Interval) -> Planes:
        return curve(call).tuned(share, plain, x)

    return replace(rules(relaxation), tuned=tuned, start=_halves)


def _halves(_call: Call, x: Interval) -> Tensor:
    """Return the choices that give the default planes."""
    return torch.full_like(torch.stack([x.lower, x.lower], 1), 0.5)


def _between(slopes: Sequence[Tensor], share: Tensor) -> Tensor:
    """Return the slope at a share: exactly the least at 0, the default at 1/2, the greatest at 1."""
    least, plain, greatest = slopes
    falling = torch.lerp(least, plain, (2.0 * share).clamp(max=1.0))
    return torch.lerp(falling, greatest, (2.0 * share - 1.0).clamp(min=0.0))


def _finite(slope: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(slope.isfinite(), slope, otherwise)
