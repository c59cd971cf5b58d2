"""Unsqueeze: inserts feature dimensions of size 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import AXES, dimension_option, export_axes, feature_axes, onnx_integers, reshaped
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x with a 1 at each of `axes`, which count dimensions of the result."""
    (x,) = operands
    rank = len(x) + len(attributes["axes"])
    axes = feature_axes(attributes["axes"], rank, "Unsqueeze")
    sizes = iter(x)
    return tuple(1 if axis in axes else next(sizes) for axis in range(rank))


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan an Unsqueeze layer."""
    return LayerPlan({"axes": feature_axes([options["dim"]], len(operands[0]) + 1, "Unsqueeze")})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Unsqueeze."""
    x, where = node.operand(0), f"node {node.name} (Unsqueeze)"
    axes = onnx_integers(node, "axes", 1)
    if axes is None:
        raise GraphError.at(where, "no axes", "the axes to insert")
    return builder.add("Unsqueeze", [x], {"axes": feature_axes(axes, len(x.shape) + len(axes), where)})


OPERATOR = register(
    Operator(
        name="Unsqueeze",
        summary="Feature dimensions of size 1 inserted",
        attributes={"axes": AXES},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(reshaped),
        reads=(OnnxImport("Unsqueeze", (1, 11, 13, 21, 23, 24, 25), read),),
        writes=export_axes("Unsqueeze"),
        layers=(Layer("Unsqueeze", {"dim": dimension_option("The dimension to insert")}, plan, ("dim",)),),
    )
)
