"""Pow: x to the power of y, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve
from ibpc.ops._curves import defined, defined_planes, nonnegative, spared, substituted, unbroken
from ibpc.ops._elementwise import broadcast_shape, export_as, option_free_layer
from ibpc.ops._products import corners
from ibpc.ops._steps import range_planes
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.element_types import NAMES, RANGES, number
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call, Operand, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS, Arithmetic

# How xʸ bends on either side of 0 depends on the exponent.
BENDS: Final = (Bend.EITHER, Bend.EITHER)
# Beyond this value 1 / xⁿ may be infinite, because xⁿ may be flushed to 0.
FARTHEST: Final = 2.0**125


def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """z = xʸ; 1 for y = 0, NaN for x < 0 and a y that is not whole."""
    return torch.pow(x, y)


def interval(call: Call, x: Operand, y: Operand) -> Interval:
    """Raise a box to exact powers, or a nonnegative base to a box of powers; exact.

    In binary32 powers are assumed to be within `ELEMENTARY_ULPS`, however large the exponent.
    """
    if isinstance(y, Interval):
        return _to_box(call, x, y)
    assert isinstance(x, Interval)
    return _to_exact(call, x, y)


def _to_exact(call: Call, x: Interval, y: Tensor) -> Interval:
    """[f(l), f(u)] or [f(u), f(l)] for an odd y, else the values at the least and the greatest modulus; exact.

    xʸ is monotone on either side of 0, and everywhere for an odd y > 0. [−∞, ∞] where the box may hold a pole (odd
    y < 0) or give NaN (x < 0 and a y that is not whole).
    """
    box = Interval.bounds(*spared(call, x))
    odd = _is_odd(y)
    safe = _is_defined(box, y)
    box = substituted(safe, box, 1.0)
    near, far = torch.relu(torch.maximum(box.lower, -box.upper)), torch.maximum(-box.lower, box.upper)
    first, second = torch.pow(torch.where(odd, box.lower, near), y), torch.pow(torch.where(odd, box.upper, far), y)
    bounds = _rounded(call, torch.minimum(first, second), torch.maximum(first, second), y < 0)
    lower = torch.where(odd, bounds.lower, nonnegative(bounds).lower)
    return defined(safe, Interval.bounds(lower, bounds.upper))


def _to_box(call: Call, x: Operand, y: Interval) -> Interval:
    """Return the least and greatest of the four corner values; exact, because for x ≥ 0 xʸ is monotone in x and in y.

    [−∞, ∞] for a base that may be negative.
    """
    base = Interval.bounds(*spared(call, x))
    safe = base.lower >= 0
    exponent = Interval.bounds(*spared(call, y))
    lower, upper = corners(substituted(safe, base, 1.0), exponent, torch.pow)
    return defined(safe, nonnegative(_rounded(call, lower, upper, exponent.lower < 0)))


def _is_even(y: Tensor) -> Tensor:
    return 0.5 * y == torch.floor(0.5 * y)


def _is_odd(y: Tensor) -> Tensor:
    return (y == torch.floor(y)) & ~_is_even(y)


def _is_defined(x: Interval, y: Tensor) -> Tensor:
    """Return where xʸ has no pole with a change of sign in the box and is never NaN."""
    has_zero = (x.lower <= 0) & (x.upper >= 0)
    odd = _is_odd(y)
    return _is_even(y) | (odd & ((y > 0) | ~has_zero)) | (~odd & (x.lower >= 0))


def _rounded(call: Call, lower: Tensor, upper: Tensor, inverse: Tensor) -> Interval:
    """Round outward, to infinity where an inverse power may overflow."""
    bounds = outward(call, *unbroken(call, lower, upper), 2 * ELEMENTARY_ULPS)
    if call.arithmetic is Arithmetic.REAL:
        return bounds
    far = torch.full_like(bounds.lower, torch.inf)
    return Interval.bounds(
        torch.where(inverse & (bounds.lower < -FARTHEST), -far, bounds.lower),
        torch.where(inverse & (bounds.upper > FARTHEST), far, bounds.upper),
    )


def relaxation(call: Call, x: Operand, y: Operand) -> Planes:
    """Return the planes of x ↦ xʸ for an exact y, convex or concave on either side of 0, or of y ↦ xʸ, which is convex.

    For two boxes they are the bounds, as constants. Where the power is undefined or not finite, they are ∓∞.
    """
    if not isinstance(y, Interval):
        assert isinstance(x, Interval)
        return _planes_of_base(x, y)
    if isinstance(x, Interval):
        return range_planes(interval(call, x, y), 2)
    return _planes_of_exponent(x, y)


def _planes_of_base(x: Interval, y: Tensor) -> Planes:
    has_pole = (x.lower <= 0) & (x.upper >= 0) & (y < 0)
    safe = _is_defined(x, y) & ~has_pole
    rate = torch.where(y == 0, torch.ones_like(y), y - 1.0)
    curve = Curve(lambda point: torch.pow(point, y), lambda point: y * torch.pow(point, rate), BENDS, (0.0,))
    planes = curve.planes(substituted(safe, x, 1.0))
    nothing = torch.zeros_like(planes.lower.offset)
    return _with_slopes(defined_planes(safe, planes), lambda slope: (slope, nothing))


def _planes_of_exponent(x: Tensor, y: Interval) -> Planes:
    safe = (x > 0) & (y.lower <= y.upper)
    base = torch.where(safe, x, torch.ones_like(x))
    rate = torch.log(base)
    wide = y.map(lambda end: end + torch.zeros_like(base))
    curve = Curve(lambda point: torch.pow(base, point), lambda point: rate * torch.pow(base, point), (Bend.CONVEX,))
    planes = curve.planes(wide)
    nothing = torch.zeros_like(planes.lower.offset)
    return _with_slopes(defined_planes(safe, planes), lambda slope: (nothing, slope))


def _with_slopes(planes: Planes, split: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Planes:
    lower, upper = planes.lower, planes.upper
    return Planes(Plane(split(lower.slopes[0]), lower.offset), Plane(split(upper.slopes[0]), upper.offset))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Pow. The result has the type of the base: if that is an integer type, the power is rounded toward zero."""
    power = builder.add("Pow", [number(node, 0, builder), number(node, 1, builder)])
    type_of_base = NAMES.get(node.type_of(0), "float")
    return builder.add("Cast", [power], {"to": type_of_base}) if type_of_base in RANGES else power


OPERATOR = register(
    Operator(
        name="Pow",
        summary="x to the power of y, with broadcasting",
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape("Pow"),
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("Pow", (7, 12, 13, 15), read),),
        writes=export_as("Pow"),
        layers=(option_free_layer("Pow"),),
    )
)
