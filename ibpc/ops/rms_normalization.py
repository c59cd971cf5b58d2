"""RMSNormalization: x / √(mean x² + ε) over the last dimensions of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._norms import moduli, sums_of_others
from ibpc.ops._planes import midpoint
from ibpc.ops._scales import (
    NORMALIZED_OPTIONS,
    ROLES,
    epsilon_option,
    expect_parameters,
    factor_lines,
    import_scaled,
    plan_normalized,
    scaled,
    weighted_lines,
)
from ibpc.ops._shapes import feature_axis
from ibpc.ops._standardization import EPSILON
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, FLUSHED, UNIT, Arithmetic, vanishing

_TYPES_OF_STASH = (1, 11)


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x. Raises GraphError unless the weight has the shape of its dimensions from the axis on."""
    (x,) = operands
    axis = feature_axis(attributes["axis"], len(x), "RMSNormalization")
    expect_parameters(parameters, x[axis:], "RMSNormalization")
    return x


def size_of(call: Call) -> int:
    """Return the number of elements that are normalized together."""
    return prod(call.output[feature_axis(call["axis"], len(call.output), "RMSNormalization") :])


def grouped(call: Call, x: Tensor) -> Tensor:
    """Return x as (N, groups, elements)."""
    axis = feature_axis(call["axis"], len(call.output), "RMSNormalization")
    return x.reshape([-1, prod(call.output[1:axis]), size_of(call)])


def nominal(call: Call, x: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """y = x / √(mean x² + ε) · weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    axis = feature_axis(call["axis"], len(call.output), "RMSNormalization")
    normalized = x * torch.rsqrt(x.square().mean(list(range(axis, len(call.output))), keepdim=True) + call["epsilon"])
    return normalized if weight is None else normalized * weight


def interval(call: Call, x: Interval, *, weight: Tensor | None = None) -> Interval:
    """Upper bound: x_i = u_i and all other |x_j| least if u_i ≥ 0, greatest if not; lower bound mirrored. Exact.

    x_i / √((x_i² + s) / n + ε) rises in x_i, and its modulus falls as s rises. In binary32 the sum has a relative error
    of γₙ and loses to underflow, relative to n ε. Where it may overflow, the bounds are NaN.
    """
    box = x.map(partial(grouped, call))
    result = _bounded(call, box)
    if weight is not None:
        result = scaled(result, weight.flatten(), None)
        absolute = FLUSHED if call.arithmetic is Arithmetic.FLOAT32 else 0.0
        result = outward(call, result.lower, result.upper, 4, 2.0 * absolute * (1.0 + size_of(call) ** 0.5))
    return result.map(lambda end: end.reshape([-1, *call.output[1:]]))


def _bounded(call: Call, box: Interval) -> Interval:
    """Return the bounds before the weight."""
    size, epsilon = size_of(call), float(call["epsilon"])
    sizes = moduli(box)
    least, most = (sums_of_others(end * end, size) for end in (sizes.lower, sizes.upper))

    def quotient(x: Tensor, others: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x + others) / size + epsilon)

    lower = quotient(box.lower, torch.where(box.lower >= 0, most, least))
    upper = quotient(box.upper, torch.where(box.upper >= 0, least, most))
    unknown = (0.0 * (4.0 * sizes.upper * sizes.upper).sum(-1, keepdim=True)).expand_as(lower)
    lost = vanishing(size) / (size * epsilon * UNIT)
    ulps = 2 * size + 4 * ELEMENTARY_ULPS + 16 + ceil(min(lost, 1e9))
    bounds = outward(call, lower, upper, ulps, FLUSHED * (1.0 + epsilon**-0.5))
    return bounds.map(lambda end: end + unknown)


def relaxation(call: Call, x: Interval, *, weight: Tensor | None = None) -> Planes:
    """Return the planes of x s, s = 1 / √(mean x² + ε) in its exact bounds; see `factor_lines`."""
    box = x.map(partial(grouped, call))
    sizes = moduli(box)
    slow, fast = (
        torch.rsqrt(end.square().mean(-1, keepdim=True) + call["epsilon"]) for end in (sizes.upper, sizes.lower)
    )
    lines = factor_lines(box, Interval.bounds(slow, fast), midpoint(box.lower, box.upper), _bounded(call, box))
    weighted = weighted_lines(lines, None if weight is None else weight.flatten(), None)
    placed = [[part.reshape([-1, *call.output[1:]]) for part in line] for line in weighted]
    lower, upper = (Plane((slope,), offset) for slope, offset in placed)
    return Planes(lower, upper)


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan an RMSNorm layer."""
    return plan_normalized("RMSNorm", 2.0**-23, options, operands)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import RMSNormalization; see LayerNormalization for `stash_type`."""
    return import_scaled("RMSNormalization", node, builder, _TYPES_OF_STASH)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export RMSNormalization operator by operator, because opset 18 lacks it."""
    axis = feature_axis(call["axis"], len(call.output), "RMSNormalization")
    (x,) = operands
    axes = writer.constant(torch.arange(axis, len(call.output)))
    mean = writer.node("ReduceMean", [writer.node("Mul", [x, x]), axes], keepdims=1)
    added = writer.node("Add", [mean, writer.constant(torch.tensor(float(call["epsilon"])))])
    result = writer.node("Div", [x, writer.node("Sqrt", [added])])
    return writer.node("Mul", [result, writer.constant(parameters["weight"])]) if parameters else result


OPERATOR = register(
    Operator(
        name="RMSNormalization",
        summary="Division by the root of the mean square over the last dimensions of a sample",
        attributes={"axis": {"type": "integer", "default": -1}, "epsilon": EPSILON},
        operands=(1, 1),
        roles=ROLES[:1],
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("RMSNormalization", (23,), read),),
        writes=write,
        layers=(Layer("RMSNorm", {**NORMALIZED_OPTIONS, "eps": epsilon_option(None)}, plan, ("normalized_shape",)),),
    )
)
