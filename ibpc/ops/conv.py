"""Conv: convolution over one, two or three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape
from ibpc.ops._biases import expect_biases, magnitude
from ibpc.ops._convolution import (
    ATTRIBUTES,
    ROLES,
    expect_groups,
    layer_options,
    onnx_parameters,
    write_parameters,
)
from ibpc.ops._windows import (
    onnx_pads,
    onnx_sizes,
    output_sizes,
    padding_option,
    resolve_padding,
    spatial_sizes,
    split_padding,
    spread,
)
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import Sharing, affine, macs_of
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Kernel

_CONVOLUTIONS: Final[Mapping[int, Callable[..., Tensor]]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Final[Mapping[int, Callable[..., Tensor]]] = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return N×M×… for x N×C×… and weight M×(C/group)×…."""
    weight, group = parameters["weight"], attributes["group"]
    kernel = weight[2:]
    spatial = spatial_sizes(operands[0], len(kernel), "Conv")
    if operands[0][1] != weight[1] * group or weight[0] % group:
        raise GraphError.at(
            "Conv", f"{operands[0][1]} input channels, weight {weight}, group {group}", "channels = weight[1] · group"
        )
    expect_biases(parameters, weight[0], "Conv")
    sizes = output_sizes(spatial, kernel, attributes["strides"], attributes["pads"], attributes["dilations"], "Conv")
    return (operands[0][0], weight[0], *sizes)


def nominal(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    bias_magnitude: Tensor | None = None,
) -> Tensor:
    """y = weight ⋆ x + bias."""
    x, padding = split_padding(x, call["pads"])
    convolution = _CONVOLUTIONS[len(padding)]
    return convolution(x, weight, bias, call["strides"], padding, call["dilations"], call["group"])


def absolute(call: Call, radius: Tensor, *, offset: Tensor | float | None, weight: Tensor, **_: Tensor) -> Tensor:
    """|weight| ⋆ radius + offset."""
    if isinstance(offset, float):
        offset = torch.full_like(weight.flatten(1)[:, 0], offset)
    return nominal(call, radius, weight=weight.abs(), bias=offset)


def gain(call: Call, *, weight: Tensor, **_: Tensor) -> Tensor:
    """Σ |weight| of each output channel."""
    return weight.abs().flatten(1).sum(1)


def terms(call: Call) -> int:
    """Return the products summed into one output, (C/group) · kernel."""
    return prod(call.parameters["weight"][1:])


def local(call: Call, *, weight: Tensor, bias: Tensor | None = None, **_: Tensor) -> Kernel | None:
    """Return the windows of a two-dimensional convolution, else None."""
    if weight.dim() != 4:
        return None
    strides, pads, dilations = (tuple(call[name][:2]) for name in ("strides", "pads", "dilations"))
    return Kernel(weight, bias, strides, pads, dilations, call["group"])


def pull(call: Call, forms: Tensor, *, weight: Tensor, **_: Tensor) -> Tensor:
    """Return weight ⋆ᵀ forms without the coefficients of the padding."""
    dimensions = weight.dim() - 2
    pads, sizes = call["pads"], call.operands[0][2:]
    begins, ends = pads[:dimensions], pads[dimensions:]
    common = [0] * dimensions if tuple(begins) != tuple(ends) else list(begins)
    padded = [size + begin + end - 2 * both for size, begin, end, both in zip(sizes, begins, ends, common, strict=True)]
    size = [len(forms), weight.shape[1] * call["group"], *padded]
    found = _TRANSPOSED[dimensions](size, weight, forms, call["strides"], common, call["dilations"], call["group"])
    for axis, (begin, both, length) in enumerate(zip(begins, common, sizes, strict=True)):
        found = found.narrow(axis + 2, begin - both, length)
    return found


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a ConvNd layer."""
    where = f"Conv{dimensions}d"
    spatial = spatial_sizes(operands[0], dimensions, where)
    channels, groups = operands[0][1], options["groups"]
    expect_groups(options, channels, where)
    kernel, strides, dilations = (spread(options[key], dimensions) for key in ("kernel_size", "stride", "dilation"))
    attributes = {
        "strides": strides,
        "pads": resolve_padding(options["padding"], spatial, kernel, strides, dilations),
        "dilations": dilations,
        "group": groups,
    }
    parameters = {"weight": (options["out_channels"], channels // groups, *kernel)}
    if options["bias"]:
        parameters["bias"] = (options["out_channels"],)
    return LayerPlan(attributes, parameters)


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer ConvNd."""
    options = layer_options(dimensions, padding_option(dimensions))
    return Layer(f"Conv{dimensions}d", options, partial(plan, dimensions), ("out_channels", "kernel_size"))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Conv. The weight must be constant."""
    x, parameters = node.operand(0), onnx_parameters(node)
    kernel = list(parameters["weight"].shape[2:])
    spatial = spatial_sizes(x.shape, len(kernel), f"node {node.name}")
    strides = onnx_sizes(node, "strides", len(kernel))
    dilations = onnx_sizes(node, "dilations", len(kernel))
    attributes = {
        "strides": strides,
        "pads": onnx_pads(node, spatial, kernel, strides, dilations),
        "dilations": dilations,
        "group": int(node.attributes.get("group", 1)),
    }
    return builder.add("Conv", [x], attributes, parameters)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Conv."""
    return writer.node(
        "Conv",
        [*operands, *write_parameters(writer, parameters)],
        strides=call["strides"],
        pads=call["pads"],
        dilations=call["dilations"],
        group=call["group"],
    )


OPERATOR = register(
    Operator(
        name="Conv",
        summary="Convolution over one, two or three spatial dimensions",
        attributes=ATTRIBUTES,
        operands=(1, 1),
        roles=ROLES,
        shape=shape,
        macs=macs_of(terms),
        rules=replace(affine(nominal, absolute, terms, magnitude, Sharing.ALWAYS, gain), local=local, pull=pull),
        reads=(OnnxImport("Conv", (1, 11, 22), read),),
        writes=write,
        layers=(layer(1), layer(2), layer(3)),
    )
)
