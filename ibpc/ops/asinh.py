"""Asinh: the inverse of the hyperbolic sine."""

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

# PyTorch and ONNX Runtime are within 4 ulps. ± ln(|x| + √(x² + 1)) has an argument with a relative error of 3u, so an
# absolute one of 3u, also near 0, where the result vanishes. A square that overflows is not allowed for.
ABSOLUTE_ERROR: Final = 4 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ln(x + √(x² + 1))."""
    return torch.asinh(x)


def derivative(x: Tensor) -> Tensor:
    """1 / √(1 + x²)."""
    return torch.rsqrt(1.0 + x * x)


CURVE: Final = SShape(torch.asinh, derivative)


OPERATOR = register(
    elementwise(
        "Asinh",
        "The inverse of the hyperbolic sine",
        s_shaped(CURVE, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)),
        (9, 22),
    )
)
