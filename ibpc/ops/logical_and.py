"""And: x and y are true."""

from __future__ import annotations

import torch

from ibpc.ops._logic import Verdict, connective
from ibpc.ops.base import register


def connection(x: Verdict, y: Verdict) -> Verdict:
    """Return where both are certainly true, and where both may be."""
    return x[0] & y[0], x[1] & y[1]


OPERATOR = register(connective("And", "1 where x and y are true (≠ 0), else 0", torch.logical_and, connection))
