"""LpNormalization: x / ‖x‖ₚ along one axis, p 1 or 2."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._curves import defined
from ibpc.ops._elementwise import export_as
from ibpc.ops._norms import moduli, norm, sums_of_others
from ibpc.ops._planes import midpoint
from ibpc.ops._scales import factor_lines
from ibpc.ops._shapes import feature_axis
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, SMALLEST, UNIT, Arithmetic


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x. The axis must not be the batch."""
    (x,) = operands
    feature_axis(attributes["axis"], len(x), "LpNormalization")
    return x


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x / (Σ |x|ᵖ)^(1/p), 0 for x = 0."""
    length = norm(x.movedim(call["axis"], -1), call["p"]).unsqueeze(call["axis"])
    return x / torch.where(length == 0, torch.ones_like(length), length)


def interval(call: Call, x: Interval) -> Interval:
    """Upper bound: x_i = u_i and all other |x_j| least if u_i ≥ 0, greatest if not; lower bound mirrored. Exact.

    x_i / (|x_i|ᵖ + s)^(1/p) does not fall as x_i rises; as s rises, its modulus falls; 0 / 0 is 0. In binary32 the sum
    has a relative error of γₙ. Where it may overflow, or underflow may change it by more than a rounding, the bounds
    are infinite.
    """
    axis = call["axis"]
    box = x.map(lambda end: end.movedim(axis, -1))
    size, sizes = call.output[axis], moduli(box)
    powers = [_power(call, end) for end in (sizes.lower, sizes.upper)]
    least, most = (sums_of_others(power, size) for power in powers)
    lower = _quotient(call, box.lower, torch.where(box.lower >= 0, most, least))
    upper = _quotient(call, box.upper, torch.where(box.upper >= 0, least, most))
    greatest = (4.0 * powers[1]).sum(-1, keepdim=True)
    known = greatest < torch.inf
    if call.arithmetic is Arithmetic.FLOAT32:
        known = known & (powers[0].sum(-1, keepdim=True) > 4.0 * size * SMALLEST / UNIT)
    bounds = defined(known, outward(call, lower, upper, 2 * size + 4 * ELEMENTARY_ULPS + 16))
    return bounds.map(lambda end: end.movedim(-1, axis))


def _power(call: Call, x: Tensor) -> Tensor:
    """Return xᵖ for x ≥ 0."""
    return x if call["p"] == 1 else x * x


def _quotient(call: Call, x: Tensor, others: Tensor) -> Tensor:
    """Return x / (|x|ᵖ + others)^(1/p), and 0 for 0 / 0."""
    total = _power(call, x.abs()) + others
    total = torch.where(total == 0, torch.ones_like(total), total)
    return x / (total if call["p"] == 1 else total.sqrt())


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of x s, s = 1 / ‖x‖ in its exact bounds; see `factor_lines`. Constants where x may be 0."""
    axis = call["axis"]
    box = x.map(lambda end: end.movedim(axis, -1))
    sizes = moduli(box)
    slow, fast = (1.0 / norm(end, call["p"]).unsqueeze(-1) for end in (sizes.upper, sizes.lower))
    bounds = interval(call, x).map(lambda end: end.movedim(axis, -1))
    lines = factor_lines(box, Interval.bounds(slow, fast), midpoint(box.lower, box.upper), bounds)
    placed = [[part.movedim(-1, axis) for part in line] for line in lines]
    lower, upper = (Plane((slope,), offset) for slope, offset in placed)
    return Planes(lower, upper)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import LpNormalization."""
    x = node.operand(0)
    axis = feature_axis(int(node.attributes.get("axis", -1)), len(x.shape), f"node {node.name}")
    return builder.add("LpNormalization", [x], {"axis": axis, "p": int(node.attributes.get("p", 2))})


OPERATOR = register(
    Operator(
        name="LpNormalization",
        summary="x / ‖x‖ₚ along one axis, p 1 or 2",
        attributes={"axis": {"type": "integer", "default": -1}, "p": {"enum": [1, 2], "default": 2}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("LpNormalization", (1, 22), read),),
        writes=export_as("LpNormalization", "axis", "p"),
        layers=(),
    )
)
