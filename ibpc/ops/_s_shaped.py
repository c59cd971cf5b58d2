"""Planes of S-shaped functions, with tangents at any point where they are sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._planes import BISECTIONS, Function, above, below, chord, midpoint
from ibpc.ops.rules import Call, Planes, RelaxationRule, Rules


@dataclass(frozen=True)
class SShape:
    """An increasing f, convex below 0 and concave above, with f(x) + f(−x) constant, and its derivative.

    Upper plane. Over a box above 0: a tangent. Over a box with 0 inside: a tangent at a point d ≥ d*, where the tangent
    at d* passes through (l, f(l)). If there is no such point, and over boxes below 0: a line with at most the slope of
    the chord. (Zhang et al. 2018, CROWN, arXiv 1811.00866, section 3.2; with d chosen: Xu et al. 2021, arXiv
    2011.13824.) The area depends on the plane's value in the middle of the box, so it is least for the tangent there,
    or else for the one nearest to it. The offset is the greatest of f − line at l, u and the point d of contact. This
    is sound: a tangent at d ≥ 0 lies above f on [0, u], and on [l, 0] the convex f − line is greatest at l or 0. If no
    tangent in the box passes above (l, f(l)), f′ exceeds the chord's slope throughout [0, u], so f − line is greatest
    at u. The lower plane is the upper plane of the mirrored function.
    """

    function: Function
    derivative: Function

    def planes(self, x: Interval) -> Planes:
        """Return the planes of least area, whose tangents touch as near to the middle of the box as is sound."""
        anchors = self._anchors(x)
        return self._touching(x, _start(x, anchors), anchors)

    def tuned(self, _call: Call, share: Tensor, plain: Planes, x: Interval) -> Planes:
        """Return planes whose tangents touch between the far end of the box (0) and the nearest sound point (1).

        Without a tangent, the slope is this share of the chord's. `share` is (…, B, 2, *shape), below and above.
        """
        return self._touching(x, share, plain.anchors)

    def start(self, _call: Call, x: Interval) -> Tensor:
        """Return the shares of the planes of least area, (B, 2, *shape)."""
        return _start(x, self._anchors(x))

    def _anchors(self, x: Interval) -> tuple[Tensor, ...]:
        """Return the anchors of the lower plane (in the mirrored box) and of the upper one."""
        return (*self._anchor(-x.upper, -x.lower), *self._anchor(x.lower, x.upper))

    def _touching(self, x: Interval, share: Tensor, anchors: tuple[Tensor, ...]) -> Planes:
        lower, upper = x.lower, x.upper
        lower_share, upper_share = share.unbind(share.dim() - lower.dim())
        slope, touch = self._line(upper, anchors[3:], upper_share)
        mirrored_slope, mirrored_touch = self._line(-lower, anchors[:3], lower_share)
        return Planes(
            below(self.function, mirrored_slope, [lower, upper, -mirrored_touch]),
            above(self.function, slope, [lower, upper, touch]),
            anchors,
        )

    def _line(self, end: Tensor, anchor: tuple[Tensor, ...], share: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope of an upper plane and where it touches, `share` of the way from the end to the first one."""
        first, touches, secant = anchor
        point = torch.minimum(torch.maximum(torch.lerp(end, first, share), first), end)
        point = torch.where(point.isfinite(), point, first)
        return torch.where(touches, self.derivative(point), share * secant), point

    def _anchor(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first point where an upper plane may touch, whether it is a tangent, and the chord's slope.

        A tangent at d ≥ 0 passes above (l, f(l)) exactly if d ≥ d*. d* ≤ −l, because the chord from −d to d has slope
        f(d)/d ≥ f′(d).
        """
        at_lower = self.function(lower)

        def clears(point: Tensor) -> Tensor:
            rise = self.derivative(point) * (0.5 * point - 0.5 * lower)
            return self.function(point) - 2.0 * rise >= at_lower

        start, end = torch.zeros_like(lower), torch.minimum(-lower, upper).clamp(min=0.0)
        touches = clears(upper)
        for _ in range(BISECTIONS):
            middle = midpoint(start, end)
            sound = clears(middle)
            start, end = torch.where(sound, start, middle), torch.where(sound, middle, end)
        concave, convex = lower >= 0, upper <= 0
        first = torch.where(concave, lower, torch.minimum(end, upper))
        secant = chord(lower, upper, at_lower, self.function(upper), self.derivative(first))
        return first, concave | (touches & ~convex), secant


def s_shaped(curve: SShape, rules: Callable[[RelaxationRule], Rules]) -> Rules:
    """Return the rules that `rules` makes of a relaxation, with the tunable planes of an S-shaped function."""

    def relaxation(call: Call, x: Interval) -> Planes:
        return curve.planes(x)

    return replace(rules(relaxation), tuned=curve.tuned, start=curve.start)


def _start(x: Interval, anchors: tuple[Tensor, ...]) -> Tensor:
    """Return the shares (B, 2, *shape) of tangents in the middle or at the first sound point; 1 where there is none."""
    middle = midpoint(x.lower, x.upper)
    lower, upper = _nearest(-middle, -x.lower, anchors[:3]), _nearest(middle, x.upper, anchors[3:])
    return torch.stack([lower, upper], 1)


def _nearest(point: Tensor, end: Tensor, anchor: tuple[Tensor, ...]) -> Tensor:
    """Return where `point` lies on the way from an end of the box to the first sound point, as a share of at most 1."""
    first, touches, _ = anchor
    span = end - first
    share = (end - point) / torch.where(span > 0, span, torch.ones_like(span))
    return torch.where(touches & (span > 0) & share.isfinite(), share.clamp(max=1.0), 1.0)
