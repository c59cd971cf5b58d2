"""LpPool: the p-norm of each window."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._norms import norm, norm_interval, norm_planes
from ibpc.ops._pools import ATTRIBUTES, covering_pads, onnx_pool, planned_pool, pool_options, pooled_shape, windows
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes


def gathered(call: Call, x: Tensor) -> Tensor:
    """Return the elements of each window side by side, (*output, kernel); padding is 0."""
    return windows(call, x).flatten(-len(call["kernel_shape"]))


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = (Σ |x|ᵖ)^(1/p) over the window, with the gradient 0 at 0."""
    return norm(gathered(call, x), call["p"])


def interval(call: Call, x: Interval) -> Interval:
    """Norms of the least and of the greatest moduli; exact. See `norm_interval`."""
    return norm_interval(call, x.map(partial(gathered, call)), call["p"], prod(call["kernel_shape"]))


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of the norm of each window; see `norm_planes`."""
    return norm_planes(x.map(partial(gathered, call)), call["p"], partial(gathered, call))


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan an LPPoolNd layer."""
    attributes = planned_pool(f"LPPool{dimensions}d", {**options, "padding": 0}, operands, dimensions)
    return LayerPlan({**attributes, "p": options["norm_type"]})


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer LPPoolNd, for even exponents only, because it takes no moduli."""
    shared = pool_options(dimensions, "")
    options = {
        "norm_type": {
            "description": "The exponent p, an even number",
            "type": "integer",
            "minimum": 2,
            "multipleOf": 2,
        },
        **{name: schema for name, schema in shared.items() if name != "padding"},
    }
    return Layer(f"LPPool{dimensions}d", options, partial(plan, dimensions), ("norm_type", "kernel_size"))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import LpPool."""
    attributes = {**onnx_pool(node), "p": int(node.attributes.get("p", 2))}
    return builder.add("LpPool", [node.operand(0)], attributes)


def read_global(node: OnnxNode, builder: Builder) -> Value:
    """Import GlobalLpPool as a window over everything."""
    x = node.operand(0)
    spatial = list(x.shape[2:])
    ones = [1] * len(spatial)
    window = {"kernel_shape": spatial, "strides": ones, "dilations": ones, "pads": [0] * (2 * len(spatial))}
    return builder.add("LpPool", [x], {**window, "p": int(node.attributes.get("p", 2))})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export LpPool; the part of a ceil_mode window beyond the padding becomes padding."""
    kept = {name: call[name] for name in ("kernel_shape", "strides", "dilations", "p")}
    return writer.node("LpPool", operands, pads=covering_pads(call), **kept)


OPERATOR = register(
    Operator(
        name="LpPool",
        summary="The p-norm of each window",
        attributes={**ATTRIBUTES, "p": {"type": "integer", "minimum": 1, "default": 2}},
        operands=(1, 1),
        roles=(),
        shape=partial(pooled_shape, "LpPool"),
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("LpPool", (2, 11, 18, 22), read), OnnxImport("GlobalLpPool", (2, 22), read_global)),
        writes=write,
        layers=(layer(1), layer(2), layer(3)),
    )
)
