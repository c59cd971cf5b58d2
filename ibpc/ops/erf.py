"""Erf: the error function."""

from __future__ import annotations

from functools import partial
from math import pi, sqrt
from typing import Final

import torch
from torch import Tensor

from ibpc.ops._elementwise import elementwise
from ibpc.ops._s_shaped import SShape, s_shaped
from ibpc.ops.base import register
from ibpc.ops.combinators import monotone
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

# PyTorch and ONNX Runtime are within 4 ulps. One minus a polynomial times e⁻ˣ² (Abramowitz and Stegun 1964, 7.1.26)
# has an absolute error of 3u plus the 16u of the exponential, also near 0, where erf vanishes.
ABSOLUTE_ERROR: Final = 22 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 2/√π ∫₀ˣ e^(−t²) dt."""
    return torch.erf(x)


def derivative(x: Tensor) -> Tensor:
    """2/√π e^(−x²)."""
    return torch.exp(-x * x) * (2.0 / sqrt(pi))


CURVE: Final = SShape(torch.erf, derivative)


OPERATOR = register(
    elementwise(
        "Erf", "The error function", s_shaped(CURVE, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)), (9, 13)
    )
)
