"""MaxPool: the greatest element of each window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._pools import (
    ATTRIBUTES,
    are_exportable,
    covering_pads,
    native_padding,
    onnx_pool,
    planned_pool,
    pool_options,
    pooled_shape,
    windows,
)
from ibpc.ops._reductions import greatest_planes
from ibpc.ops._windows import sizes_option, torch_pads
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import monotone, no_macs
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Plane, Planes

_POOLS: Final[Mapping[int, Callable[..., Tensor]]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = max over the window, padding excluded."""
    pool, padding = _POOLS[len(call["kernel_shape"])], native_padding(call)
    if padding is None:
        padded = F.pad(x, torch_pads(covering_pads(call)), value=-inf)
        return pool(padded, call["kernel_shape"], call["strides"], 0, call["dilations"])
    return pool(x, call["kernel_shape"], call["strides"], padding, call["dilations"], bool(call["ceil_mode"]))


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of the maximum of each window; see `greatest_planes`."""
    dimensions = len(call["kernel_shape"])

    def view(value: Tensor) -> Tensor:
        return windows(call, value).flatten(-dimensions)

    lower = windows(call, x.lower, -inf).flatten(-dimensions)
    upper = windows(call, x.upper, -inf).flatten(-dimensions)
    (slope, offset), (above_slope, above_offset) = greatest_planes(lower, upper)
    return Planes(Plane((slope,), offset, (view,)), Plane((above_slope,), above_offset, (view,)))


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a MaxPoolNd layer."""
    return LayerPlan(planned_pool(f"MaxPool{dimensions}d", options, operands, dimensions))


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer MaxPoolNd."""
    options = {
        **pool_options(dimensions, "−∞"),
        "dilation": sizes_option(dimensions, "Spacing of the window's elements", 1),
    }
    return Layer(f"MaxPool{dimensions}d", options, partial(plan, dimensions), ("kernel_size",))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import the first output of MaxPool; `storage_order` concerns only the second one, the indices."""
    return builder.add("MaxPool", [node.operand(0)], onnx_pool(node))


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export MaxPool; the part of a ceil_mode window beyond the padding becomes padding."""
    pads, inputs = covering_pads(call), list(operands)
    if not are_exportable(call, pads):
        dimensions = len(pads) // 2
        around = torch.tensor([0, 0, *pads[:dimensions], 0, 0, *pads[dimensions:]])
        inputs = [writer.node("Pad", [*operands, writer.constant(around), writer.constant(torch.tensor(-inf))])]
        pads = [0] * len(pads)
    kept = {name: call[name] for name in ("kernel_shape", "strides", "dilations")}
    return writer.node("MaxPool", inputs, pads=pads, **kept)


OPERATOR = register(
    Operator(
        name="MaxPool",
        summary="The greatest element of each window",
        attributes=ATTRIBUTES,
        operands=(1, 1),
        roles=(),
        shape=partial(pooled_shape, "MaxPool"),
        macs=no_macs,
        rules=replace(monotone(nominal, relaxation, ulps=0), selects=True),
        reads=(OnnxImport("MaxPool", (1, 8, 10, 11, 12, 22), read),),
        writes=write,
        layers=(layer(1), layer(2), layer(3)),
    )
)
