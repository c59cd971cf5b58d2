"""QuantizeLinear: rounds x to integers y with x ≈ (y − zero point) · scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ops._quantization import AXIS, ROLES, VERSIONS, along_axis, read_parameters, shape
from ibpc.ops._steps import range_planes
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.element_types import NUMBERS, RANGES, name_of
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes

TYPES: Final = ("uint8", "int8", "uint16", "int16")
# x / scale is off by one rounding, or by two as a product with 1 / scale; the bound's own division adds one.
QUOTIENT_ULPS: Final = 3


def nominal(call: Call, x: Tensor, *, scale: Tensor, zero_point: Tensor) -> Tensor:
    """y = saturate(round(x / scale) + zero point), half to even."""
    return stepped(call, x / along_axis(call, scale), zero_point)


def stepped(call: Call, quotient: Tensor, zero_point: Tensor) -> Tensor:
    """Return saturate(round(quotient) + zero point)."""
    least, greatest = RANGES[call["type"]]
    return torch.clamp(torch.round(quotient) + along_axis(call, zero_point), float(least), float(greatest))


def interval(call: Call, x: Interval, *, scale: Tensor, zero_point: Tensor) -> Interval:
    """[f(l), f(u)], exact; in binary32 the quotients are rounded outward, and the steps after them are exact."""
    size = along_axis(call, scale)
    quotient = outward(call, x.lower / size, x.upper / size, QUOTIENT_ULPS)
    return quotient.map(lambda end: stepped(call, end, zero_point))


def relaxation(call: Call, x: Interval, *, scale: Tensor, zero_point: Tensor) -> Planes:
    """Constants: the bounds."""
    return range_planes(interval(call, x, scale=scale, zero_point=zero_point), 1)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import QuantizeLinear. The type is that of the zero point, or else `output_dtype`, or else uint8."""
    axis, parameters = read_parameters(node)
    kind = node.type_of(2) or int(node.attributes.get("output_dtype", 0)) or NUMBERS["uint8"]
    name = name_of(kind, f"node {node.name}")
    if name not in TYPES:
        raise GraphError.at(f"node {node.name}", f"quantization to {name}", f"one of {', '.join(TYPES)}")
    return builder.add("QuantizeLinear", [node.operand(0)], {"axis": axis, "type": name}, parameters)


def refuse_dynamic(node: OnnxNode, builder: Builder) -> Value:
    """Refuse DynamicQuantizeLinear. Raises GraphError."""
    raise GraphError.at(
        f"node {node.name}",
        "its scale and zero point depend on the range of its input",
        "constant ones",
        "quantize the network statically, with QuantizeLinear",
    )


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Div, Round, Add and Clip: the same function in floating point, as the operators after it expect."""
    scale, zero_point = (along_axis(call, parameters[role]) for role in ("scale", "zero_point"))
    quotient = writer.node("Div", [*operands, writer.constant(scale)])
    shifted = writer.node("Add", [writer.node("Round", [quotient]), writer.constant(zero_point)])
    ends = [writer.constant(torch.tensor(float(end))) for end in RANGES[call["type"]]]
    return writer.node("Clip", [shifted, *ends])


OPERATOR = register(
    Operator(
        name="QuantizeLinear",
        summary="saturate(round(x / scale) + zero point)",
        attributes={"axis": AXIS, "type": {"enum": list(TYPES)}},
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(
            OnnxImport("QuantizeLinear", VERSIONS, read),
            OnnxImport("DynamicQuantizeLinear", (11,), refuse_dynamic),
        ),
        writes=write,
        layers=(),
    )
)
