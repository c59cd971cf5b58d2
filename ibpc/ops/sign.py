"""Sign: −1, 0 or 1."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import export_as, import_as
from ibpc.ops._shapes import same_as_operand
from ibpc.ops._steps import elementwise_range, flushed
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = −1 for x < 0, 0 for x = 0, 1 for x > 0."""
    return torch.sign(x)


def guiding(call: Call, x: Tensor) -> Tensor:
    """Return y with the gradient of x / (1 + |x|), never 0 (a straight-through estimator: Bengio et al. 2013)."""
    bend = x / (1.0 + x.abs())
    return torch.sign(x) + (bend - bend.detach())


def interval(call: Call, x: Interval) -> Interval:
    """[sign(l), sign(u)], exact in any arithmetic; ±1 for NaN bounds."""
    box = flushed(call, x)
    lower, upper = box.lower, box.upper
    return Interval.bounds(
        (lower > 0).type_as(lower) - (~(lower >= 0)).type_as(lower),
        (~(upper <= 0)).type_as(upper) - (upper < 0).type_as(upper),
    )


OPERATOR = register(
    Operator(
        name="Sign",
        summary="−1, 0 or 1: the sign of x",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, elementwise_range(interval)), guiding=guiding),
        reads=(import_as("Sign", (9, 13)),),
        writes=export_as("Sign"),
        layers=(),
    )
)
