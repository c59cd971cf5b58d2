"""Mish: x tanh(softplus(x))."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ops._bends import BELL, Curve, curved
from ibpc.ops._curves import gated_interval
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

BOTTOM: Final = -1.1924312145154952121
TURNS: Final = (-2.25637639636079312, 1.4905711794854284593)
# The softplus s has an absolute error of 18u and a relative one of 16u (see Softplus); tanh has 14u and 16u (see Tanh).
# The absolute error matters where tanh(s) is small; where s is large, tanh is flat: |s tanh′(s)| ≤ 0.45.
GATE_ERROR: Final = 60 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x tanh(ln(1 + eˣ)) (Misra 2019, arXiv 1908.08681)."""
    return F.mish(x)


def derivative(x: Tensor) -> Tensor:
    """t + x (1 − t²) sigmoid(x), with t = tanh(softplus(x)) and 1 − t² as 4 sigmoid(2s) sigmoid(−2s)."""
    soft = torch.logaddexp(x, torch.zeros_like(x))
    flatness = 4.0 * torch.sigmoid(2.0 * soft) * torch.sigmoid(-2.0 * soft)
    return torch.tanh(soft) + x * flatness * torch.sigmoid(x)


def interval(call: Call, x: Interval) -> Interval:
    """See `gated_interval`: Mish falls to its minimum and rises from there. Exact."""
    return gated_interval(call, x, F.mish, BOTTOM, GATE_ERROR)


def curve(_call: Call) -> Curve:
    """Return the curve: concave, convex about 0, and concave again."""
    return Curve(F.mish, derivative, BELL, TURNS)


OPERATOR = register(
    elementwise("Mish", "x tanh(softplus(x))", curved(curve, partial(nonlinear, nominal, interval)), (18, 22))
)
