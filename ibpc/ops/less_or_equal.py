"""LessOrEqual: x ≤ y."""

from __future__ import annotations

import torch

from ibpc.interval import Interval
from ibpc.ops._logic import Verdict, comparison
from ibpc.ops.base import register


def decision(x: Interval, y: Interval) -> Verdict:
    """Return where x ≤ y everywhere, and where it may hold."""
    return x.upper <= y.lower, ~(x.lower > y.upper)


OPERATOR = register(comparison("LessOrEqual", "1 where x ≤ y, else 0", torch.le, decision, (12, 16)))
