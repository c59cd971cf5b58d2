"""Equal: x = y."""

from __future__ import annotations

import torch

from ibpc.interval import Interval
from ibpc.ops._logic import Verdict, comparison
from ibpc.ops.base import register


def decision(x: Interval, y: Interval) -> Verdict:
    """Return where x = y everywhere (both boxes are one and the same point), and where it may hold (the boxes meet)."""
    return (x.lower >= y.upper) & (x.upper <= y.lower), ~((x.upper < y.lower) | (x.lower > y.upper))


OPERATOR = register(comparison("Equal", "1 where x = y, else 0", torch.eq, decision, (7, 11, 13, 19)))
