"""Pooling: what MaxPool and AveragePool share.

Padding is no input: MaxPool pads with −∞, AveragePool with zeros, which its attribute includes in the divisor or not.
A window without any input element has no value and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._windows import (
    PADS,
    SIZES,
    onnx_pads,
    onnx_sizes,
    output_sizes,
    padding_option,
    resolve_padding,
    sizes_option,
    spatial_sizes,
    spread,
    torch_pads,
)
from ibpc.ops.base import Layer, LayerPlan
from ibpc.ops.onnx import OnnxNode
from ibpc.ops.rules import Call

FLAG: Final[Mapping[str, Any]] = {"enum": [0, 1], "default": 0}
ATTRIBUTES: Final[Mapping[str, Any]] = {
    "kernel_shape": {**SIZES, "maxItems": 3},
    "strides": SIZES,
    "pads": PADS,
    "dilations": SIZES,
    "ceil_mode": FLAG,
}


def pooled_shape(
    where: str, attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]
) -> Shape:
    """Return N×C×(windows per spatial dimension). Raises GraphError if a window holds no input element."""
    (x,) = operands
    kernel, strides, pads, dilations = (attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations"))
    spatial = spatial_sizes(x, len(kernel), where)
    sizes = output_sizes(spatial, kernel, strides, pads, dilations, where, attributes["ceil_mode"])
    for axis, count in enumerate(sizes):
        starts = [index * strides[axis] - pads[axis] for index in range(count)]
        steps = range(0, kernel[axis] * dilations[axis], dilations[axis])
        if not all(any(0 <= start + step < spatial[axis] for step in steps) for start in starts):
            raise GraphError.at(
                where,
                f"a window of kernel {list(kernel)}, dilations {list(dilations)}, pads {list(pads)} holds only padding",
                "at least one input element in every window",
            )
    return (*x[:2], *sizes)


def global_shape(
    where: str, attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]
) -> Shape:
    """Return N×C×1×…, the shape of a pool over all spatial dimensions. Raises GraphError if there are none."""
    (x,) = operands
    if len(x) < 3:
        found = f"an operand of shape {format_shape(x)}"
        raise GraphError.at(where, found, "spatial dimensions after batch and channels")
    return (*x[:2], *[1] * (len(x) - 2))


def global_layer(name: str, dimensions: int) -> Layer:
    """Return the torch.nn layer `name`Nd, AdaptiveAvgPool or AdaptiveMaxPool, which supports only output size 1."""
    full = f"{name}{dimensions}d"

    def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
        spatial_sizes(operands[0], dimensions, full)
        return LayerPlan({})

    options = {
        "output_size": {"description": "Output size: 1 in each spatial dimension", "enum": [1, [1] * dimensions]},
    }
    return Layer(full, options, plan, ("output_size",))


def native_padding(call: Call) -> list[int] | None:
    """Return the padding argument with which PyTorch's pools support the call directly, or None.

    They require symmetric padding of at most half a kernel, and some an input no smaller than a window.
    """
    kernel, dilations, pads = call["kernel_shape"], call["dilations"], list(call["pads"])
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    fits = all(
        2 * pad <= window and (window - 1) * dilation < size
        for pad, window, dilation, size in zip(before, kernel, dilations, call.operands[0][2:], strict=True)
    )
    return before if before == after and fits else None


def covering_pads(call: Call) -> list[int]:
    """Return the pads with which all windows lie within the padded input, also the last ones of ceil_mode."""
    kernel, strides, pads, dilations = (call[key] for key in ("kernel_shape", "strides", "pads", "dilations"))
    spatial, sizes = call.operands[0][2:], call.output[2:]
    after = [
        max(0, (sizes[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - size - pads[axis])
        for axis, size in enumerate(spatial)
    ]
    return [*pads[: len(kernel)], *after]


def windows(call: Call, x: Tensor, fill: float = 0.0) -> Tensor:
    """Return the windows of x (…, *spatial) as (…, *output, *kernel), padded with `fill`."""
    return unfolded(call, F.pad(x, torch_pads(covering_pads(call)), value=fill))


def unfolded(call: Call, padded: Tensor) -> Tensor:
    """Return the windows (…, *output, *kernel) of a padded input."""
    view = padded
    for axis, kernel in enumerate(call["kernel_shape"]):
        dilation = call["dilations"][axis]
        view = view.unfold(axis + 2, (kernel - 1) * dilation + 1, call["strides"][axis])[..., ::dilation]
    return view


def are_exportable(call: Call, pads: Sequence[int]) -> bool:
    """Return whether ONNX Runtime accepts `pads`: each must be smaller than the kernel."""
    return all(pad < size for pad, size in zip(pads, [*call["kernel_shape"]] * 2, strict=True))


def pool_options(dimensions: int, filling: str) -> dict[str, Mapping[str, Any]]:
    """Return the options that all pooling layers of torch.nn share."""
    stride = sizes_option(dimensions, "Step of the window (null: the window itself)")
    return {
        "kernel_size": sizes_option(dimensions, "Window"),
        "stride": {**stride, "anyOf": [*stride["anyOf"], {"type": "null"}], "default": None},
        "padding": padding_option(dimensions, filling),
        "ceil_mode": {
            "description": "Keep a last window that reaches beyond the padding",
            "type": "boolean",
            "default": False,
        },
    }


def planned_pool(
    where: str, options: Mapping[str, Any], operands: tuple[Shape, ...], dimensions: int
) -> dict[str, Any]:
    """Return the attributes of a pooling layer."""
    spatial = spatial_sizes(operands[0], dimensions, where)
    kernel = spread(options["kernel_size"], dimensions)
    strides = kernel if options["stride"] is None else spread(options["stride"], dimensions)
    dilations = spread(options.get("dilation", 1), dimensions)
    return {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": resolve_padding(options["padding"], spatial, kernel, strides, dilations),
        "dilations": dilations,
        "ceil_mode": int(options["ceil_mode"]),
    }


def onnx_pool(node: OnnxNode) -> dict[str, Any]:
    """Return the attributes of an ONNX pooling node."""
    kernel = [int(size) for size in node.attributes["kernel_shape"]]
    spatial = spatial_sizes(node.operand(0).shape, len(kernel), f"node {node.name}")
    strides = onnx_sizes(node, "strides", len(kernel))
    dilations = onnx_sizes(node, "dilations", len(kernel))
    return {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": onnx_pads(node, spatial, kernel, strides, dilations),
        "dilations": dilations,
        "ceil_mode": int(node.attributes.get("ceil_mode", 0)),
    }
