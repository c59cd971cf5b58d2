"""Celu: x where x ≥ 0, alpha (e^(x / alpha) − 1) elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import unbroken
from ibpc.ops._elementwise import export_as, import_numbers, option_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS, LARGEST, UNIT, Arithmetic

# The exponential has a relative error of 16u, and up to 89u more from the rounding u of its argument: the largest
# argument without overflow is 89.
DECAYING: Final = 20 * UNIT
GROWING_ULPS: Final = ELEMENTARY_ULPS + 50


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = max(x, 0) + min(alpha (e^(x / alpha) − 1), 0) (Barron 2017, arXiv 1704.07483)."""
    return F.celu(x, call["alpha"])


def derivative(call: Call, x: Tensor) -> Tensor:
    """1 where x ≥ 0, e^(x / alpha) elsewhere."""
    return torch.exp(x.clamp(max=0.0) / call["alpha"])


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)], exact: Celu rises for an alpha of either sign.

    In binary32, for alpha > 0, e^t − 1 with t = x / alpha has an absolute error of 17u plus |t| e^t u ≤ 0.37u from the
    rounding of t. For alpha < 0 the exponential grows, and so does its error: see `GROWING_ULPS`.
    """
    alpha = call["alpha"]
    lower, upper = nominal(call, x.lower), nominal(call, x.upper)
    if alpha > 0:
        return outward(call, lower, upper, 2 * ELEMENTARY_ULPS, 2.0 * alpha * DECAYING)
    return _growing(call, lower, upper)


def _growing(call: Call, lower: Tensor, upper: Tensor) -> Interval:
    """Round outward for alpha < 0, where the exponential may overflow although its product with alpha does not."""
    size = abs(call["alpha"])
    lower, upper = unbroken(call, lower, upper, LARGEST * min(1.0, size))
    bounds = outward(call, lower, upper, 2 * GROWING_ULPS, 2.0 * size * DECAYING)
    if call.arithmetic is Arithmetic.REAL:
        return bounds
    far = torch.full_like(lower, -torch.inf)
    return Interval.bounds(torch.where(bounds.lower < -0.25 * size * LARGEST, far, bounds.lower), bounds.upper)


def curve(call: Call) -> Curve:
    """Return the curve: smooth, convex for alpha > 0 and concave for alpha < 0."""
    bend = Bend.CONVEX if call["alpha"] > 0 else Bend.CONCAVE
    return Curve(partial(nominal, call), partial(derivative, call), (bend,))


OPERATOR = register(
    Operator(
        name="Celu",
        summary="x where x ≥ 0, alpha (e^(x / alpha) − 1) elsewhere",
        attributes={"alpha": {"type": "number", "not": {"const": 0}, "default": 1.0}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(import_numbers("Celu", (12, 28), "alpha"),),
        writes=export_as("Celu", "alpha"),
        layers=(
            option_layer(
                "CELU",
                "alpha",
                {
                    "description": "The output falls to −alpha",
                    "type": "number",
                    "not": {"const": 0},
                    "default": 1.0,
                },
                "alpha",
            ),
        ),
    )
)
