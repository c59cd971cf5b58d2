"""IsInf: whether x is infinite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._shapes import same_as_operand
from ibpc.ops._steps import elementwise_range
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import FLOAT
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 1 where x is one of the wanted infinities, else 0."""
    found = torch.zeros_like(x) > 0
    if call["detect_positive"]:
        found = found | (x == torch.inf)
    if call["detect_negative"]:
        found = found | (x == -torch.inf)
    return found.type_as(x)


def interval(call: Call, x: Interval) -> Interval:
    """[0, 0] where the bounds exclude the wanted infinities, else [0, 1].

    An infinite bound stands for any large number, so even [∞, ∞] does not prove that x is infinite.
    """
    possible = torch.zeros_like(x.lower) > 0
    if call["detect_positive"]:
        possible = possible | ~(x.upper < torch.inf)
    if call["detect_negative"]:
        possible = possible | ~(x.lower > -torch.inf)
    return Interval.bounds(torch.zeros_like(x.lower), possible.type_as(x.lower))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import IsInf."""
    attributes = {name: bool(node.attributes.get(name, 1)) for name in ("detect_positive", "detect_negative")}
    return builder.add("IsInf", [node.operand(0)], attributes)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export IsInf."""
    attributes = {name: int(call[name]) for name in ("detect_positive", "detect_negative")}
    return writer.node("Cast", [writer.node("IsInf", operands, **attributes)], to=FLOAT)


OPERATOR = register(
    Operator(
        name="IsInf",
        summary="1 where x is infinite, else 0",
        attributes={
            "detect_positive": {"type": "boolean", "default": True},
            "detect_negative": {"type": "boolean", "default": True},
        },
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, elementwise_range(interval)),
        reads=(OnnxImport("IsInf", (10, 20), read),),
        writes=write,
        layers=(),
    )
)
