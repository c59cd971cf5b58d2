"""LRN: local response normalization, x / (bias + alpha / size · Σ x²)^beta over a window of channels."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._elementwise import numbers_of
from ibpc.ops._norms import moduli
from ibpc.ops._planes import midpoint
from ibpc.ops._scales import factor_lines
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, FLUSHED, UNIT, Arithmetic, vanishing


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x, N×C×…."""
    (x,) = operands
    if len(x) < 3:
        found = f"an operand of shape {format_shape(x)}"
        raise GraphError.at("LRN", found, "spatial dimensions after batch and channels")
    return x


def windows(call: Call, x: Tensor) -> Tensor:
    """Return the channels of each window, (…, size), zeros beyond the first and the last one."""
    before = own_place(call)
    around = [0, 0] * (len(call.output) - 2) + [before, call["size"] - 1 - before]
    return F.pad(x, around).unfold(1, call["size"], 1)


def own_place(call: Call) -> int:
    """Return the index of a channel in its own window: the middle, the lower one for even sizes."""
    return int((call["size"] - 1) // 2)


def others(call: Call, squares: Tensor) -> Tensor:
    """Return for each channel the sum of the squares of the others in its window."""
    view, own = windows(call, squares), own_place(call)
    return view.narrow(-1, 0, own).sum(-1) + view.narrow(-1, own + 1, call["size"] - 1 - own).sum(-1)


def base_of(call: Call, squares: Tensor) -> Tensor:
    """Return bias + alpha / size · squares."""
    return squares * float(call["alpha"] / call["size"]) + float(call["bias"])


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x / (bias + alpha / size · Σ x²)^beta (Krizhevsky et al. 2012, section 3.3)."""
    result: Tensor = x / base_of(call, windows(call, x * x).sum(-1)) ** call["beta"]
    return result


def interval(call: Call, x: Interval) -> Interval:
    """Take the other channels at their least or greatest moduli and x_i where the quotient is extreme. Exact.

    With b = bias + alpha / size · (sum of the other squares) and a = alpha / size, |x| / (b + a x²)^beta falls as b
    rises. For x ≥ 0 it rises up to x² = b / (a (2 beta − 1)), for beta ≤ 1/2 without end, and then falls: over the
    box its maximum lies at the point nearest to that peak, its minimum at an end.

    In binary32 the base has a relative error of γ for size + 4 terms; the power is off by 8 ulps and by up to 90u from
    the rounded exponent; losses by underflow are relative to the bias. Overflow makes the bounds NaN. ONNX Runtime
    slides along the channels, adding one square and subtracting another: see `_slid`.
    """
    sizes = moduli(x)
    squares = [end * end for end in (sizes.lower, sizes.upper)]
    least, most = (base_of(call, others(call, square)) for square in squares)
    lower, upper = -_greatest(call, -x.upper, -x.lower, least, most), _greatest(call, x.lower, x.upper, least, most)
    beta = max(1.0, float(call["beta"]))
    lost = call["alpha"] * vanishing(call["size"]) / (call["bias"] * UNIT)
    ulps = ceil(beta * (2 * call["size"] + 100 + min(lost, 1e9))) + 6 * ELEMENTARY_ULPS
    overflow = 0.0 * (4.0 * (most + (call["alpha"] / call["size"]) * squares[1])) ** beta
    if call.arithmetic is Arithmetic.FLOAT32:
        rate = call["alpha"] / call["size"]
        grown = _slid(call, least + rate * squares[0], most + rate * squares[1], squares[1])
        lower, upper = lower - lower.abs() * grown, upper + upper.abs() * grown
    bounds = outward(call, lower, upper, ulps, FLUSHED * (1.0 + call["bias"] ** -call["beta"]))
    return bounds.map(lambda end: end + overflow)


def _slid(call: Call, least: Tensor, most: Tensor, squares: Tensor) -> Tensor:
    """Return the relative error of a quotient whose base was computed by sliding; infinite where half may be lost.

    `least` and `most` are the bounds of the base. After two sums per channel its error is at most γ times the greatest
    base of all channels plus one square, however small the base itself has become. With κ that error relative to the
    base, the power is off by at most (1 − κ)^(−beta) − 1.
    """
    terms = 2 * call.output[1] + call["size"] + 8
    greatest = (most + call["alpha"] / call["size"] * squares).amax(1, keepdim=True)
    lost = 2.0 * terms * UNIT * greatest / least
    growth = torch.expm1(-float(call["beta"]) * torch.log1p(-lost.clamp(max=0.5)))
    return torch.where(lost < 0.5, growth, torch.full_like(growth, torch.inf))


def _greatest(call: Call, lower: Tensor, upper: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """Return the greatest value for x in [lower, upper] and b in [least, most]."""
    rate, beta = call["alpha"] / call["size"], float(call["beta"])

    def quotient(x: Tensor, base: Tensor) -> Tensor:
        result: Tensor = x / (base + rate * x * x) ** beta
        return result

    best = upper
    if rate > 0 and beta > 0.5:
        peak = least.sqrt() * (1.0 / sqrt(rate * (2.0 * beta - 1.0)))
        best = torch.minimum(torch.maximum(peak, torch.relu(lower)), upper)
    positive = quotient(best, least)
    negative = torch.maximum(quotient(lower, most), quotient(upper, most))
    return torch.where(upper >= 0, positive, negative)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of x s, s = base^(−beta) in its exact bounds; see `factor_lines`."""
    sizes = moduli(x)
    fast, slow = (
        base_of(call, windows(call, end * end).sum(-1)) ** -call["beta"] for end in (sizes.lower, sizes.upper)
    )
    lines = factor_lines(x, Interval.bounds(slow, fast), midpoint(x.lower, x.upper), interval(call, x))
    lower, upper = (Plane((slope,), offset) for slope, offset in lines)
    return Planes(lower, upper)


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a LocalResponseNorm layer. Raises GraphError for an even size, whose window ONNX places differently."""
    if options["size"] % 2 == 0:
        raise GraphError.at("LocalResponseNorm", f"size {options['size']}", "an odd size")
    renamed = {"size": "size", "alpha": "alpha", "beta": "beta", "bias": "k"}
    return LayerPlan({attribute: options[option] for attribute, option in renamed.items()})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import LRN."""
    numbers = numbers_of(node, "alpha", "beta", "bias")
    return builder.add("LRN", [node.operand(0)], {**numbers, "size": int(node.attributes["size"])})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export LRN over four dimensions, which ONNX Runtime requires."""
    attributes = {name: call[name] for name in ("alpha", "beta", "bias", "size")}
    if len(call.output) == 4:
        return writer.node("LRN", operands, **attributes)
    flat = writer.constant(torch.tensor([0, call.output[1], -1, 1]))
    normalized = writer.node("LRN", [writer.node("Reshape", [*operands, flat])], **attributes)
    return writer.node("Reshape", [normalized, writer.constant(torch.tensor([0, *call.output[1:]]))])


_SIZE = {"type": "integer", "minimum": 1}
_RATE = {"type": "number", "minimum": 0}
_BIAS = {"type": "number", "exclusiveMinimum": 0}

OPERATOR = register(
    Operator(
        name="LRN",
        summary="Local response normalization over a window of channels",
        attributes={
            "size": _SIZE,
            "alpha": {**_RATE, "default": 1e-4},
            "beta": {**_RATE, "default": 0.75},
            "bias": {**_BIAS, "default": 1.0},
        },
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("LRN", (1, 13), read),),
        writes=write,
        layers=(
            Layer(
                "LocalResponseNorm",
                {
                    "size": {"description": "Channels of a window, an odd number", **_SIZE},
                    "alpha": {"description": "Factor of the mean square", **_RATE, "default": 1e-4},
                    "beta": {"description": "Exponent", **_RATE, "default": 0.75},
                    "k": {"description": "Added to the scaled mean square", **_BIAS, "default": 1.0},
                },
                plan,
                ("size",),
            ),
        ),
    )
)
