"""Cosh: the hyperbolic cosine."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import half_overflown, unbroken
from ibpc.ops._elementwise import elementwise
from ibpc.ops._planes import inside
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS

# (eˣ + e⁻ˣ) / 2 of exponentials within `ELEMENTARY_ULPS`: the sum and a quotient 1 / eˣ round.
ULPS: Final = ELEMENTARY_ULPS + 1


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = (eˣ + e⁻ˣ) / 2."""
    return torch.cosh(x)


def interval(call: Call, x: Interval) -> Interval:
    """[cosh z, max(cosh l, cosh u)], z the point nearest to 0. Exact."""
    least = torch.cosh(inside(0.0, x.lower, x.upper))
    most = torch.maximum(torch.cosh(x.lower), torch.cosh(x.upper))
    return half_overflown(call, outward(call, *unbroken(call, least, most), 2 * ULPS))


def curve(_call: Call) -> Curve:
    """Return the curve, which is convex."""
    return Curve(torch.cosh, torch.sinh, (Bend.CONVEX,))


OPERATOR = register(
    elementwise(
        "Cosh", "The hyperbolic cosine (eˣ + e⁻ˣ) / 2", curved(curve, partial(nonlinear, nominal, interval)), (9, 22)
    )
)
