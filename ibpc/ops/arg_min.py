"""ArgMin: the index of the least element along one axis."""

from __future__ import annotations

from ibpc.interval import Interval
from ibpc.ops._extremes import extreme_index
from ibpc.ops.base import register


def negated(x: Interval) -> Interval:
    """Return −x: the least element of x is the greatest of −x."""
    return Interval.bounds(-x.upper, -x.lower)


OPERATOR = register(extreme_index("ArgMin", "Index of the least element along one axis", negated))
