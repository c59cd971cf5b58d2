"""Constant: a value that does not depend on an input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops.base import Fill, Operator, Role, register
from ibpc.ops.combinators import apart, no_macs
from ibpc.ops.onnx import Writer
from ibpc.ops.rules import Call, Rules


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of the value."""
    return parameters["value"]


def nominal(call: Call, *, value: Tensor) -> Tensor:
    """y = value."""
    return value


def interval(call: Call, *, value: Tensor) -> Interval:
    """Return the box of the single point `value`."""
    return Interval.point(value)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export an initializer."""
    return writer.constant(parameters["value"])


OPERATOR = register(
    Operator(
        name="Constant",
        summary="A value that depends on no input",
        attributes={},
        operands=(0, 0),
        roles=(Role("value", Fill.ZEROS, trainable=False),),
        shape=shape,
        macs=no_macs,
        rules=Rules(nominal, interval, apart(nominal, interval), None, nominal),
        reads=(),
        writes=write,
        layers=(),
    )
)
