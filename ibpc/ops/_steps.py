"""What operators with jumps share: flushing before a jump, planes, and the rules of staircases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call, IntervalRule, NominalRule, Operand, Plane, Planes, RelaxationRule, Rules
from ibpc.rounding import SMALLEST, Arithmetic

View: TypeAlias = Callable[[Tensor], Tensor]


def box_of(x: Operand) -> Interval:
    """Return the operand as a box; an exact tensor becomes a single point."""
    return x if isinstance(x, Interval) else Interval.bounds(x, x)


def flushed(call: Call, x: Operand) -> Interval:
    """Return the box, in binary32 extended to 0 where one of its elements may be flushed to 0.

    Other bounds stay: boxes are rounded outward already, so comparing them is exact.
    """
    box = box_of(x)
    if call.arithmetic is Arithmetic.REAL:
        return box
    lower, upper = box.lower, box.upper
    zero = torch.zeros_like(lower)
    return Interval.bounds(
        torch.where((lower > 0) & (lower < SMALLEST), zero, lower),
        torch.where((upper < 0) & (upper > -SMALLEST), zero, upper),
    )


def range_planes(box: Interval, operands: int, views: tuple[View, ...] = ()) -> Planes:
    """Return the bounds of a result as constant planes in this number of operands."""
    slopes = (torch.zeros_like(box.lower if not views else box.lower.unsqueeze(-1)),) * operands
    return Planes(Plane(slopes, box.lower, views), Plane(slopes, box.upper, views))


def elementwise_range(interval: IntervalRule) -> RelaxationRule:
    """Return the relaxation rule of an elementwise operator whose planes are its constant bounds."""

    def relaxation(call: Call, *operands: Operand) -> Planes:
        return range_planes(interval(call, *operands), len(operands))

    return relaxation


def staircase(nominal: NominalRule, below: float, above: float) -> Rules:
    """Return the rules of a nondecreasing step function with x + `below` ≤ f(x) ≤ x + `above`.

    Interval: [f(l), f(u)], exact in any arithmetic. Planes: constants for bounds at most 1 apart, else those two lines.
    """

    def interval(call: Call, x: Interval) -> Interval:
        return flushed(call, x).map(partial(nominal, call))

    def relaxation(call: Call, x: Interval) -> Planes:
        box = interval(call, x)
        return sloped_planes(box, box.upper - box.lower > 1.0, below, above)

    return replace(nonlinear(nominal, interval, relaxation), guiding=straight_through(nominal))


def straight_through(nominal: NominalRule) -> NominalRule:
    """Return the rule with the gradient of x (a straight-through estimator: Bengio et al. 2013, arXiv 1308.3432)."""

    def guiding(call: Call, x: Tensor) -> Tensor:
        return nominal(call, x).detach() + (x - x.detach())

    return guiding


def sloped_planes(box: Interval, sloped: Tensor, below: float, above: float) -> Planes:
    """Return the planes x + `below` and x + `above` where `sloped`, elsewhere the bounds as constants."""
    slope = sloped.type_as(box.lower)
    return Planes(
        Plane((slope,), torch.where(sloped, torch.full_like(box.lower, below), box.lower)),
        Plane((slope,), torch.where(sloped, torch.full_like(box.upper, above), box.upper)),
    )
