"""Cutting a box along its inputs where the network multiplies perturbed values: quadratic forms refute and clip boxes.

Every row of a disjunct, and sums of two of them, are bounded below by a quadratic form. If one is above 0 all over a
box, there is no counterexample in it; if its tangent is above 0 on a slab of the box, there is none in the slab, which
is clipped off (Zhou et al. 2025, Clip-and-Verify). The rest is halved along the axis that narrows the form most.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.quadratic import Quadratics, monomials, quadratics
from ibpc.bounds.values import Walk
from ibpc.interval import Interval
from ibpc.ops.rules import BilinearRules
from ibpc.verify.goal import Goal
from ibpc.verify.search.parts import BoxStack, value_count
from ibpc.verify.search.roots import Roots

# Most inputs for quadratic forms.
MOST_VARIABLES: Final = 8
_MOST_BOXES: Final = 2048
_NUMBERS: Final = 2**24
# Weights of the second of two rows, both normalized to size 1, and the most rows that are added in pairs.
_SHARES: Final = (2.0**-5, 2.0**-2, 2.0)
_MOST_PAIRED: Final = 3
# Slabs are clipped off a little less far than the tangent allows.
_SLACK: Final = 2.0**-40


def has_products(walk: Walk) -> bool:
    """Return whether two values that depend on the inputs are multiplied somewhere."""
    return any(
        isinstance(step.operator.rules, BilinearRules) and all(name in walk.perturbed for name in step.operands)
        for step in walk.steps.values()
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Bounds of S sums of rows over boxes: each sum is at least `least` + slope · δ + Σ |slope|.

    `weights` (S, R, B) make the sums from the rows; `margin` (B,) is the best lower bound of a single row.
    """

    least: Tensor
    slope: Tensor
    weights: Tensor
    margin: Tensor

    @property
    def best(self) -> Tensor:
        """The sum that comes nearest to refuting each box, (B,)."""
        return self.least.argmax(0)


class ProductParts(BoxStack):
    """Boxes that are bounded by quadratic forms; they have a width along `_axes` only."""

    def __init__(self, roots: Roots, goal: Goal, lower: Tensor, upper: Tensor) -> None:
        self._roots, self._walk = roots, roots.walk
        self._rows, self._offsets = goal.excesses()
        self._axes = (lower < upper).nonzero()[:, 0].tolist()
        numbers = value_count(roots.walk) * monomials(len(self._axes))
        super().__init__(lower, upper, max(1, min(_MOST_BOXES, _NUMBERS // max(1, numbers))))

    def advance(self, deadline: float) -> int:  # noqa: ARG002
        """Bound the boxes on top, clip off what is refuted, and halve the rest; a batch always runs to its end."""
        lower, upper = self._taken()
        found = self._bounded(lower, upper)
        low, high = self._clipped(lower, upper, found)
        left = ((found.least.amax(0) <= 0) & (low <= high).all(1)).nonzero()[:, 0]
        if len(left):
            low, high = low[left], high[left]
            weights = found.weights.gather(0, found.best[None, None].expand(1, *found.weights.shape[1:]))[0, :, left]
            self._halved(low, high, found.margin[left], self._gains(low, high, weights))
        self.margin = self._least_margin()
        return len(lower)

    def _forms(self, lower: Tensor, upper: Tensor) -> Quadratics:
        boxes: tuple[Interval, ...] = self._roots.boxes(lower, upper)
        return quadratics(self._walk, boxes, self._axes, self._roots.arithmetic, self._rows)

    def _bounded(self, lower: Tensor, upper: Tensor) -> _Found:
        """Bound each row, and sums of two rows with several weights."""
        forms = self._forms(lower, upper)
        offsets = self._offsets[:, None].expand_as(forms.constant)
        forms = Quadratics(forms.constant + offsets - _SLACK * offsets.abs(), forms.slope, forms.square, forms.radius)
        weights = _weights(forms.size())
        least, slope = forms.weighted(weights).least()
        least = least.nan_to_num(-inf, inf, -inf)
        alone = least[: len(offsets)] / torch.stack([weights[row, row] for row in range(len(offsets))])
        return _Found(least, slope, weights, (alone - _SLACK * alone.abs()).nan_to_num(-inf, inf, -inf).amax(0))

    def _clipped(self, lower: Tensor, upper: Tensor, found: _Found) -> tuple[Tensor, Tensor]:
        """Return the boxes less the slabs on which a tangent is above 0; lower > upper where nothing is left.

        Along an axis the tangent rises by 2 |slope| from one end to the other, starting from at least `least`.
        """
        low, high = lower.clone(), upper.clone()
        for number, axis in enumerate(self._axes):
            slope = found.slope[:, :, number]
            width = upper[:, axis] - lower[:, axis]
            share = (-found.least).clamp(min=0.0) / (2.0 * slope.abs()).clamp(min=1e-200)
            reach = width * (share * (1.0 + _SLACK)) + _SLACK * (lower[:, axis].abs() + upper[:, axis].abs())
            reach = reach.nan_to_num(inf, inf, inf)
            down, up = torch.where(slope > 0, reach, inf).amin(0), torch.where(slope < 0, reach, inf).amin(0)
            high[:, axis] = torch.minimum(high[:, axis], lower[:, axis] + down)
            low[:, axis] = torch.maximum(low[:, axis], upper[:, axis] - up)
        return low, high

    def _gains(self, lower: Tensor, upper: Tensor, weights: Tensor) -> Tensor:
        """Return how much the form's radius shrinks, to first order, as the box shrinks along each axis, (B, n)."""
        center = 0.5 * lower + 0.5 * upper
        with torch.enable_grad():
            half = (0.5 * upper - 0.5 * lower).requires_grad_()
            radius = self._forms(center - half, center + half).radius
            finite = torch.where(radius.isfinite(), radius, torch.zeros_like(radius))
            (gradient,) = torch.autograd.grad((finite * weights).sum(), half)
        width = half.detach()
        steep = (gradient * width).nan_to_num(0.0, 0.0, 0.0)
        return torch.where(width > 0, steep + 1e-12 * width, -inf)


def _weights(sizes: Tensor) -> Tensor:
    """Return weights (S, R, B) for rows of sizes (R, B): each row alone, then pairs."""
    rows = len(sizes)
    scale = 1.0 / sizes.clamp(1e-100, 1e100)
    alone = torch.eye(rows, dtype=sizes.dtype, device=sizes.device)
    units = [alone[row] for row in range(rows)]
    if rows <= _MOST_PAIRED:
        units += [alone[row] + share * alone[other] for row, other in combinations(range(rows), 2) for share in _SHARES]
    return torch.stack(units)[:, :, None] * scale
