"""ReduceL1: Σ |x| over some axes."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._norms import norm_interval, norm_planes
from ibpc.ops._reductions import count, gathered, reduction
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = Σ |x|."""
    return x.abs().sum(list(call["axes"]), keepdim=bool(call["keepdims"]))


def interval(call: Call, x: Interval) -> Interval:
    """Return the sums of the least and of the greatest moduli; exact. See `norm_interval`."""
    return norm_interval(call, x.map(partial(gathered, call)), 1, count(call))


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the sums of ±x below and of chords above; see `norm_planes`."""
    return norm_planes(x.map(partial(gathered, call)), 1, lambda value: gathered(call, value))


OPERATOR = register(
    reduction("ReduceL1", "The sum of absolute values", (1, 11, 13, 18), nonlinear(nominal, interval, relaxation))
)
