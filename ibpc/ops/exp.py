"""Exp: the exponential."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import nonnegative, unbroken
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
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
    Operator(
        name="Exp",
        summary="The exponential eˣ",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(import_as("Exp", (6, 13)),),
        writes=export_as("Exp"),
        layers=(option_free_layer("Exp"),),
    )
)
