"""Tanh: the hyperbolic tangent."""

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

# PyTorch and ONNX Runtime are within 3 ulps (and may exceed 1). 1 − 2 / (e²ˣ + 1) with an exponential within 8 ulps has
# an absolute error of up to 13u near 0, where tanh vanishes.
ABSOLUTE_ERROR: Final = 14 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = tanh x."""
    return torch.tanh(x)


def derivative(x: Tensor) -> Tensor:
    """1 − tanh² x, computed as 4 sigmoid(2x) sigmoid(−2x) to avoid cancellation."""
    return 4.0 * (torch.sigmoid(2.0 * x) * torch.sigmoid(-2.0 * x))


CURVE: Final = SShape(torch.tanh, derivative)


OPERATOR = register(
    elementwise(
        "Tanh", "Hyperbolic tangent", s_shaped(CURVE, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)), (6, 13)
    )
)
