"""ArgMax: the index of the greatest element along one axis."""

from __future__ import annotations

from ibpc.interval import Interval
from ibpc.ops._extremes import extreme_index
from ibpc.ops.base import register


def itself(x: Interval) -> Interval:
    """Return x: the index of its greatest element is wanted."""
    return x


OPERATOR = register(extreme_index("ArgMax", "Index of the greatest element along one axis", itself))
