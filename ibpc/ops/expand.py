"""Expand: repeats dimensions of size 1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Attributes, Shape, format_shape
from ibpc.ops._shapes import broadcast
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x, feature dimensions of size 1 replaced by those of the attribute `shape`."""
    (x,), sizes = operands, tuple(attributes["shape"])
    if len(sizes) != len(x) - 1 or any(old not in (1, new) for old, new in zip(x[1:], sizes, strict=True)):
        raise GraphError.at(
            "Expand", f"{format_shape(x)} to samples of {format_shape(sizes)}", "equal sizes, or 1 in the operand"
        )
    return (x[0], *sizes)


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x, repeated."""
    return x.expand([-1, *call["shape"]])


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Expand to a constant shape; a 1 there keeps the size of x."""
    x, where = node.operand(0), f"node {node.name}"
    target = [int(size) for size in node.known(1).flatten().tolist()]
    if any(size < 1 for size in target):
        raise GraphError.at(where, f"shape {target}", "positive sizes")
    result = broadcast([x.shape, tuple(target)], where)
    if result[:1] != (BATCH,) or len(result) != len(x.shape):
        raise GraphError.at(where, f"{format_shape(x.shape)} to {format_shape(result)}", "the batch in dimension 0")
    return x if result == x.shape else builder.add("Expand", [x], {"shape": list(result[1:])})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Expand; a 1 keeps the batch."""
    return writer.node("Expand", [*operands, writer.constant(torch.tensor([1, *call["shape"]]))])


OPERATOR = register(
    Operator(
        name="Expand",
        summary="Feature dimensions of size 1 repeated to another size",
        attributes={"shape": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(OnnxImport("Expand", (8, 13), read),),
        writes=write,
        layers=(),
    )
)
