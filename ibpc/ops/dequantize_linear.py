"""DequantizeLinear: (x − zero point) · scale."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ibpc.ops._quantization import AXIS, ROLES, VERSIONS, along_axis, read_parameters, shape
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import affine, no_macs
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor, *, scale: Tensor, zero_point: Tensor) -> Tensor:
    """y = (x − zero point) · scale."""
    return (x - along_axis(call, zero_point)) * along_axis(call, scale)


def absolute(
    call: Call,
    radius: Tensor,
    *,
    offset: Tensor | None,
    scale: Tensor,
    zero_point: Tensor,
) -> Tensor:
    """|scale| r + offset."""
    result = radius * along_axis(call, scale).abs()
    return result if offset is None else result + offset


def terms(call: Call) -> int:
    """Return 2: x · scale and zero point · scale."""
    return 2


def magnitude(call: Call, *, scale: Tensor, zero_point: Tensor) -> Tensor:
    """|zero point · scale|."""
    return (along_axis(call, zero_point) * along_axis(call, scale)).abs()


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import DequantizeLinear."""
    axis, parameters = read_parameters(node)
    return builder.add("DequantizeLinear", [node.operand(0)], {"axis": axis}, parameters)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Sub and Mul, because the operand is floating-point."""
    scale, zero_point = (along_axis(call, parameters[role]) for role in ("scale", "zero_point"))
    return writer.node("Mul", [writer.node("Sub", [*operands, writer.constant(zero_point)]), writer.constant(scale)])


OPERATOR = register(
    Operator(
        name="DequantizeLinear",
        summary="(x − zero point) · scale",
        attributes={"axis": AXIS},
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=no_macs,
        rules=affine(nominal, absolute, terms, magnitude),
        reads=(OnnxImport("DequantizeLinear", VERSIONS, read),),
        writes=write,
        layers=(),
    )
)
