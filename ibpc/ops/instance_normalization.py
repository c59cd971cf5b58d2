"""InstanceNormalization: (x − mean) / √(variance + ε) over the positions of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ibpc.ir import Attributes, Shape
from ibpc.ops._channel_groups import grouped_shape, grouping, write_instances
from ibpc.ops._scales import ROLES, epsilon_option, flag_option
from ibpc.ops._standardization import EPSILON
from ibpc.ops._windows import spatial_sizes
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x, N×C×…, for parameters of shape C."""
    return grouped_shape("InstanceNormalization", 1, operands[0], parameters)


def groups(call: Call) -> int:
    """Return the number of groups: the channels."""
    return call.output[1]


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan an InstanceNormNd layer."""
    spatial_sizes(operands[0], dimensions, f"InstanceNorm{dimensions}d")
    roles = ("weight", "bias") if options["affine"] else ()
    return LayerPlan({"epsilon": options["eps"]}, dict.fromkeys(roles, (operands[0][1],)))


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer InstanceNormNd, which tracks no running statistics."""
    options = {"eps": epsilon_option(), "affine": flag_option("Weight and bias per channel", default=False)}
    return Layer(f"InstanceNorm{dimensions}d", options, partial(plan, dimensions))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import InstanceNormalization. Scale and bias must be constant."""
    parameters = {"weight": node.known(1), "bias": node.known(2)}
    attributes = {"epsilon": float(node.attributes.get("epsilon", 1e-5))}
    return builder.add("InstanceNormalization", [node.operand(0)], attributes, parameters)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export InstanceNormalization."""
    return write_instances(call, writer, operands[0], parameters)


OPERATOR = register(
    Operator(
        name="InstanceNormalization",
        summary="Standardization over the positions of each channel",
        attributes={"epsilon": EPSILON},
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=no_macs,
        rules=grouping(groups),
        reads=(OnnxImport("InstanceNormalization", (6, 22), read),),
        writes=write,
        layers=(layer(1), layer(2), layer(3)),
    )
)
