"""Sliding windows, for Conv, ConvTranspose and the pools.

Padding is written as in ONNX: `pads` lists the padding before each spatial dimension, then after each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Shape
from ibpc.ops.onnx import OnnxNode

SIZES: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
PADS: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2}


def sizes_option(dimensions: int, description: str, default: int | None = None, least: int = 1) -> dict[str, Any]:
    """Return the schema of a layer option that is one number, or one per spatial dimension."""
    number = {"type": "integer", "minimum": least}
    schema: dict[str, Any] = {
        "description": description,
        "anyOf": [number, {"type": "array", "items": number, "minItems": dimensions, "maxItems": dimensions}],
    }
    return schema if default is None else {**schema, "default": default}


def pads_option(dimensions: int, description: str) -> dict[str, Any]:
    """Return the schema of a layer option that is one number, one per spatial dimension, or all before then after."""
    number = {"type": "integer", "minimum": 0}
    return {
        "description": f"{description}: one number, one per spatial dimension, or all before then all after",
        "anyOf": [
            number,
            {"type": "array", "items": number, "minItems": dimensions, "maxItems": dimensions},
            {"type": "array", "items": number, "minItems": 2 * dimensions, "maxItems": 2 * dimensions},
        ],
        "default": 0,
    }


def padding_option(dimensions: int, filling: str = "Zeros") -> dict[str, Any]:
    """Return the schema of the option `padding` of a windowed layer."""
    numbers = pads_option(dimensions, f"{filling} around the input")
    words = (
        '; "valid": none; "same": output size = ceil(input size / stride), the odd one at the end '
        "(TensorFlow's SAME, ONNX's SAME_UPPER)"
    )
    return {
        **numbers,
        "description": numbers["description"] + words,
        "anyOf": [*numbers["anyOf"], {"enum": ["same", "valid"]}],
    }


def spread(option: int | Sequence[int], dimensions: int) -> list[int]:
    """Return an option, one number or one per dimension, as one per dimension."""
    return [option] * dimensions if isinstance(option, int) else list(option)


def same_pads(
    spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool = True
) -> list[int]:
    """Return the pads that make the output size ceil(input size / stride), with an odd zero at the end if `upper`."""
    totals = [
        max(0, (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size)
        for size, window, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if upper else large + small


def resolve_padding(
    padding: int | str | Sequence[int],
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Return the pads for the layer option `padding`."""
    if padding == "same":
        return same_pads(spatial, kernel, strides, dilations)
    if isinstance(padding, str):
        return [0] * (2 * len(kernel))
    if isinstance(padding, int) or len(padding) == len(kernel):
        return spread(padding, len(kernel)) * 2
    return list(padding)


def onnx_pads(
    node: OnnxNode, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return the pads of an ONNX node from `auto_pad` or `pads`.

    Raises GraphError for automatic pads of pools on which runtimes disagree.
    """
    mode = str(node.attributes.get("auto_pad", "NOTSET"))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        if node.type != "Conv" and (max(dilations) > 1 or _has_gaps(spatial, kernel, strides)):
            found = (
                f"automatic padding of windows of {list(kernel)}, strides {list(strides)}, dilations {list(dilations)}"
            )
            raise GraphError.at(f"node {node.name}", found, "pads, for runtimes differ in these")
        return same_pads(spatial, kernel, strides, dilations, upper=mode == "SAME_UPPER")
    if mode == "VALID" or not node.attributes.get("pads"):
        return [0] * (2 * len(kernel))
    return [int(pad) for pad in node.attributes["pads"]]


def _has_gaps(spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether windows are so far apart that the automatic padding of some dimension would be negative."""
    return any(
        (-(-size // stride) - 1) * stride + window < size
        for size, window, stride in zip(spatial, kernel, strides, strict=True)
    )


def onnx_sizes(node: OnnxNode, attribute: str, dimensions: int) -> list[int]:
    """Return an ONNX attribute of one number per spatial dimension, ones if it is missing."""
    return [int(size) for size in node.attributes.get(attribute) or [1] * dimensions]


def output_sizes(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    where: str,
    ceil_mode: int = 0,
) -> tuple[int, ...]:
    """Return the number of windows per spatial dimension. Raises GraphError if none fits.

    With `ceil_mode` 1 (ONNX's attribute) a last window may reach beyond the padding, but none starts after the input.
    """
    dimensions = len(kernel)
    if not len(spatial) == len(strides) == len(dilations) == dimensions or len(pads) != 2 * dimensions:
        raise GraphError.at(
            where,
            f"{len(spatial)} spatial dimensions with kernel {list(kernel)}, strides {list(strides)}, "
            f"dilations {list(dilations)}, pads {list(pads)}",
            "as many kernel sizes, strides and dilations as spatial dimensions, and twice as many pads",
        )
    sizes = []
    for axis in range(dimensions):
        padded = spatial[axis] + pads[axis] + pads[axis + dimensions]
        window = (kernel[axis] - 1) * dilations[axis] + 1
        overhang = strides[axis] - 1 if ceil_mode else 0
        count = (padded - window + overhang) // strides[axis] + 1
        if count < 1:
            raise GraphError.at(
                where, f"a window of {window} over {padded} padded elements", "a window no larger than the padded input"
            )
        starts_behind = (count - 1) * strides[axis] >= spatial[axis] + pads[axis]
        sizes.append(count - 1 if ceil_mode and starts_behind else count)
    return tuple(sizes)


def torch_pads(pads: Sequence[int]) -> list[int]:
    """Return ONNX pads in the order of torch.nn.functional.pad: last dimension first, before and after in pairs."""
    dimensions = len(pads) // 2
    return [pads[axis + side] for axis in reversed(range(dimensions)) for side in (0, dimensions)]


def split_padding(x: Tensor, pads: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return the input and its symmetric padding; asymmetric pads are applied to the input, leaving 0."""
    dimensions = len(pads) // 2
    if list(pads[:dimensions]) == list(pads[dimensions:]):
        return x, list(pads[:dimensions])
    return torch.nn.functional.pad(x, torch_pads(pads)), [0] * dimensions


def spatial_sizes(shape: Shape, dimensions: int, where: str) -> Shape:
    """Return the spatial sizes of an N×C×… value. Raises GraphError for another rank."""
    if len(shape) != dimensions + 2:
        raise GraphError.at(where, f"an operand of rank {len(shape)}", f"rank {dimensions + 2}")
    return shape[2:]
