"""Spread: a constant, the same for every sample.

Unlike a Constant it has a batch, and everything computed from it is bounded like any other value. It stands for
constants that runtimes may round differently.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import BATCH, Attributes, Shape
from ibpc.ops.base import Fill, Operator, Role, register
from ibpc.ops.combinators import apart, no_macs
from ibpc.ops.onnx import Writer
from ibpc.ops.rules import Call, Operand, Rules


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of a batch of the value."""
    return (BATCH, *parameters["value"])


def nominal(call: Call, x: Tensor, *, value: Tensor) -> Tensor:
    """y = value, once per sample of x."""
    return value.unsqueeze(0).expand([x.shape[0], *call.parameters["value"]])


def interval(call: Call, x: Operand, *, value: Tensor) -> Interval:
    """Return the box of the single point, once per sample of x."""
    samples = x.lower if isinstance(x, Interval) else x
    return Interval.point(nominal(call, samples, value=value))


def pull(call: Call, forms: Tensor, *, value: Tensor) -> Tensor:
    """Return zeros: the result does not depend on x."""
    return forms.new_zeros(len(forms), *call.operands[0][1:])


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export an Expand to the batch of x."""
    value = parameters["value"]
    batch = writer.node("Shape", [*operands], start=0, end=1)
    sizes = writer.constant(torch.tensor(value.shape, dtype=torch.int64))
    return writer.node("Expand", [writer.constant(value), writer.node("Concat", [batch, sizes], axis=0)])


OPERATOR = register(
    Operator(
        name="Spread",
        summary="A constant, the same for every sample",
        attributes={},
        operands=(1, 1),
        roles=(Role("value", Fill.ZEROS, trainable=False),),
        shape=shape,
        macs=no_macs,
        rules=Rules(nominal, interval, apart(nominal, interval), None, nominal, pull=pull),
        reads=(),
        writes=write,
        layers=(),
    )
)
