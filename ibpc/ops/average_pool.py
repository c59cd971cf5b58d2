"""AveragePool: the mean of each window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.ir import Shape
from ibpc.ops._pools import (
    ATTRIBUTES,
    FLAG,
    are_exportable,
    covering_pads,
    native_padding,
    onnx_pool,
    planned_pool,
    pool_options,
    pooled_shape,
    unfolded,
    windows,
)
from ibpc.ops._windows import torch_pads
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import affine, no_macs, no_magnitude, nonnegative_weights
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Kernel

_POOLS: Final[Mapping[int, Callable[..., Tensor]]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = (sum over the window) / (number of its elements).

    With count_include_pad, padding counts as elements. The part of a ceil_mode window beyond the padding never does.
    """
    padding = native_padding(call)
    if padding is None or _is_dilated(call):
        return summed(call, windows(call, x)) / counts(call, x)
    pool = _POOLS[len(padding)]
    return pool(
        x, call["kernel_shape"], call["strides"], padding, bool(call["ceil_mode"]), bool(call["count_include_pad"])
    )


def summed(call: Call, view: Tensor) -> Tensor:
    """Return the sum over the kernel of windows (…, *kernel)."""
    return view.sum([-1 - axis for axis in range(len(call["kernel_shape"]))])


def counts(call: Call, x: Tensor) -> Tensor:
    """Return the divisors, (1, 1, *output), in the dtype of x."""
    cover = covering_pads(call)
    counted = [min(pad, total) for pad, total in zip(call["pads"], cover, strict=True)]
    beyond = [total - pad for pad, total in zip(counted, cover, strict=True)]
    inside = torch.ones_like(x[:1, :1])
    padded = F.pad(inside, torch_pads(counted), value=float(call["count_include_pad"]))
    return summed(call, unfolded(call, F.pad(padded, torch_pads(beyond))))


def _is_dilated(call: Call) -> bool:
    return any(dilation != 1 for dilation in call["dilations"])


def terms(call: Call) -> int:
    """Return the size of a window and 1 for the division, or for the product with a rounded reciprocal."""
    kernel: list[int] = call["kernel_shape"]
    return prod(kernel) + 1


def local(call: Call) -> Kernel | None:
    """Return the windows of a two-dimensional pool if all have the same divisor, else None."""
    channels, *spatial = call.operands[0][1:]
    divisors = counts(call, torch.ones(1, 1, *spatial, dtype=torch.float64))
    if len(spatial) != 2 or bool((divisors != divisors.flatten()[0]).any()):
        return None
    weight = (1.0 / divisors.flatten()[0]).expand(channels, 1, *call["kernel_shape"])
    strides, pads, dilations = (tuple(call[name][:2]) for name in ("strides", "pads", "dilations"))
    return Kernel(weight, None, strides, pads, dilations, channels)


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan an AvgPoolNd layer."""
    attributes = planned_pool(f"AvgPool{dimensions}d", options, operands, dimensions)
    return LayerPlan({**attributes, "count_include_pad": int(options["count_include_pad"])})


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer AvgPoolNd."""
    options = {
        **pool_options(dimensions, "Zeros"),
        "count_include_pad": {"description": "Count padding in the divisor", "type": "boolean", "default": True},
    }
    return Layer(f"AvgPool{dimensions}d", options, partial(plan, dimensions), ("kernel_size",))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import AveragePool."""
    attributes = {**onnx_pool(node), "count_include_pad": int(node.attributes.get("count_include_pad", 0))}
    return builder.add("AveragePool", [node.operand(0)], attributes)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export AveragePool; forms that opset 18 or ONNX Runtime lacks become a depthwise Conv of ones over counts."""
    pads = covering_pads(call)
    hangs_over = any(pad > given for pad, given in zip(pads, call["pads"], strict=True))
    if are_exportable(call, pads) and not _is_dilated(call) and not (hangs_over and call["count_include_pad"]):
        kept = {name: call[name] for name in ("kernel_shape", "strides", "count_include_pad")}
        return writer.node("AveragePool", operands, pads=pads, **kept)
    channels, *spatial = call.operands[0][1:]
    sums = writer.node(
        "Conv",
        [*operands, writer.constant(torch.ones(channels, 1, *call["kernel_shape"]))],
        strides=call["strides"],
        pads=pads,
        dilations=call["dilations"],
        group=channels,
    )
    return writer.node("Div", [sums, writer.constant(counts(call, torch.ones(1, 1, *spatial)))])


OPERATOR = register(
    Operator(
        name="AveragePool",
        summary="The mean of each window",
        attributes={**ATTRIBUTES, "count_include_pad": FLAG},
        operands=(1, 1),
        roles=(),
        shape=partial(pooled_shape, "AveragePool"),
        macs=no_macs,
        rules=replace(affine(nominal, nonnegative_weights(nominal), terms, no_magnitude), local=local),
        reads=(OnnxImport("AveragePool", (7, 10, 11, 19, 22), read),),
        writes=write,
        layers=(layer(1), layer(2), layer(3)),
    )
)
