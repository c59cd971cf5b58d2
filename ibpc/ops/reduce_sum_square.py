"""ReduceSumSquare: Σ x² over some axes."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._norms import moduli, power_chord
from ibpc.ops._planes import midpoint
from ibpc.ops._reductions import count, gathered, reduction, summed
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call, Plane, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = Σ x²."""
    return (x * x).sum(list(call["axes"]), keepdim=bool(call["keepdims"]))


def interval(call: Call, x: Interval) -> Interval:
    """Return the sums of the least and of the greatest squares; exact, because the terms are independent."""
    size = moduli(x.map(partial(gathered, call)))
    return summed(call, size.map(lambda end: end * end), count(call), 1)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the sums of the squares' tangents at the midpoints below and of their chords above."""
    box = x.map(partial(gathered, call))
    middle = midpoint(box.lower, box.upper)
    slope, constant = power_chord(box, 2)
    views = (lambda value: gathered(call, value),)
    return Planes(
        Plane((2.0 * middle,), -(middle * middle).sum(-1), views),
        Plane((slope,), constant.sum(-1), views),
    )


OPERATOR = register(
    reduction("ReduceSumSquare", "The sum of squares", (1, 11, 13, 18), nonlinear(nominal, interval, relaxation))
)
