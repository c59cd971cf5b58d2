"""Abs: |x|."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import elementwise
from ibpc.ops._planes import above, below, chord, inside
from ibpc.ops.base import register
from ibpc.ops.combinators import kink_at_zero, nonlinear
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
    elementwise(
        "Abs",
        "Elementwise absolute value",
        replace(nonlinear(nominal, interval, relaxation), kinks=kink_at_zero),
        (6, 13),
    )
)
