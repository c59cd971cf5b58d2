"""ReduceMin: the least element over some axes."""

from __future__ import annotations

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._reductions import maximum_planes, reduction
from ibpc.ops.base import register
from ibpc.ops.combinators import monotone
from ibpc.ops.rules import Call, Plane, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = min x."""
    return x.amin(list(call["axes"]), keepdim=bool(call["keepdims"]))


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of min x = −max(−x): those of the maximum over the mirrored box, negated."""
    mirrored = maximum_planes(call, Interval.bounds(-x.upper, -x.lower))
    lower, upper = mirrored.upper, mirrored.lower
    return Planes(
        Plane(lower.slopes, -lower.offset, lower.views),
        Plane(upper.slopes, -upper.offset, upper.views),
    )


OPERATOR = register(
    reduction(
        "ReduceMin",
        "The least element over some axes",
        (1, 11, 12, 13, 18, 20),
        monotone(nominal, relaxation, ulps=0),
    )
)
