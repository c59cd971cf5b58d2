"""PRelu: x where x ≥ 0, weight · x elsewhere, with trained slopes per channel or per element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._leaky import leaky_interval, leaky_planes
from ibpc.ops.base import Fill, Layer, LayerPlan, Operator, Role, register
from ibpc.ops.combinators import kink_at_zero, no_macs, nonlinear
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x. The weight has rank 1 (one slope or one per channel) or that of x, and broadcasts."""
    (x,), weight = operands, parameters["weight"]
    if len(weight) == 1:
        fits = weight == (1,) or (len(x) > 1 and weight == x[1:2])
    else:
        pairs = zip(weight[1:], x[1:], strict=False)
        fits = len(weight) == len(x) and weight[0] == 1 and all(size in (1, other) for size, other in pairs)
    if not fits:
        raise GraphError.at(
            "PRelu",
            f"x {format_shape(x)} with slopes of shape {weight}",
            "one slope, one per channel, or as many dimensions as x with sizes equal or 1 and 1 for the batch",
        )
    return x


def slopes(call: Call, weight: Tensor) -> Tensor:
    """Return the weight in a shape that broadcasts to x."""
    if len(call.parameters["weight"]) > 1:
        return weight
    return weight.reshape([-1, *[1] * (len(call.operands[0]) - 2)])


def nominal(call: Call, x: Tensor, *, weight: Tensor) -> Tensor:
    """y = x where x ≥ 0, weight · x elsewhere (He et al. 2015, arXiv 1502.01852, equation 1)."""
    if len(call.parameters["weight"]) == 1:
        return F.prelu(x, weight)
    return torch.where(x >= 0, x, weight * x)


def interval(call: Call, x: Interval, *, weight: Tensor) -> Interval:
    """See `leaky_interval`; exact for slopes of any sign. In binary32 network and bound each round the product."""
    return leaky_interval(call, x, lambda point: nominal(call, point, weight=weight), ulps=1)


def relaxation(call: Call, x: Interval, *, weight: Tensor) -> Planes:
    """Return the planes of a leaky rectifier; see `leaky_planes`."""
    return leaky_planes(x, lambda point: nominal(call, point, weight=weight), slopes(call, weight))


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a PReLU layer."""
    return LayerPlan({}, {"weight": (options["num_parameters"],)})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import PRelu. Constant slopes become the weight; slopes that depend on an input multiply min(x, 0)."""
    x, slope = node.operand(0), node.operand(1)
    if slope.constant is not None:
        weight = _weight(slope.constant, len(x.shape))
        return builder.add("PRelu", [x], {}, {"weight": weight})
    negative = builder.add("Clip", [x], {"max": 0.0})
    return builder.add("Add", [builder.add("Relu", [x]), builder.add("Mul", [negative, slope])])


def _weight(slope: Tensor, rank: int) -> Tensor:
    """Return ONNX slopes, which broadcast to an x of `rank`, as one slope, one per channel, or of that rank."""
    if slope.numel() == 1:
        return slope.reshape(1)
    full = slope.reshape([*[1] * (rank - slope.dim()), *slope.shape])
    return full.reshape(-1) if full.dim() > 1 and full.shape[1] == full.numel() else full


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export PRelu."""
    return writer.node("PRelu", [*operands, writer.constant(slopes(call, parameters["weight"]))])


OPERATOR = register(
    Operator(
        name="PRelu",
        summary="x where x ≥ 0, a trained slope times x elsewhere",
        attributes={},
        operands=(1, 1),
        roles=(Role("weight", Fill.QUARTER),),
        shape=shape,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, relaxation), kinks=kink_at_zero),
        reads=(OnnxImport("PRelu", (7, 9, 16), read),),
        writes=write,
        layers=(
            Layer(
                "PReLU",
                {
                    "num_parameters": {
                        "description": "One slope for all channels (1), or one for each",
                        "type": "integer",
                        "minimum": 1,
                        "default": 1,
                    }
                },
                plan,
            ),
        ),
    )
)
