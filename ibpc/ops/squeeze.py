"""Squeeze: removes feature dimensions of size 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._shapes import AXES, dimension_option, export_axes, feature_axes, onnx_integers, reshaped
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x without the dimensions `axes`."""
    (x,) = operands
    axes = feature_axes(attributes["axes"], len(x), "Squeeze")
    if any(x[axis] != 1 for axis in axes):
        raise GraphError.at("Squeeze", f"axes {axes} of {format_shape(x)}", "dimensions of size 1")
    return tuple(size for axis, size in enumerate(x) if axis not in axes)


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Squeeze layer."""
    return LayerPlan({"axes": feature_axes([options["dim"]], len(operands[0]), "Squeeze")})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Squeeze. Without axes it removes all feature dimensions of size 1; a batch fixed at 1 stays."""
    x = node.operand(0)
    axes = onnx_integers(node, "axes", 1)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if axis and size == 1]
    return builder.add("Squeeze", [x], {"axes": feature_axes(axes, len(x.shape), f"node {node.name} (Squeeze)")})


OPERATOR = register(
    Operator(
        name="Squeeze",
        summary="Feature dimensions of size 1 removed",
        attributes={"axes": AXES},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(reshaped),
        reads=(OnnxImport("Squeeze", (1, 11, 13, 21, 23, 24, 25), read),),
        writes=export_axes("Squeeze"),
        layers=(Layer("Squeeze", {"dim": dimension_option("The dimension to remove")}, plan, ("dim",)),),
    )
)
