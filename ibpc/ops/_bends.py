"""Planes of functions that are convex or concave piece by piece, with slopes that may be any between their steepest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from itertools import pairwise
from typing import Final, TypeAlias

import torch

from ibpc.interval import Interval
from ibpc.ops._curves import defined_planes, substituted
from ibpc.ops._planes import Function, chord, inside, midpoint
from ibpc.ops.rules import Call, Plane, Planes, RelaxationRule, Rules

Tensor: TypeAlias = torch.Tensor
Domain: TypeAlias = Callable[[Interval], Tensor]
# A piece of the box from a point to another, and the slope of the line that is to touch there.
Search: TypeAlias = tuple[Tensor, Tensor, Tensor]

# Bisections for the point where a line touches, before steps by the line through f′ at both ends of what is left. These
# are of little use where f′ jumps.
_STEPS: Final = 5
_LAST_STEPS: Final = 2
JUMPING: Final = 20
# A point where every function of a domain of its own is defined.
_KNOWN: Final = 1.0


class Bend(Enum):
    """How a function bends on a piece; EITHER: the way may depend on the element."""

    LINE = "line"
    CONVEX = "convex"
    CONCAVE = "concave"
    EITHER = "either"


# A lower line may touch inside a piece of the first kinds, an upper one inside one of the second.
_FROM_BELOW: Final = (Bend.CONVEX, Bend.EITHER)
_FROM_ABOVE: Final = (Bend.CONCAVE, Bend.EITHER)
BELL: Final = (Bend.CONCAVE, Bend.CONVEX, Bend.CONCAVE)


@dataclass(frozen=True)
class Curve:
    """A continuous function, its derivative, and how it bends on each of the pieces between its turns.

    A plane's slope may be any: its offset is the extreme of f − line over l, u, the turns and, where f bends away from
    the line, the point of each piece where f′ is the slope, moved outward by what the search for that point may miss.
    Without a choice the slope is f′ at the midpoint where the tangent is the best plane (below, where f is convex over
    the box; above, where it is concave), otherwise the chord's. Choices go from there to the least and to the greatest
    slope that f has in the box or at a turn in it: any other line lies on the far side of one of these. Where the chord
    is the best plane there is nothing to choose.

    At a turn f′ is its limit from a piece that is no line. Where it jumps inside a piece, `steps` are to be `JUMPING`.
    `domain` tells over which boxes the function is defined; over others planes are ∓∞. What a network computes may be
    off by `missed` times the greatest modulus in the box.
    """

    function: Function
    derivative: Function
    bends: tuple[Bend, ...]
    turns: tuple[float, ...] = ()
    domain: Domain | None = None
    missed: float = 0.0
    steps: int = _STEPS

    def planes(self, x: Interval) -> Planes:
        """Return the planes without a choice; their anchors are the slopes to choose from, least to greatest."""
        below, above = self._slopes(self._known(x))
        return replace(self._planes(x, below[1], above[1]), anchors=(*below, *above))

    def tuned(self, share: Tensor, plain: Planes, x: Interval) -> Planes:
        """Return planes by choices (…, B, 2, *shape), below and above: 0 the least slope, 1 the greatest, 1/2 plain."""
        below, above = share.unbind(share.dim() - x.lower.dim())
        return self._planes(x, _chosen(plain.anchors[:3], below), _chosen(plain.anchors[3:], above))

    def _known(self, x: Interval) -> Interval:
        """Return the boxes over which the function is defined, others replaced by a point where it is."""
        return x if self.domain is None else substituted(self.domain(x), x, _KNOWN)

    def _slopes(self, x: Interval) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Return the least, the plain and the greatest slope of the lower and of the upper plane."""
        lower, upper = x.lower, x.upper
        middle, zero = midpoint(lower, upper), torch.zeros_like(lower)
        at_lower, at_upper = self.function(lower), self.function(upper)
        tangent = _finite(self.derivative(middle), zero)
        secant = _finite(chord(lower, upper, at_lower, at_upper, tangent), zero)
        whole = torch.ones_like(lower, dtype=torch.bool)
        for turn in self.turns:
            whole = whole & ((lower >= turn) | (upper <= turn))
        convex = self.function(middle) <= 0.5 * at_lower + 0.5 * at_upper
        steepness = [self.derivative(point) for point in self._ends(x)]
        least, greatest = reduce(torch.minimum, steepness), reduce(torch.maximum, steepness)

        def choice(touches: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            plain = torch.where(touches, tangent, secant)
            low, high = (_finite(torch.where(free, slope, plain), plain) for slope in (least, greatest))
            return torch.minimum(low, plain), plain, torch.maximum(high, plain)

        return choice(whole & convex, ~whole | convex), choice(whole & ~convex, ~whole | ~convex)

    def _ends(self, x: Interval) -> list[Tensor]:
        """Return the ends of the pieces in the box."""
        return [x.lower, *(inside(turn, x.lower, x.upper) for turn in self.turns), x.upper]

    def _planes(self, x: Interval, below: Tensor, above: Tensor) -> Planes:
        """Return the planes of two slopes."""
        box = self._known(x)
        ends = self._ends(box)
        pieces = list(zip(self.bends, pairwise(ends), strict=True))
        lows = [(start, end, below) for bend, (start, end) in pieces if bend in _FROM_BELOW]
        highs = [(start, end, above) for bend, (start, end) in pieces if bend in _FROM_ABOVE]
        touching = self._touching([*lows, *highs])
        planes = Planes(
            self._plane(box, below, -1.0, ends, touching[: len(lows)]),
            self._plane(box, above, 1.0, ends, touching[len(lows) :]),
        )
        return planes if self.domain is None else defined_planes(self.domain(x), planes)

    def _plane(
        self, x: Interval, slope: Tensor, side: float, ends: Sequence[Tensor], touching: Sequence[tuple[Tensor, Tensor]]
    ) -> Plane:
        """Return the plane of a slope above (side 1) or below (side −1) the curve."""
        heights = [side * (self.function(point) - slope * point) for point in ends]
        heights += [side * (self.function(point) - slope * point) + missed for point, missed in touching]
        offset = reduce(torch.maximum, heights)
        if self.missed:
            offset = offset + self.missed * torch.maximum(x.lower.abs(), x.upper.abs())
        return Plane((slope,), side * offset)

    # ── where lines touch ───────────────────────────────────────────────────────────────────────────────────────
    @torch.no_grad()
    def _touching(self, searches: Sequence[Search]) -> list[tuple[Tensor, Tensor]]:
        """Return for each search the point where f′ is the slope, and how far f − line may go beyond its value there.

        f′ is monotone on a piece, so it crosses the slope at most once, and if it does, the crossing lies in the last
        bracket [p, q]. There f − line is convex or concave and stays on one side of its tangent at the point d that is
        returned, hence within |f′(d) − slope| (q − p) of its value at d. If it does not cross, an end is extreme.
        """
        if not searches:
            return []
        shape = max((slope.shape for *_, slope in searches), key=len)
        start, end, slope = (
            torch.stack([part.expand(shape) for part in parts]) for parts in zip(*searches, strict=True)
        )
        first, last = self.derivative(start) - slope, self.derivative(end) - slope
        rising = first > 0
        crosses = (end > start) & ((last > 0) != rising)
        point, gap = start, first
        for step in range(self.steps + _LAST_STEPS):
            point = midpoint(start, end) if step < self.steps else _crossing(start, end, first, last)
            gap = self.derivative(point) - slope
            before = (gap > 0) == rising
            start, first = torch.where(before, point, start), torch.where(before, gap, first)
            end, last = torch.where(before, end, point), torch.where(before, last, gap)
        width = torch.maximum(end - start, torch.zeros_like(end))
        missed = torch.where(crosses, gap.abs() * width, torch.zeros_like(gap))
        return list(zip(point, missed, strict=True))


def _crossing(start: Tensor, end: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Return where the line through both gaps is zero, the midpoint where that is nowhere between."""
    share = first / (first - last)
    return torch.lerp(start, end, torch.where((share >= 0) & (share <= 1), share, torch.full_like(share, 0.5)))


def curved(curve: Callable[[Call], Curve], rules: Callable[[RelaxationRule], Rules]) -> Rules:
    """Return the rules that `rules` makes of a relaxation, with the planes of a curve, which are tuned."""

    def relaxation(call: Call, x: Interval) -> Planes:
        return curve(call).planes(x)

    def tuned(call: Call, share: Tensor, plain: Planes, x: Interval) -> Planes:
        return curve(call).tuned(share, plain, x)

    return replace(rules(relaxation), tuned=tuned, start=_halves)


def _halves(_call: Call, x: Interval) -> Tensor:
    """Return the choice of the plain planes."""
    return torch.full_like(torch.stack([x.lower, x.lower], 1), 0.5)


def _chosen(slopes: Sequence[Tensor], share: Tensor) -> Tensor:
    """Return the slope at a share: the least at 0, the plain one at 1/2, the greatest at 1."""
    least, plain, greatest = slopes
    falling = torch.lerp(least, plain, (2.0 * share).clamp(max=1.0))
    return torch.lerp(falling, greatest, (2.0 * share - 1.0).clamp(min=0.0))


def _finite(slope: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(slope.isfinite(), slope, otherwise)
