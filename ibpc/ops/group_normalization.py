"""GroupNormalization: (x − mean) / √(variance + ε) over groups of channels with all their positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape
from ibpc.ops._channel_groups import grouped_shape, grouping, write_groups
from ibpc.ops._scales import ROLES, epsilon_option, flag_option
from ibpc.ops._standardization import EPSILON
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x, N×C×…, for parameters of shape C."""
    return grouped_shape("GroupNormalization", attributes["num_groups"], operands[0], parameters)


def groups(call: Call) -> int:
    """Return the number of groups."""
    return int(call["num_groups"])


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a GroupNorm layer."""
    (x,) = operands
    count = options["num_groups"]
    if len(x) < 3:
        raise GraphError.at("GroupNorm", f"an operand of rank {len(x)}", "rank 3 or more")
    roles = ("weight", "bias") if options["affine"] else ()
    return LayerPlan({"num_groups": count, "epsilon": options["eps"]}, dict.fromkeys(roles, (x[1],)))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import GroupNormalization. Version 18 has one scale and bias per group, version 21 one per channel."""
    x, count = node.operand(0), int(node.attributes["num_groups"])
    parameters = {"weight": node.known(1), "bias": node.known(2)}
    if node.version < 21:
        parameters = {role: value.repeat_interleave(x.shape[1] // count) for role, value in parameters.items()}
    attributes = {"num_groups": count, "epsilon": float(node.attributes.get("epsilon", 1e-5))}
    return builder.add("GroupNormalization", [x], attributes, parameters)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export GroupNormalization as an InstanceNormalization of its groups."""
    return write_groups(call, writer, operands[0], groups(call), parameters)


OPERATOR = register(
    Operator(
        name="GroupNormalization",
        summary="Standardization over groups of channels with all their positions",
        attributes={"num_groups": {"type": "integer", "minimum": 1}, "epsilon": EPSILON},
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=no_macs,
        rules=grouping(groups),
        reads=(OnnxImport("GroupNormalization", (18, 21), read),),
        writes=write,
        layers=(
            Layer(
                "GroupNorm",
                {
                    "num_groups": {"description": "Groups of channels", "type": "integer", "minimum": 1},
                    "eps": epsilon_option(),
                    "affine": flag_option("Weight and bias per channel"),
                },
                plan,
                ("num_groups",),
            ),
        ),
    )
)
