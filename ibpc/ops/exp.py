"""Exp: the exponential."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import nonnegative, unbroken
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = eˣ."""
    return torch.exp(x)


def interval(call: Call, x: Interval) -> Interval:
    """[eˡ, eᵘ], exact. In binary32 ends are within `ELEMENTARY_ULPS`; an overflow leaves an infinite upper bound."""
    lower, upper = unbroken(call, torch.exp(x.lower), torch.exp(x.upper))
    return nonnegative(outward(call, lower, upper, 2 * ELEMENTARY_ULPS))


def curve(_call: Call) -> Curve:
    """Return the curve, which is convex."""
    return Curve(torch.exp, torch.exp, (Bend.CONVEX,))


OPERATOR = register(
    elementwise("Exp", "The exponential eˣ", curved(curve, partial(nonlinear, nominal, interval)), (6, 13))
)
