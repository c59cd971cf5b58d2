"""Not: x is false."""

from __future__ import annotations

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._logic import export_logical, truth, verdict
from ibpc.ops._shapes import same_as_operand
from ibpc.ops._steps import elementwise_range
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import number
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 1 where x = 0, else 0."""
    return (x == 0).type_as(x)


def interval(call: Call, x: Interval) -> Interval:
    """[1, 1] where the box is the point 0, [0, 0] where 0 is not in it, else [0, 1]; exact."""
    certain, possible = truth(call, x)
    return verdict(~possible, ~certain, x)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Not."""
    return builder.add("Not", [number(node, 0, builder)])


OPERATOR = register(
    Operator(
        name="Not",
        summary="1 where x = 0 (false), else 0",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, elementwise_range(interval)),
        reads=(OnnxImport("Not", (1,), read),),
        writes=export_logical("Not"),
        layers=(),
    )
)
