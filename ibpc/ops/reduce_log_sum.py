"""ReduceLogSum: ln Σ x over some axes."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._planes import chord, midpoint
from ibpc.ops._reductions import SUM, gathered, reduction, total
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ln Σ x: −∞ for a zero sum, NaN for a negative one."""
    return total(call, x).log()


def interval(call: Call, x: Interval) -> Interval:
    """[ln Σ l, ln Σ u], exact; −∞ below if the sum may be 0 or negative, NaN above if it always is negative."""
    box = SUM.interval(call, x)
    defined = box.lower > 0
    safe = torch.where(box.lower <= 0, torch.ones_like(box.lower), box.lower)
    bounds = outward(call, safe.log(), _log(box.upper), 2 * ELEMENTARY_ULPS)
    return Interval.bounds(torch.where(defined, bounds.lower, torch.full_like(safe, -torch.inf)), bounds.upper)


def _log(x: Tensor) -> Tensor:
    """Return ln x with the gradient 0 where x ≤ 0."""
    positive = torch.where(x <= 0, torch.ones_like(x), x).log()
    unknown = torch.where(x == 0, torch.full_like(x, -torch.inf), torch.full_like(x, torch.nan))
    return torch.where(x <= 0, unknown, positive)


def relaxation(call: Call, x: Interval) -> Planes:
    """Chord below, tangent at the midpoint above, both in the sum; infinite where the sum may be 0 or negative."""
    lower, upper = total(call, x.lower), total(call, x.upper)
    safe = lower > 0
    ones = torch.ones_like(lower)
    lower, upper = torch.where(safe, lower, ones), torch.where(safe, upper, ones)
    middle = midpoint(lower, upper)
    slope = chord(lower, upper, lower.log(), upper.log(), 1.0 / middle)
    least = torch.minimum(lower.log() - slope * lower, upper.log() - slope * upper)
    unknown = torch.full_like(lower, torch.inf)
    views = (lambda value: gathered(call, value),)

    def plane(rate: Tensor, offset: Tensor, otherwise: Tensor) -> Plane:
        rate = torch.where(safe, rate, torch.zeros_like(rate)).unsqueeze(-1)
        return Plane((rate,), torch.where(safe, offset, otherwise), views)

    return Planes(plane(slope, least, -unknown), plane(1.0 / middle, middle.log() - 1.0, unknown))


OPERATOR = register(
    reduction(
        "ReduceLogSum",
        "The logarithm of the sum over some axes",
        (1, 11, 13, 18, 28),
        nonlinear(nominal, interval, relaxation),
    )
)
