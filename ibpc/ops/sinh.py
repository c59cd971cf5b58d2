"""Sinh: the hyperbolic sine."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import half_overflown, unbroken
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
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
    elementwise(
        "Sinh", "The hyperbolic sine (eˣ − e⁻ˣ) / 2", curved(curve, partial(nonlinear, nominal, interval)), (9, 22)
    )
)
