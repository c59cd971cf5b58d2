"""ConvTranspose: transposed convolution over one, two or three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Final

from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._biases import expect_biases, magnitude
from ibpc.ops._convolution import (
    ATTRIBUTES,
    ROLES,
    expect_groups,
    layer_options,
    onnx_parameters,
    write_parameters,
)
from ibpc.ops._windows import onnx_sizes, pads_option, resolve_padding, sizes_option, spatial_sizes, spread
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import Sharing, affine
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call

_CONVOLUTIONS: Final[Mapping[int, Callable[..., Tensor]]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def full_sizes(
    spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return the spatial sizes before cropping: stride · (size − 1) + dilation · (kernel − 1) + 1."""
    return [
        stride * (size - 1) + dilation * (window - 1) + 1
        for size, window, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True)
    ]


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return N×M×… for x N×C×… and weight C×(M/group)×…: the full size + output_padding − pads per dimension."""
    (x,), weight, group = operands, parameters["weight"], attributes["group"]
    strides, pads, dilations = attributes["strides"], attributes["pads"], attributes["dilations"]
    extra, kernel = attributes["output_padding"], weight[2:]
    dimensions = len(kernel)
    spatial = spatial_sizes(x, dimensions, "ConvTranspose")
    if x[1] != weight[0] or weight[0] % group:
        raise GraphError.at(
            "ConvTranspose",
            f"{x[1]} input channels, weight {weight}, group {group}",
            "channels = weight[0], whole groups",
        )
    expect_biases(parameters, weight[1] * group, "ConvTranspose")
    if not len(strides) == len(dilations) == len(extra) == dimensions or len(pads) != 2 * dimensions:
        raise GraphError.at(
            "ConvTranspose",
            f"strides {strides}, dilations {dilations}, output_padding {extra}, pads {pads}",
            f"{dimensions} numbers each, {2 * dimensions} pads",
        )
    if any(more >= stride for more, stride in zip(extra, strides, strict=True)):
        raise GraphError.at("ConvTranspose", f"output_padding {extra}", f"less than the strides {strides}")
    full = full_sizes(spatial, kernel, strides, dilations)
    sizes = tuple(full[axis] + extra[axis] - pads[axis] - pads[axis + dimensions] for axis in range(dimensions))
    if min(sizes) < 1:
        raise GraphError.at(
            "ConvTranspose", f"pads {pads} that crop all of {format_shape(tuple(full))}", "smaller pads"
        )
    return (x[0], weight[1] * group, *sizes)


def nominal(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    bias_magnitude: Tensor | None = None,
) -> Tensor:
    """y = weight ⋆ᵀ x + bias, cropped by the pads."""
    dimensions = len(call["strides"])
    before, after = call["pads"][:dimensions], call["pads"][dimensions:]
    is_symmetric = list(before) == list(after)
    padding = list(before) if is_symmetric else [0] * dimensions
    y = _CONVOLUTIONS[dimensions](
        x, weight, bias, call["strides"], padding, call["output_padding"], call["group"], call["dilations"]
    )
    if is_symmetric:
        return y
    window = [slice(start, start + size) for start, size in zip(before, call.output[2:], strict=True)]
    return y[(slice(None), slice(None), *window)]


def absolute(call: Call, radius: Tensor, *, offset: Tensor | float | None, weight: Tensor, **_: Tensor) -> Tensor:
    """|weight| ⋆ᵀ radius + offset."""
    if isinstance(offset, float):
        offset = weight.new_full([call.output[1]], offset)
    return nominal(call, radius, weight=weight.abs(), bias=offset)


def terms(call: Call) -> int:
    """Return the most products summed into one output, (C/group) · kernel; strides may skip some."""
    channels, _, *kernel = call.parameters["weight"]
    return channels // int(call["group"]) * prod(kernel)


def macs(call: Call) -> int:
    """Return inputs × (M/group) · kernel products."""
    return prod(call.operands[0][1:]) * prod(call.parameters["weight"][1:])


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a ConvTransposeNd layer."""
    where = f"ConvTranspose{dimensions}d"
    spatial = spatial_sizes(operands[0], dimensions, where)
    channels, groups = operands[0][1], options["groups"]
    expect_groups(options, channels, where)
    kernel, strides, dilations, extra = (
        spread(options[key], dimensions) for key in ("kernel_size", "stride", "dilation", "output_padding")
    )
    attributes = {
        "strides": strides,
        "pads": resolve_padding(options["padding"], spatial, kernel, strides, dilations),
        "dilations": dilations,
        "output_padding": extra,
        "group": groups,
    }
    parameters = {"weight": (channels, options["out_channels"] // groups, *kernel)}
    if options["bias"]:
        parameters["bias"] = (options["out_channels"],)
    return LayerPlan(attributes, parameters)


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer ConvTransposeNd."""
    options = {
        **layer_options(dimensions, pads_option(dimensions, "Elements cropped from the output")),
        "output_padding": sizes_option(dimensions, "Elements added at the end of the output", 0, least=0),
    }
    return Layer(f"ConvTranspose{dimensions}d", options, partial(plan, dimensions), ("out_channels", "kernel_size"))


def onnx_crop(
    node: OnnxNode, full: Sequence[int], inputs: Sequence[int], strides: Sequence[int]
) -> dict[str, list[int]]:
    """Return pads and output_padding of an ONNX node from `pads`, or from `output_shape` or `auto_pad`.

    The latter two determine the output size. The excess is cropped on both sides, the odd element at the end for
    SAME_UPPER and at the beginning otherwise. An `output_shape` beyond the full size becomes output_padding.
    """
    mode = str(node.attributes.get("auto_pad", "NOTSET"))
    extra = [int(size) for size in node.attributes.get("output_padding") or [0] * len(full)]
    wanted = [int(size) for size in node.attributes.get("output_shape") or ()][-len(full) :]
    if not wanted and mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = [] if mode == "VALID" else node.attributes.get("pads") or []
        return {"pads": [int(pad) for pad in pads] or [0] * (2 * len(full)), "output_padding": extra}
    targets = wanted or [size * stride for size, stride in zip(inputs, strides, strict=True)]
    surplus = [size + more - target for size, more, target in zip(full, extra, targets, strict=True)]
    if wanted:
        extra = [more + max(0, -over) for more, over in zip(extra, surplus, strict=True)]
    small = [max(0, over) // 2 for over in surplus]
    large = [max(0, over) - less for over, less in zip(surplus, small, strict=True)]
    return {"pads": small + large if mode == "SAME_UPPER" else large + small, "output_padding": extra}


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import ConvTranspose. The weight must be constant."""
    x, parameters = node.operand(0), onnx_parameters(node)
    kernel = list(parameters["weight"].shape[2:])
    spatial = spatial_sizes(x.shape, len(kernel), f"node {node.name}")
    strides = onnx_sizes(node, "strides", len(kernel))
    dilations = onnx_sizes(node, "dilations", len(kernel))
    full = full_sizes(spatial, kernel, strides, dilations)
    attributes = {
        "strides": strides,
        "dilations": dilations,
        "group": int(node.attributes.get("group", 1)),
        **onnx_crop(node, full, spatial, strides),
    }
    return builder.add("ConvTranspose", [x], attributes, parameters)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export ConvTranspose."""
    return writer.node(
        "ConvTranspose",
        [*operands, *write_parameters(writer, parameters)],
        strides=call["strides"],
        pads=call["pads"],
        dilations=call["dilations"],
        output_padding=call["output_padding"],
        group=call["group"],
    )


OPERATOR = register(
    Operator(
        name="ConvTranspose",
        summary="Transposed convolution over one, two or three spatial dimensions",
        attributes={**ATTRIBUTES, "output_padding": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=macs,
        rules=affine(nominal, absolute, terms, magnitude, Sharing.ALWAYS),
        reads=(OnnxImport("ConvTranspose", (1, 11, 22), read),),
        writes=write,
        layers=(layer(1), layer(2), layer(3)),
    )
)
