"""Abs: |x|."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._planes import above, below, chord, inside
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import kink_at_zero, no_macs, nonlinear
from ibpc.ops.rules import Call, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = |x|."""
    return x.abs()


def interval(call: Call, x: Interval) -> Interval:
    """[max(l, −u, 0), max(−l, u)]; exact in any arithmetic."""
    return Interval.bounds(torch.relu(torch.maximum(x.lower, -x.upper)), torch.maximum(-x.lower, x.upper))


def relaxation(call: Call, x: Interval) -> Planes:
    """Above: the chord. Below: x or −x, whichever leaves less area. |x| is convex, and linear on either side of 0."""
    lower, upper = x.lower, x.upper
    ones = torch.ones_like(lower)
    tangent = torch.where(upper >= -lower, ones, -ones)
    secant = chord(lower, upper, lower.abs(), upper.abs(), tangent)
    points = [lower, upper, inside(0.0, lower, upper)]
    return Planes(below(torch.abs, tangent, points), above(torch.abs, secant, points))


OPERATOR = register(
    Operator(
        name="Abs",
        summary="Elementwise absolute value",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, relaxation), kinks=kink_at_zero),
        reads=(import_as("Abs", (6, 13)),),
        writes=export_as("Abs"),
        layers=(option_free_layer("Abs"),),
    )
)
