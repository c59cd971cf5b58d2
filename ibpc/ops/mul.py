"""Mul: elementwise product with broadcasting."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import broadcast_shape, export_as, import_as, option_free_layer
from ibpc.ops._planes import blended_planes, product_planes, square_chord
from ibpc.ops._products import bilinear, corners, flushable
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import Sharing, no_macs, outward
from ibpc.ops.rules import Call, Operand, Plane, Planes


def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """z = x y."""
    return x * y


def terms(call: Call) -> int:
    """Return 1, the product."""
    return 1


def both(call: Call, x: Interval, y: Interval) -> Interval:
    """Return the least and greatest of the four corner products; exact, because the product is linear in each operand.

    The same box twice is a square: [max(l, −u, 0)², max(−l, u)²], exact. Each corner is off by one rounding.
    """
    if x is y:
        return _square(call, flushable(call, x))
    lower, upper = corners(flushable(call, x), flushable(call, y), torch.mul)
    return outward(call, lower, upper)


def _square(call: Call, x: Interval) -> Interval:
    least, greatest = torch.relu(torch.maximum(x.lower, -x.upper)), torch.maximum(-x.lower, x.upper)
    return outward(call, least * least, greatest * greatest)


def relaxation(call: Call, x: Operand, y: Operand) -> Planes:
    """Return the planes of an elementwise product; see `product_planes`."""
    return product_planes(x, y)


def tuned(call: Call, share: Tensor, _plain: Planes, x: Interval, y: Interval) -> Planes:
    """Return the planes blended by the shares (…, 2, *product); see `blended_planes`.

    The same box twice, x²: the first share places the lower tangent in the box; the upper plane is the chord.
    """
    below, above = share.unbind(share.dim() - max(x.lower.dim(), y.lower.dim()))
    if x is not y:
        return blended_planes(x, y, below, above)
    touch = torch.lerp(x.lower, x.upper, below)
    return Planes(Plane((touch, touch), -(touch * touch)), square_chord(x))


def start(call: Call, x: Interval, y: Interval) -> Tensor:
    """Return the shares of the relaxation: 0, and 1/2 for a square, the middle of its box."""
    product = x.lower * y.lower
    return torch.stack([torch.full_like(product, 0.5 if x is y else 0.0), torch.zeros_like(product)], 1)


OPERATOR = register(
    Operator(
        name="Mul",
        summary="Elementwise product with broadcasting",
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape("Mul"),
        macs=no_macs,
        rules=replace(bilinear(nominal, terms, both, relaxation, Sharing.WHEN_STACKED), tuned=tuned, start=start),
        reads=(import_as("Mul", (7, 13, 14)),),
        writes=export_as("Mul"),
        layers=(option_free_layer("Mul"),),
    )
)
