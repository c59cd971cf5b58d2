"""Concat: operands joined along one feature dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Attributes, Shape, format_shape
from ibpc.ops._shapes import dimension_option, feature_axis
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of the operands with the sum of their sizes in dimension `axis`.

    A constant of size 1 in dimension 0 is repeated for every sample if another operand has the batch there.
    """
    rank = len(operands[0])
    axis = feature_axis(attributes["axis"], rank, "Concat")
    rests = {(*x[1:axis], *x[axis + 1 :]) for x in operands}
    first = {x[0] for x in operands if x}
    if any(len(x) != rank for x in operands) or len(rests) > 1 or (len(first) > 1 and first != {BATCH, 1}):
        listed = ", ".join(format_shape(x) for x in operands)
        raise GraphError.at("Concat", f"operands {listed} along axis {axis}", "equal sizes in all other dimensions")
    batch = BATCH if BATCH in first else operands[0][0]
    return (batch, *operands[0][1:axis], sum(x[axis] for x in operands), *operands[0][axis + 1 :])


def nominal(call: Call, *operands: Tensor) -> Tensor:
    """y = the operands joined along the axis, constants repeated for every sample."""
    return torch.cat(repeated(call, operands), call["axis"])


def repeated(call: Call, operands: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the operands, those without a batch expanded to the batch of the others (doubled in a stack)."""
    batched = [x for x, size in zip(operands, call.operands, strict=True) if size[0] == BATCH]
    return [
        x.expand([batched[0].shape[0], *size[1:]]) if batched and size[0] != BATCH else x
        for x, size in zip(operands, call.operands, strict=True)
    ]


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Concat layer."""
    return LayerPlan({"axis": feature_axis(options["dim"], len(operands[0]), "Concat")})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Concat."""
    operands = [node.operand(slot) for slot in range(len(node.inputs))]
    axis = feature_axis(int(node.attributes["axis"]), len(operands[0].shape), f"node {node.name} (Concat)")
    return builder.add("Concat", operands, {"axis": axis})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Concat; constants are expanded to the batch of the first operand that has one."""
    batched = [name for name, size in zip(operands, call.operands, strict=True) if size[0] == BATCH]
    names = [
        _expanded(writer, name, size, batched[0]) if batched and size[0] != BATCH else name
        for name, size in zip(operands, call.operands, strict=True)
    ]
    return writer.node("Concat", names, axis=call["axis"])


def _expanded(writer: Writer, name: str, size: Shape, batched: str) -> str:
    batch = writer.node("Shape", [batched], start=0, end=1)
    target = writer.node("Concat", [batch, writer.constant(torch.tensor(size[1:]))], axis=0)
    return writer.node("Expand", [name, target])


OPERATOR = register(
    Operator(
        name="Concat",
        summary="Operands joined along one feature dimension",
        attributes={"axis": {"type": "integer"}},
        operands=(1, None),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(OnnxImport("Concat", (4, 11, 13), read),),
        writes=write,
        layers=(
            Layer(
                "Concat",
                {"dim": dimension_option("The dimension to join along", default=1)},
                plan,
            ),
        ),
    )
)
