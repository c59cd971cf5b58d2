"""ReduceLogSumExp: ln Σ eˣ over some axes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._reductions import count, gathered, reduction
from ibpc.ops._softmax import chord_line, relative_error, tangent_line
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ln Σ eˣ."""
    return torch.logsumexp(x, list(call["axes"]), keepdim=bool(call["keepdims"]))


def interval(call: Call, x: Interval) -> Interval:
    """[ln Σ eˡ, ln Σ eᵘ], exact, because it rises in every element.

    In binary32, with or without m = max x subtracted, the sum has the relative error `relative_error`, an absolute one
    in its logarithm. The logarithm, at most |y| or ln n, is within 8 ulps, and adding m rounds once more. Where the
    exponentials would underflow without m and a network would give −∞, m is assumed to be subtracted.
    """
    size = count(call)
    absolute = 2.0 * UNIT * 2 * ELEMENTARY_ULPS * relative_error(size)
    return outward(call, nominal(call, x.lower), nominal(call, x.upper), 2 * ELEMENTARY_ULPS + 4, absolute)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the tangent at the center below and the chords' line above; see `tangent_line`, `chord_line`."""
    box = x.map(partial(gathered, call))
    views = (lambda value: gathered(call, value),)
    slope, offset = tangent_line(box.lower, box.upper)
    chord_slope, chord_offset = chord_line(box.lower, box.upper)
    return Planes(Plane((slope,), offset, views), Plane((chord_slope,), chord_offset, views))


OPERATOR = register(
    reduction(
        "ReduceLogSumExp",
        "The logarithm of the sum of exponentials over some axes",
        (1, 11, 13, 18, 28),
        nonlinear(nominal, interval, relaxation),
    )
)
