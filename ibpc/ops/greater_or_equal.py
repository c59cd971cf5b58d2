"""GreaterOrEqual: x ≥ y."""

from __future__ import annotations

import torch

from ibpc.interval import Interval
from ibpc.ops._logic import Verdict, comparison
from ibpc.ops.base import register


def decision(x: Interval, y: Interval) -> Verdict:
    """Return where x ≥ y everywhere, and where it may hold."""
    return x.lower >= y.upper, ~(x.upper < y.lower)


OPERATOR = register(comparison("GreaterOrEqual", "1 where x ≥ y, else 0", torch.ge, decision, (12, 16)))
