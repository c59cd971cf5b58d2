"""Sinh: the hyperbolic sine."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import half_overflown, unbroken
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS, UNIT

# PyTorch and ONNX Runtime are within 4 ulps. In (eˣ − e⁻ˣ) / 2 both exponentials are within 8 ulps, 16u, which together
# is 16u cosh x ≤ 16u |sinh x| + 16u; the difference and a quotient 1 / eˣ round.
ULPS: Final = ELEMENTARY_ULPS + 1
ABSOLUTE_ERROR: Final = 18 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = (eˣ − e⁻ˣ) / 2."""
    return torch.sinh(x)


def interval(call: Call, x: Interval) -> Interval:
    """[sinh l, sinh u], exact."""
    lower, upper = unbroken(call, torch.sinh(x.lower), torch.sinh(x.upper))
    return half_overflown(call, outward(call, lower, upper, 2 * ULPS, 2.0 * ABSOLUTE_ERROR))


def curve(_call: Call) -> Curve:
    """Return the curve, concave below 0 and convex above."""
    return Curve(torch.sinh, torch.cosh, (Bend.CONCAVE, Bend.CONVEX), (0.0,))


OPERATOR = register(
    Operator(
        name="Sinh",
        summary="The hyperbolic sine (eˣ − e⁻ˣ) / 2",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(import_as("Sinh", (9, 22)),),
        writes=export_as("Sinh"),
        layers=(option_free_layer("Sinh"),),
    )
)
