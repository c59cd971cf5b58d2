"""HardSwish: x min(max(x / 6 + 1/2, 0), 1)."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import OWN_GATE_ERROR, gated_interval
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

BOTTOM: Final = -1.5
TURNS: Final = (-3.0, 3.0)
# Where the gate is neither 0 nor 1, x / 6 with a rounded 1/6 is off by 2u / 2, and the sum by u.
GATE_ERROR: Final = 3 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x min(max(x / 6 + 1/2, 0), 1) (Howard et al. 2019, arXiv 1905.02244)."""
    return x * torch.clamp(x / 6.0 + 0.5, 0.0, 1.0)


def derivative(x: Tensor) -> Tensor:
    """0 below −3, x / 3 + 1/2 from −3 to 3, 1 above 3: the limit from the right at −3, from the left at 3."""
    inner = x / 3.0 + 0.5
    return torch.where(x < -3.0, torch.zeros_like(x), torch.where(x > 3.0, torch.ones_like(x), inner))


def interval(call: Call, x: Interval) -> Interval:
    """See `gated_interval`: HardSwish falls to its minimum and rises from there. Exact."""
    return gated_interval(call, x, lambda point: nominal(call, point), BOTTOM, GATE_ERROR)


def curve(call: Call) -> Curve:
    """Return the curve: a convex parabola between two lines."""
    return Curve(partial(nominal, call), derivative, (Bend.LINE, Bend.CONVEX, Bend.LINE), TURNS, missed=OWN_GATE_ERROR)


OPERATOR = register(
    elementwise(
        "HardSwish",
        "x min(max(x / 6 + 1/2, 0), 1)",
        curved(curve, partial(nonlinear, nominal, interval)),
        (14, 22),
        layer="Hardswish",
    )
)
