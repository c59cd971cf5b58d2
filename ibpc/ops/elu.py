"""Elu: x where x ≥ 0, alpha (eˣ − 1) elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._elementwise import export_as, import_numbers, option_layer
from ibpc.ops._planes import inside
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS, UNIT, Arithmetic

EXPONENTIAL_ERROR: Final = 18 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x where x ≥ 0, alpha (eˣ − 1) elsewhere (Clevert et al. 2016, arXiv 1511.07289)."""
    return F.elu(x, call["alpha"])


def derivative(call: Call, x: Tensor) -> Tensor:
    """1 where x > 0, alpha eˣ elsewhere."""
    return torch.where(x > 0, torch.ones_like(x), call["alpha"] * torch.exp(x.clamp(max=0.0)))


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)] for alpha ≥ 0; else f falls up to 0 and then rises: [f(z), max(f(l), f(u))], z nearest to 0. Exact.

    In binary32, x ≥ 0 is returned unchanged. For x < 0 PyTorch computes expm1 and ONNX Runtime eˣ − 1. With eˣ ≤ 1
    within 8 ulps = 16u the latter is off by 17u, however small the result, before it is scaled by alpha. Wherever the
    box reaches below 0, network and bound are each taken to be off by 18u |alpha| and 8 ulps.
    """
    lower, upper = _range(call, x)
    if call.arithmetic is Arithmetic.REAL:
        return Interval.bounds(lower, upper)
    wide = outward(call, lower, upper, 2 * ELEMENTARY_ULPS, 2.0 * abs(call["alpha"]) * EXPONENTIAL_ERROR)
    linear = x.lower >= 0
    return Interval.bounds(torch.where(linear, lower, wide.lower), torch.where(linear, upper, wide.upper))


def _range(call: Call, x: Interval) -> tuple[Tensor, Tensor]:
    at_lower, at_upper = nominal(call, x.lower), nominal(call, x.upper)
    if call["alpha"] >= 0:
        return at_lower, at_upper
    return nominal(call, inside(0.0, x.lower, x.upper)), torch.maximum(at_lower, at_upper)


def curve(call: Call) -> Curve:
    """Return the curve: an exponential below 0, a line above; convex everywhere for alpha in [0, 1]."""
    function, slope = partial(nominal, call), partial(derivative, call)
    if 0.0 <= call["alpha"] <= 1.0:
        return Curve(function, slope, (Bend.CONVEX,))
    return Curve(function, slope, (Bend.CONVEX if call["alpha"] > 0 else Bend.CONCAVE, Bend.LINE), (0.0,))


OPERATOR = register(
    Operator(
        name="Elu",
        summary="x where x ≥ 0, alpha (eˣ − 1) elsewhere",
        attributes={"alpha": {"type": "number", "default": 1.0}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(import_numbers("Elu", (6, 22), "alpha"),),
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
