"""Sqrt: the square root."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import defined, nonnegative, spared, substituted
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = √x; NaN below 0."""
    return torch.sqrt(x)


def derivative(x: Tensor) -> Tensor:
    """1 / (2 √x)."""
    return 0.5 / torch.sqrt(x)


def interval(call: Call, x: Interval) -> Interval:
    """[√l, √u], exact; [−∞, ∞] for l < 0. In binary32 an l that may be flushed counts as 0."""
    lower, upper = spared(call, x)
    safe = lower >= 0
    box = substituted(safe, Interval.bounds(lower, upper), 1.0)
    return defined(safe, nonnegative(outward(call, torch.sqrt(box.lower), torch.sqrt(box.upper), 2 * ELEMENTARY_ULPS)))


def curve(_call: Call) -> Curve:
    """Return the curve, which is concave and undefined below 0."""
    return Curve(torch.sqrt, derivative, (Bend.CONCAVE,), domain=lambda x: x.lower >= 0)


OPERATOR = register(
    elementwise("Sqrt", "The square root", curved(curve, partial(nonlinear, nominal, interval)), (6, 13))
)
