"""Xor: exactly one of x and y is true."""

from __future__ import annotations

import torch

from ibpc.ops._logic import Verdict, connective
from ibpc.ops.base import register


def connection(x: Verdict, y: Verdict) -> Verdict:
    """Return where exactly one is certainly true, and where it may be so."""
    certain = (x[0] & ~y[1]) | (~x[1] & y[0])
    refuted = (x[0] & y[0]) | (~x[1] & ~y[1])
    return certain, ~refuted


OPERATOR = register(
    connective("Xor", "1 where exactly one of x and y is true (≠ 0), else 0", torch.logical_xor, connection)
)
