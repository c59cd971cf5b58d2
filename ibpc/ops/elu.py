"""Elu: x where x ≥ 0, alpha (eˣ − 1) elsewhere."""

from __future__ import annotations

from math import log
from typing import Final

import torch
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ops._elementwise import export_as, import_number, option_layer
from ibpc.ops._planes import above, below, chord, inside, midpoint
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import ELEMENTARY_ULPS, UNIT, Arithmetic

EXPONENTIAL_ERROR: Final = 18 * UNIT


def nominal(call: Call, x: torch.Tensor) -> torch.Tensor:
    """y = x where x ≥ 0, alpha (eˣ − 1) elsewhere (Clevert et al. 2016, arXiv 1511.07289)."""
    return F.elu(x, call["alpha"])


def derivative(call: Call, x: torch.Tensor) -> torch.Tensor:
    """1 where x ≥ 0, alpha eˣ elsewhere."""
    return torch.where(x >= 0, torch.ones_like(x), call["alpha"] * torch.exp(x.clamp(max=0.0)))


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)] for alpha ≥ 0; otherwise f falls to 0 and rises: [f(z), max(f(l), f(u))], z nearest to 0. Exact.

    In binary32, x ≥ 0 is returned as it is. For x < 0 PyTorch computes expm1 and ONNX Runtime eˣ − 1, which with an
    eˣ ≤ 1 of 8 ulps = 16u is off by 17u |alpha|, however small the result; it is then scaled. Assumed is an error of
    18u |alpha| and 8 ulps, for the network and for the bound each, wherever the box reaches below 0.
    """
    lower, upper = _range(call, x)
    if call.arithmetic is Arithmetic.REAL:
        return Interval.bounds(lower, upper)
    wide = outward(call, lower, upper, 2 * ELEMENTARY_ULPS, 2.0 * abs(call["alpha"]) * EXPONENTIAL_ERROR)
    linear = x.lower >= 0
    return Interval.bounds(torch.where(linear, lower, wide.lower), torch.where(linear, upper, wide.upper))


def _range(call: Call, x: Interval) -> tuple[torch.Tensor, torch.Tensor]:
    at_lower, at_upper = nominal(call, x.lower), nominal(call, x.upper)
    if call["alpha"] >= 0:
        return at_lower, at_upper
    return nominal(call, inside(0.0, x.lower, x.upper)), torch.maximum(at_lower, at_upper)


def relaxation(call: Call, x: Interval) -> Planes:
    """For alpha ≥ 0 the chord's slope above, and f′ at the midpoint below; for alpha < 0 the other way round.

    Let alpha ≥ 0. Over x ≤ 0, f − line is convex: greatest at l or min(u, 0), least where f′ is the line's slope. Over
    x ≥ 0 it is linear. So the plane above needs the points l, u and 0. The plane below needs also the point t ≤ 0 with
    f′(t) = slope: the midpoint if that is negative; else the slope is 1 and t = −ln alpha, which is negative for
    alpha > 1 only. For alpha < 0 the sign of f over x ≤ 0 turns; its slope is never 1 there.
    """
    lower, upper, alpha = x.lower, x.upper, call["alpha"]
    middle = midpoint(lower, upper)
    tangent = derivative(call, middle)
    secant = chord(lower, upper, nominal(call, lower), nominal(call, upper), tangent)
    ends = [lower, upper, inside(0.0, lower, upper)]
    turning = inside(-log(alpha) if alpha > 1 else 0.0, lower, upper)
    touch = torch.where(middle < 0, middle, turning)

    def function(point: torch.Tensor) -> torch.Tensor:
        return nominal(call, point)

    if alpha >= 0:
        return Planes(below(function, tangent, [*ends, touch]), above(function, secant, ends))
    return Planes(below(function, secant, ends), above(function, tangent, [*ends, touch]))


OPERATOR = register(
    Operator(
        name="Elu",
        summary="x where x ≥ 0, alpha (eˣ − 1) elsewhere",
        attributes={"alpha": {"type": "number", "default": 1.0}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(import_number("Elu", (6, 22), "alpha", 1.0),),
        writes=export_as("Elu", "alpha"),
        layers=(
            option_layer(
                "ELU",
                "alpha",
                {"description": "The output falls to −alpha", "type": "number", "default": 1.0},
                "alpha",
            ),
        ),
    )
)
