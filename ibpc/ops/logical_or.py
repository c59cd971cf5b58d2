"""Or: x or y is true."""

from __future__ import annotations

import torch

from ibpc.ops._logic import Verdict, connective
from ibpc.ops.base import register


def connection(x: Verdict, y: Verdict) -> Verdict:
    """Return where one of them is certainly true, and where one may be."""
    return x[0] | y[0], x[1] | y[1]


OPERATOR = register(connective("Or", "1 where x or y is true (≠ 0), else 0", torch.logical_or, connection))
