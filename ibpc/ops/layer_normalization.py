"""LayerNormalization: (x − mean) / √(variance + ε) over the last dimensions of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from ibpc.ir import Attributes, Shape
from ibpc.ops._scales import (
    NORMALIZED_OPTIONS,
    ROLES,
    expect_parameters,
    flag_option,
    import_scaled,
    plan_normalized,
)
from ibpc.ops._shapes import feature_axis
from ibpc.ops._standardization import EPSILON, Layout, standardizing
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call

_TYPES_OF_STASH = (1, 11)


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x. Raises GraphError unless parameters have the shape of its dimensions from the axis on."""
    (x,) = operands
    axis = feature_axis(attributes["axis"], len(x), "LayerNormalization")
    expect_parameters(parameters, x[axis:], "LayerNormalization")
    return x


def layout(call: Call) -> Layout:
    """Return the groups: one for each position in the dimensions before the axis."""
    axis = feature_axis(call["axis"], len(call.output), "LayerNormalization")
    return Layout(call.output[1:axis], prod(call.output[axis:]), torch.flatten)


def nominal(call: Call, x: Tensor, *, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """y = (x − mean) / √(variance + ε) · weight + bias (Ba et al. 2016, arXiv 1607.06450)."""
    axis = feature_axis(call["axis"], len(call.output), "LayerNormalization")
    return torch.layer_norm(x, call.output[axis:], weight, bias, call["epsilon"])


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a LayerNorm layer."""
    planned = plan_normalized("LayerNorm", 1e-5, options, operands)
    if not options["bias"] or "weight" not in planned.parameters:
        return planned
    return LayerPlan(planned.attributes, {**planned.parameters, "bias": planned.parameters["weight"]})


def read(node: OnnxNode, builder: Builder) -> tuple[Value, ...]:
    """Import LayerNormalization and, where they are read, its mean and inverse standard deviation.

    `stash_type` is the type in which mean and deviation are computed: bounds allow for FLOAT, and DOUBLE is more
    accurate. The inverse deviation is built operator by operator, so its bounds are sound but not the tightest.
    """
    result = import_scaled("LayerNormalization", node, builder, _TYPES_OF_STASH)
    used = [slot for slot in range(1, node.outputs) if slot not in node.unread]
    if not used:
        return (result,)
    x = node.operand(0)
    axis = feature_axis(int(node.attributes.get("axis", -1)), len(x.shape), f"node {node.name}")
    axes = {"axes": list(range(axis, len(x.shape)))}
    mean = builder.add("ReduceMean", [x], axes)
    if 2 not in used:
        return (result, mean, mean)[: node.outputs]
    apart = builder.add("Sub", [x, mean])
    variance = builder.add("ReduceMean", [builder.add("Mul", [apart, apart])], axes)
    added = builder.constant(torch.tensor(float(node.attributes.get("epsilon", 1e-5))))
    deviation = builder.add("Sqrt", [builder.add("Add", [variance, added])])
    return result, mean, builder.add("Div", [builder.constant(torch.tensor(1.0)), deviation])


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export LayerNormalization, with a weight of ones if there is none."""
    axis = feature_axis(call["axis"], len(call.output), "LayerNormalization")
    weight = parameters.get("weight")
    scale = torch.ones(call.output[axis:]) if weight is None else weight
    names = [*operands, writer.constant(scale)]
    if "bias" in parameters:
        names.append(writer.constant(parameters["bias"]))
    return writer.node("LayerNormalization", names, axis=axis, epsilon=call["epsilon"])


OPERATOR = register(
    Operator(
        name="LayerNormalization",
        summary="Standardization over the last dimensions of a sample",
        attributes={"axis": {"type": "integer", "default": -1}, "epsilon": EPSILON},
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=no_macs,
        rules=standardizing(nominal, layout),
        reads=(OnnxImport("LayerNormalization", (17,), read),),
        writes=write,
        layers=(
            Layer(
                "LayerNorm",
                {**NORMALIZED_OPTIONS, "bias": flag_option("Add a bias to the weighted result")},
                plan,
                ("normalized_shape",),
            ),
        ),
    )
)
