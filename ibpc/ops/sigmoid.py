"""Sigmoid: 1 / (1 + e⁻ˣ)."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.ops._elementwise import elementwise
from ibpc.ops._s_shaped import SShape, s_shaped
from ibpc.ops.base import register
from ibpc.ops.combinators import monotone
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

# PyTorch is within 2 ulps, also where 1 / (1 + e⁻ˣ) underflows. ONNX Runtime's rational function exceeds 8 ulps by up
# to 2.4u for x < −11, and may exceed 1. (1 + tanh(x / 2)) / 2 with a tanh within 8 ulps is off by 9u.
ABSOLUTE_ERROR: Final = 10 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 1 / (1 + e⁻ˣ)."""
    return torch.sigmoid(x)


def derivative(x: Tensor) -> Tensor:
    """y (1 − y), with 1 − y computed as sigmoid(−x) to avoid cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


CURVE: Final = SShape(torch.sigmoid, derivative)


OPERATOR = register(
    elementwise(
        "Sigmoid", "1 / (1 + e⁻ˣ)", s_shaped(CURVE, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)), (6, 13)
    )
)
