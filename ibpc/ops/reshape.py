"""Reshape: the elements of a sample in the same order, in another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Attributes, Shape, format_shape
from ibpc.ops._shapes import reshaped
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return N×shape."""
    (x,) = operands
    if not x:
        raise GraphError.at("Reshape", "an operand of shape scalar", "at least one dimension")
    return (x[0], *filled_in(attributes["shape"], x, "Reshape"))


def filled_in(wanted: Sequence[int], x: Shape, where: str) -> list[int]:
    """Return the feature dimensions `wanted` with −1 resolved. Raises GraphError unless they hold a sample of x."""
    count, known = prod(x[1:]), prod(size for size in wanted if size != -1)
    unknown = sum(size == -1 for size in wanted)
    sizes = [count // known if size == -1 else size for size in wanted] if known > 0 else []
    if unknown > 1 or prod(sizes) != count or len(sizes) != len(wanted):
        raise GraphError.at(
            where,
            f"a sample of shape {list(wanted)} from {format_shape(x)}",
            f"sizes whose product is {count}",
            "the batch in dimension 0 can be neither split nor merged",
        )
    return sizes


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Reshape layer."""
    return LayerPlan({"shape": filled_in(options["shape"], operands[0], "Reshape")})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Reshape. Dimension 0 of the result must be the batch: a 0, a −1, or a 1 where the file fixes it."""
    x, where = node.operand(0), f"node {node.name}"
    target = [int(size) for size in node.known(1).flatten().tolist()]
    if 0 in target and node.attributes.get("allowzero", 0):
        raise GraphError.at(where, f"Reshape to {target} with allowzero=1", "at least one element")
    if any(size == 0 and axis >= len(x.shape) for axis, size in enumerate(target)):
        raise GraphError.at(
            where, f"Reshape to {target} of {format_shape(x.shape)}", "a 0 only where x has a dimension"
        )
    sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    if not sizes or sizes[0] not in (BATCH, 1):
        raise GraphError.at(
            where,
            f"Reshape to {target} of {format_shape(x.shape)} moves or drops the batch",
            "0, -1 or 1 as the first size",
            "export the network with the batch in dimension 0",
        )
    return builder.add("Reshape", [x], {"shape": filled_in(sizes[1:], x.shape, where)})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Reshape; the 0 copies the batch."""
    return writer.node("Reshape", [*operands, writer.constant(torch.tensor([0, *call["shape"]]))])


OPERATOR = register(
    Operator(
        name="Reshape",
        summary="The dimensions of a sample in another shape",
        attributes={"shape": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(reshaped),
        reads=(OnnxImport("Reshape", (5, 13, 14, 19, 21, 23, 24, 25), read),),
        writes=write,
        layers=(
            Layer(
                "Reshape",
                {
                    "shape": {
                        "description": "Shape of a sample, without the batch; one size may be -1: what is left",
                        "type": "array",
                        "items": {"type": "integer", "minimum": -1, "not": {"const": 0}},
                    }
                },
                plan,
                ("shape",),
            ),
        ),
    )
)
