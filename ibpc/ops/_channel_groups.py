"""Standardization over groups of channels: what Instance- and GroupNormalization share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Shape, format_shape
from ibpc.ops._scales import expect_parameters
from ibpc.ops._standardization import Layout, standardizing
from ibpc.ops.onnx import Writer
from ibpc.ops.rules import Call, Rules

CountRule = Callable[[Call], int]


def grouped_shape(name: str, groups: int, x: Shape, parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x, N×C×…, for parameters of shape C. Raises GraphError unless the groups divide C."""
    if len(x) < 3:
        found = f"an operand of shape {format_shape(x)}"
        raise GraphError.at(name, found, "spatial dimensions after batch and channels")
    if x[1] % groups:
        raise GraphError.at(name, f"{groups} groups of {x[1]} channels", "a divisor of the channels")
    expect_parameters(parameters, (x[1],), name)
    return x


def grouping(groups: CountRule) -> Rules:
    """Return the rules that standardize `groups(call)` groups of channels over all their positions.

    y = (x − mean) / √(variance + ε) · weight + bias, one weight and one bias per channel.
    """

    def layout(call: Call) -> Layout:
        channels, count, positions = call.output[1], groups(call), prod(call.output[2:])

        def spread(parameter: Tensor) -> Tensor:
            by_group = parameter.reshape(count, channels // count, 1)
            return by_group.expand(-1, -1, positions).reshape(count, channels // count * positions)

        return Layout((count,), channels // count * positions, spread)

    def nominal(call: Call, x: Tensor, *, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return torch.group_norm(x, groups(call), weight, bias, call["epsilon"])

    return standardizing(nominal, layout)


def write_instances(call: Call, writer: Writer, operand: str, parameters: Mapping[str, Tensor]) -> str:
    """Export InstanceNormalization, with a weight of ones and a bias of zeros if there are none."""
    channels = call.output[1]
    weight = parameters.get("weight", torch.ones(channels))
    bias = parameters.get("bias", torch.zeros(channels))
    names = [operand, writer.constant(weight), writer.constant(bias)]
    return writer.node("InstanceNormalization", names, epsilon=call["epsilon"])


def write_groups(call: Call, writer: Writer, operand: str, groups: int, parameters: Mapping[str, Tensor]) -> str:
    """Export the standardization of groups as an InstanceNormalization of one channel per group, then weight and bias.

    (In opset 18, GroupNormalization has one weight per group.)
    """
    dimensions = len(call.output) - 2
    merged = writer.node("Reshape", [operand, writer.constant(torch.tensor([0, groups, -1]))])
    names = [merged, writer.constant(torch.ones(groups)), writer.constant(torch.zeros(groups))]
    standardized = writer.node("InstanceNormalization", names, epsilon=call["epsilon"])
    result = writer.node("Reshape", [standardized, writer.constant(torch.tensor([0, *call.output[1:]]))])
    for type, role in (("Mul", "weight"), ("Add", "bias")):
        if role in parameters:
            value = parameters[role].reshape([-1, *[1] * dimensions])
            result = writer.node(type, [result, writer.constant(value)])
    return result
