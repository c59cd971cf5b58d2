"""ReduceSum: the sum over some axes."""

from __future__ import annotations

from ibpc.ops._reductions import SUM, reduction
from ibpc.ops.base import register

OPERATOR = register(reduction("ReduceSum", "The sum over some axes", (1, 11, 13), SUM))
