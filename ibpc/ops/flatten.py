"""Flatten: merges all dimensions but the batch into one."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._elementwise import export_as
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return N×(product of the rest)."""
    (x,) = operands
    if len(x) < 1:
        raise GraphError.at("Flatten", f"an operand of shape {format_shape(x)}", "at least one dimension")
    return (x[0], prod(x[1:]))


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x with dimensions 1 and up merged."""
    return x.reshape([-1, call.output[1]])


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Flatten layer."""
    return LayerPlan({})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Flatten. Raises GraphError for an axis that would merge the batch with features."""
    x = node.operand(0)
    axis = int(node.attributes.get("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    if axis != 1:
        raise GraphError.at(f"node {node.name}", f"Flatten with axis {axis} merges the batch", "axis 1")
    return builder.add("Flatten", [x])


OPERATOR = register(
    Operator(
        name="Flatten",
        summary="All dimensions but the batch merged into one",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(OnnxImport("Flatten", (1, 9, 11, 13, 21, 23, 24, 25), read),),
        writes=export_as("Flatten"),
        layers=(Layer("Flatten", {}, plan),),
    )
)
