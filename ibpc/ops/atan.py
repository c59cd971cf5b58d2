"""Atan: the inverse of the tangent."""

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


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = arctan x."""
    return torch.atan(x)


def derivative(x: Tensor) -> Tensor:
    """1 / (1 + x²)."""
    return 1.0 / (1.0 + x * x)


# No absolute error: polynomials start with x, and π/2 − arctan(1/x) and π/4 + arctan((x − 1) / (x + 1)) are used where
# nothing cancels.
CURVE: Final = SShape(torch.atan, derivative)


OPERATOR = register(
    elementwise("Atan", "The inverse of the tangent, in radians", s_shaped(CURVE, partial(monotone, nominal)), (7, 22))
)
