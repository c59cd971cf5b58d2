"""CumSum: cumulative sums along one feature dimension."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import feature_axis
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import affine, no_macs, no_magnitude, nonnegative_weights
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of the operand."""
    feature_axis(attributes["axis"], len(operands[0]), "CumSum")
    return operands[0]


def nominal(call: Call, x: Tensor) -> Tensor:
    """yᵢ = Σ xⱼ over j ≤ i, over j < i if exclusive, over j ≥ i or j > i if reversed."""
    axis = call["axis"]
    x = x.flip(axis) if call["reverse"] else x
    if call["exclusive"]:
        x = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, call.output[axis] - 1)], axis)
    sums = x.cumsum(axis)
    return sums.flip(axis) if call["reverse"] else sums


def terms(call: Call) -> int:
    """Return the size of the dimension: one of the outputs sums all of it."""
    axis: int = call["axis"]
    return call.output[axis]


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import CumSum."""
    x = node.operand(0)
    axis = feature_axis(int(node.known(1).item()), len(x.shape), f"node {node.name}")
    flags = {name: bool(node.attributes.get(name, 0)) for name in ("exclusive", "reverse")}
    return builder.add("CumSum", [x], {"axis": axis, **flags})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export CumSum."""
    flags = {name: int(call[name]) for name in ("exclusive", "reverse")}
    return writer.node("CumSum", [*operands, writer.constant(torch.tensor(call["axis"]))], **flags)


OPERATOR = register(
    Operator(
        name="CumSum",
        summary="The sums of the first elements along one feature dimension",
        attributes={
            "axis": {"type": "integer", "minimum": 1},
            "exclusive": {"type": "boolean", "default": False},
            "reverse": {"type": "boolean", "default": False},
        },
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=affine(nominal, nonnegative_weights(nominal), terms, no_magnitude),
        reads=(OnnxImport("CumSum", (11, 14), read),),
        writes=write,
        layers=(),
    )
)
