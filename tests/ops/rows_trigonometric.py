"""Rows of the inverse of the tangent, of the hyperbolic functions, and of their inverses."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case

_WIDE = Box((3, 4), -9.0, 9.0, 4.0)
_VANISHING = {"float32_tight": "widened by an absolute error where the result vanishes"}


# ── other ways to compute the same in binary32 ──────────────────────────────────────────────────────────────────
def atan_by_polynomial(call: Call, x: Tensor) -> Tensor:
    """Abramowitz and Stegun 1964, 4.4.49, with arctan x = π/2 − arctan(1/x) beyond 1."""
    factors = (0.0028662257, -0.0161657367, 0.0429096138, -0.0752896400, 0.1065626393, -0.1420889944, 0.1999355085)
    size = x.abs()
    inner = torch.where(size > 1, 1.0 / size, size)
    total, square = torch.zeros_like(x), inner * inner
    for factor in (*factors, -0.3333314528, 1.0):
        total = total * square + factor
    angle = inner * total
    return x.sign() * torch.where(size > 1, torch.pi / 2 - angle, angle)


def atan_by_half(call: Call, x: Tensor) -> Tensor:
    """Double the angle of half the tangent, x / (1 + √(1 + x²))."""
    return 2.0 * torch.atan(x / (1.0 + torch.sqrt(1.0 + x * x)))


def asinh_by_logarithm(call: Call, x: Tensor) -> Tensor:
    """Take ln(|x| + √(x² + 1))."""
    return x.sign() * torch.log(x.abs() + torch.sqrt(x * x + 1.0))


def sinh_by_exponentials(call: Call, x: Tensor) -> Tensor:
    """Halve eˣ − e⁻ˣ."""
    return (torch.exp(x) - torch.exp(-x)) / 2.0


def sinh_by_quotient(call: Call, x: Tensor) -> Tensor:
    """Halve eˣ − 1 / eˣ."""
    return 0.5 * (torch.exp(x) - 1.0 / torch.exp(x))


def cosh_by_exponentials(call: Call, x: Tensor) -> Tensor:
    """Halve eˣ + e⁻ˣ."""
    return (torch.exp(x) + torch.exp(-x)) / 2.0


def atanh_by_logarithm(call: Call, x: Tensor) -> Tensor:
    """Halve ln((1 + x) / (1 − x))."""
    return 0.5 * torch.log((1.0 + x) / (1.0 - x))


_SINHS = (sinh_by_exponentials, sinh_by_quotient)

ROWS = (
    Case("Atan", (Box((3, 4)),), name="narrow", evaluations=(atan_by_polynomial, atan_by_half)),
    Case("Atan", (_WIDE,), name="wide", evaluations=(atan_by_polynomial, atan_by_half)),
    Case("Asinh", (Box((3, 4)),), name="narrow", evaluations=(asinh_by_logarithm,), without=_VANISHING),
    Case("Asinh", (_WIDE,), name="wide", evaluations=(asinh_by_logarithm,)),
    Case("Sinh", (Box((3, 4)),), name="narrow", evaluations=_SINHS, without=_VANISHING),
    Case("Sinh", (_WIDE,), name="wide", evaluations=_SINHS, without=_VANISHING),
    Case("Cosh", (Box((3, 4)),), name="narrow", evaluations=(cosh_by_exponentials,)),
    Case("Cosh", (_WIDE,), name="wide", evaluations=(cosh_by_exponentials,)),
    Case("Atanh", (Box((3, 4), -0.9, 0.9, 0.2),), name="narrow", evaluations=(atanh_by_logarithm,), without=_VANISHING),
    Case("Atanh", (Box((3, 4), -0.9990234375, 0.9990234375, 0.7),), name="wide", evaluations=(atanh_by_logarithm,)),
)
