"""Div: elementwise quotient with broadcasting."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.interval import Interval, Paired
from ibpc.ops._curves import defined, defined_planes, substituted
from ibpc.ops._elementwise import broadcast_shape, export_as, import_as, option_free_layer
from ibpc.ops._planes import product_planes
from ibpc.ops._products import corners, flushable, scaling
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import Sharing, apart, no_macs, outward
from ibpc.ops.rules import Call, Operand, PairedOperand, Plane, Planes, Rules
from ibpc.rounding import SMALLEST, Arithmetic


def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """z = x / y."""
    return x / y


def terms(call: Call) -> int:
    """Return 1, the quotient."""
    return 1


def least_divisor(call: Call) -> float:
    """Return the modulus up to which a divisor counts as zero: 0, in binary32 the numbers that may be flushed to 0."""
    return SMALLEST if call.arithmetic is Arithmetic.FLOAT32 else 0.0


def center(call: Call, x: Tensor, divisor: Tensor) -> Tensor:
    """Return x / divisor, or x where the divisor may be zero."""
    return x / divisor.where(divisor.abs() > least_divisor(call), torch.ones_like(divisor))


def spread(call: Call, radius: Tensor, divisor: Tensor) -> Tensor:
    """Return radius / divisor; where the divisor may be zero, infinity (NaN for radius 0)."""
    return radius / divisor.where(divisor.abs() > least_divisor(call), torch.zeros_like(divisor))


_BY_EXACT = scaling(center, spread, terms, Sharing.WHEN_STACKED)
_PAIRED_BY_EXACT = scaling(nominal, spread, terms, Sharing.WHEN_STACKED)


def interval(call: Call, x: Operand, y: Operand) -> Interval:
    """Divide a box by an exact tensor or by a box; exact.

    Exact divisor: affine with center c / y and radius r / |y|. Divisor box: the least and greatest of the four corner
    quotients, because x / y is monotone in x and, on either side of 0, in y; each is off by one rounding. A divisor
    that may be 0 gives (−∞, ∞) (or NaN for an exact dividend); in binary32 so does one that may be flushed to 0.
    """
    if not isinstance(y, Interval):
        return _BY_EXACT.interval(call, x, weight=y)
    numerator = x if isinstance(x, Interval) else Interval.bounds(x, x)
    divisor, safe = _nonzero(flushable(call, y))
    lower, upper = corners(flushable(call, numerator), divisor, torch.div)
    return defined(safe, outward(call, lower, upper))


def _nonzero(y: Interval) -> tuple[Interval, Tensor]:
    """Return the box, replaced by [1, 1] where it may hold 0 or is no box of numbers, and a mask of the other elements.

    No box of numbers: a NaN bound, or [∞, ∞], which an overflow leaves and which stands for any large number.
    """
    safe = ((y.lower > 0) & (y.lower < torch.inf)) | ((y.upper < 0) & (y.upper > -torch.inf))
    return substituted(safe, y, 1.0), safe


def paired(call: Call, x: PairedOperand, y: PairedOperand) -> Paired:
    """Divide nominal value and center in one call if the divisor is exact; otherwise run both rules side by side."""
    if isinstance(y, Paired):
        return apart(nominal, interval)(call, x, y)
    return _PAIRED_BY_EXACT.paired(call, x, weight=y)


def relaxation(call: Call, x: Operand, y: Operand) -> Planes:
    """Return the planes of the product of x and 1 / y, with 1 / y between its tangent and its chord.

    On one side of 0, 1 / y is convex for y > 0 and concave for y < 0: with m the midpoint, 2/m − y/m² and
    1/l + 1/u − y/(l u) bound it. A product plane α x + β (1 / y) + γ takes one or the other by the sign of β. Where
    y may be 0 the planes are ∓∞.
    """
    if not isinstance(y, Interval):
        return product_planes(x, 1.0 / y)
    divisor, safe = _nonzero(y)
    tangent, chord = _reciprocal_lines(divisor)
    flipped = divisor.upper < 0
    least, greatest = _chosen(flipped, chord, tangent), _chosen(flipped, tangent, chord)
    reciprocal = Interval.bounds(1.0 / divisor.upper, 1.0 / divisor.lower)
    product = product_planes(x if isinstance(x, Interval) else Interval.bounds(x, x), reciprocal)
    planes = Planes(_composed(product.lower, least, greatest), _composed(product.upper, greatest, least))
    return defined_planes(safe, planes)


def _reciprocal_lines(y: Interval) -> tuple[Plane, Plane]:
    """Return the tangent at the midpoint and the chord of 1 / y."""
    low, high = 1.0 / y.lower, 1.0 / y.upper
    middle = 1.0 / (0.5 * y.lower + 0.5 * y.upper)
    return Plane((-middle * middle,), 2.0 * middle), Plane((-low * high,), low + high)


def _chosen(condition: Tensor, first: Plane, second: Plane) -> Plane:
    """Return the first plane where the condition holds and the second elsewhere."""
    slope = torch.where(condition, first.slopes[0], second.slopes[0])
    return Plane((slope,), torch.where(condition, first.offset, second.offset))


def _composed(product: Plane, positive: Plane, negative: Plane) -> Plane:
    """Return a plane in x and r as one in x and y: r becomes `positive` or `negative` by the sign of its slope."""
    of_x, of_reciprocal = product.slopes
    line = _chosen(of_reciprocal >= 0, positive, negative)
    return Plane((of_x, of_reciprocal * line.slopes[0]), product.offset + of_reciprocal * line.offset)


OPERATOR = register(
    Operator(
        name="Div",
        summary="Elementwise quotient with broadcasting",
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape("Div"),
        macs=no_macs,
        rules=Rules(nominal, interval, paired, relaxation, nominal),
        reads=(import_as("Div", (7, 13, 14)),),
        writes=export_as("Div"),
        layers=(option_free_layer("Div"),),
    )
)
