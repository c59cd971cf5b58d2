"""What Conv and ConvTranspose share: weight and bias, channel groups, and their layer options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ops._biases import BIAS, BIAS_MAGNITUDE
from ibpc.ops._windows import PADS, SIZES, sizes_option
from ibpc.ops.base import Fill, Role
from ibpc.ops.onnx import OnnxNode, Writer

ATTRIBUTES: Final[Mapping[str, Any]] = {
    "strides": SIZES,
    "pads": PADS,
    "dilations": SIZES,
    "group": {"type": "integer", "minimum": 1, "default": 1},
}
ROLES: Final = (Role("weight", Fill.WEIGHT), BIAS, BIAS_MAGNITUDE)


def layer_options(dimensions: int, padding: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the options of a convolution layer of torch.nn, with the schema of its option `padding`."""
    return {
        "out_channels": {"description": "Output channels", "type": "integer", "minimum": 1},
        "kernel_size": sizes_option(dimensions, "Window"),
        "stride": sizes_option(dimensions, "Step of the window", 1),
        "padding": padding,
        "dilation": sizes_option(dimensions, "Spacing of the window's elements", 1),
        "groups": {"description": "Groups of channels", "type": "integer", "minimum": 1, "default": 1},
        "bias": {"description": "Add a bias", "type": "boolean", "default": True},
    }


def expect_groups(options: Mapping[str, Any], channels: int, where: str) -> None:
    """Raise GraphError unless the layer's groups divide its input and its output channels."""
    groups = options["groups"]
    if channels % groups or options["out_channels"] % groups:
        raise GraphError.at(
            where,
            f"groups {groups} for {channels} input and {options['out_channels']} output channels",
            "a divisor of both",
        )


def onnx_parameters(node: OnnxNode) -> dict[str, Tensor]:
    """Return the weight and the bias, if any. Raises GraphError if one depends on an input."""
    weight = {"weight": node.known(1)}
    return weight if node.optional(2) is None else {**weight, "bias": node.known(2)}


def write_parameters(writer: Writer, parameters: Mapping[str, Tensor]) -> list[str]:
    """Add the weight and the bias to the exported model and return their names."""
    return [writer.constant(parameters[role]) for role in ("weight", "bias") if role in parameters]
