"""Atanh: the inverse of the hyperbolic tangent."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import defined, substituted
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS, UNIT

# PyTorch and ONNX Runtime are within 4 ulps. In ln((1 + x) / (1 − x)) / 2 the quotient has a relative error of 3u (for
# x ≥ 1/2 the difference is exact), so the result an absolute one of 1.5u, also near 0, where it vanishes.
ABSOLUTE_ERROR: Final = 3 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ln((1 + x) / (1 − x)) / 2; ±∞ at ±1, NaN beyond."""
    return torch.atanh(x)


def derivative(x: Tensor) -> Tensor:
    """1 / (1 − x²)."""
    return 1.0 / ((1.0 - x) * (1.0 + x))


def domain(x: Interval) -> Tensor:
    """Return which boxes lie between −1 and 1."""
    return (x.lower > -1.0) & (x.upper < 1.0)


def interval(call: Call, x: Interval) -> Interval:
    """[artanh l, artanh u], exact; [−∞, ∞] where the box reaches −1 or 1."""
    safe = domain(x)
    box = substituted(safe, x, 0.0)
    ends = torch.atanh(box.lower), torch.atanh(box.upper)
    return defined(safe, outward(call, *ends, 2 * ELEMENTARY_ULPS, 2.0 * ABSOLUTE_ERROR))


def curve(_call: Call) -> Curve:
    """Return the curve, concave below 0 and convex above, defined between −1 and 1."""
    return Curve(torch.atanh, derivative, (Bend.CONCAVE, Bend.CONVEX), (0.0,), domain)


OPERATOR = register(
    elementwise(
        "Atanh", "The inverse of the hyperbolic tangent", curved(curve, partial(nonlinear, nominal, interval)), (9, 22)
    )
)
