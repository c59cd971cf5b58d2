"""IsNaN: whether x is NaN."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import import_as
from ibpc.ops._shapes import same_as_operand
from ibpc.ops._steps import elementwise_range
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import FLOAT
from ibpc.ops.onnx import Writer
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 1 where x is NaN, else 0."""
    return x.isnan().type_as(x)


def interval(call: Call, x: Interval) -> Interval:
    """[0, 0] where both bounds are finite, because then every value lies between them; else [0, 1]."""
    possible = ~(x.lower.isfinite() & x.upper.isfinite())
    return Interval.bounds(torch.zeros_like(x.lower), possible.type_as(x.lower))


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export IsNaN."""
    return writer.node("Cast", [writer.node("IsNaN", operands)], to=FLOAT)


OPERATOR = register(
    Operator(
        name="IsNaN",
        summary="1 where x is NaN, else 0",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, elementwise_range(interval)),
        reads=(import_as("IsNaN", (9, 13, 20)),),
        writes=write,
        layers=(),
    )
)
