"""Tile: repeats a sample along its dimensions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x with each feature dimension multiplied by its number of copies."""
    (x,), repeats = operands, attributes["repeats"]
    if len(repeats) != len(x) - 1:
        raise GraphError.at("Tile", f"repeats {repeats} of {format_shape(x)}", f"{len(x) - 1} numbers")
    return (x[0], *(size * count for size, count in zip(x[1:], repeats, strict=True)))


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x repeated along each dimension."""
    return x.repeat([1, *call["repeats"]])


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Tile."""
    repeats = [int(count) for count in node.known(1).flatten().tolist()]
    if repeats[:1] != [1] or any(count < 1 for count in repeats):
        raise GraphError.at(f"node {node.name}", f"repeats {repeats}", "1 for the batch, and no 0")
    return builder.add("Tile", [node.operand(0)], {"repeats": repeats[1:]})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Tile."""
    return writer.node("Tile", [*operands, writer.constant(torch.tensor([1, *call["repeats"]]))])


OPERATOR = register(
    Operator(
        name="Tile",
        summary="Copies of a sample one after the other, along its dimensions",
        attributes={"repeats": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(OnnxImport("Tile", (6, 13), read),),
        writes=write,
        layers=(),
    )
)
