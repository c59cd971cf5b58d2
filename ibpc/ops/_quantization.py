"""What quantization and dequantization share: scales and zero points, per tensor or along one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._shapes import feature_axis
from ibpc.ops.base import Fill, Role
from ibpc.ops.element_types import FLOAT
from ibpc.ops.onnx import OnnxNode
from ibpc.ops.rules import Call

VERSIONS: Final = (10, 13, 19, 21, 23, 24, 25, 28)
AXIS: Final[Mapping[str, Any]] = {"type": ["integer", "null"], "default": None}
ROLES: Final = (Role("scale", Fill.ONES, trainable=False), Role("zero_point", Fill.ZEROS, trainable=False))


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the operand's shape. Raises GraphError if scale or zero point does not fit it."""
    axis, size = attributes["axis"], operands[0]
    wanted = () if axis is None else (size[feature_axis(axis, len(size), "axis")],)
    for role in ("scale", "zero_point"):
        if parameters[role] != wanted:
            raise GraphError.at(role, f"shape {format_shape(parameters[role])}", format_shape(wanted))
    return size


def along_axis(call: Call, value: Tensor) -> Tensor:
    """Return a scale or zero point in a shape that broadcasts to the operand."""
    if call["axis"] is None:
        return value
    return value.reshape([-1, *[1] * (len(call.operands[0]) - call["axis"] - 1)])


def read_parameters(node: OnnxNode) -> tuple[int | None, dict[str, Tensor]]:
    """Return the axis (None: one scale for all) and the parameters of either operator.

    Raises GraphError for scales that are not positive or not constant, for blocks, and for the batch axis.
    """
    where = f"node {node.name}"
    if int(node.attributes.get("block_size", 0)):
        raise GraphError.at(where, f"blocks of {node.attributes['block_size']}", "one scale a tensor or an axis")
    if not {node.type_of(1), int(node.attributes.get("precision", 0))} <= {0, FLOAT}:
        raise GraphError.at(where, "a scale, or a quotient, of another type than FLOAT", "binary32")
    scale = node.known(1).float()
    zero = torch.zeros_like(scale) if node.optional(2) is None else node.known(2).float()
    if not bool(((scale > 0) & (scale < torch.inf)).all()):
        raise GraphError.at(where, "a scale that is not positive and finite", "positive numbers")
    if scale.numel() == 1:
        return None, {"scale": scale.reshape([]), "zero_point": zero.reshape([])}
    axis = feature_axis(int(node.attributes.get("axis", 1)), len(node.operand(0).shape), where)
    return axis, {"scale": scale, "zero_point": zero}
