"""Log: the natural logarithm."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import defined, spared, substituted, unbroken
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ln x; −∞ at 0, NaN below."""
    return torch.log(x)


def interval(call: Call, x: Interval) -> Interval:
    """[ln l, ln u], exact; −∞ where l is 0, in binary32 also where it may be flushed to 0. [−∞, ∞] for l < 0."""
    lower, upper = spared(call, x)
    safe = lower >= 0
    box = substituted(safe, Interval.bounds(lower, upper), 1.0)
    lower, upper = unbroken(call, torch.log(box.lower), torch.log(box.upper))
    return defined(safe, outward(call, lower, upper, 2 * ELEMENTARY_ULPS))


def curve(_call: Call) -> Curve:
    """Return the curve, which is concave and defined above 0."""
    return Curve(torch.log, torch.reciprocal, (Bend.CONCAVE,), domain=lambda x: x.lower > 0)


OPERATOR = register(
    elementwise("Log", "The natural logarithm", curved(curve, partial(nonlinear, nominal, interval)), (6, 13))
)
