"""ReduceMax: the greatest element over some axes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ibpc.ops._reductions import maximum_planes, reduction
from ibpc.ops.base import register
from ibpc.ops.combinators import monotone
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = max x."""
    return x.amax(list(call["axes"]), keepdim=bool(call["keepdims"]))


OPERATOR = register(
    reduction(
        "ReduceMax",
        "The greatest element over some axes",
        (1, 11, 12, 13, 18, 20),
        replace(monotone(nominal, maximum_planes, ulps=0), selects=True),
    )
)
