"""What arithmetic a bound is proved for, and the rounding it has to pay for that.

A bound under `Arithmetic.REAL` holds for real arithmetic up to unaccounted rounding. A bound under
`Arithmetic.FLOAT32` holds for real arithmetic *and* for every IEEE-754 binary32 execution of the network, in any
summation order, with or without fused multiply-add, and although the bound itself is computed in binary32.

The model is the standard one (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapters 2 and 3):
fl(a ∘ b) = (a ∘ b)(1 + δ), |δ| ≤ u, and a sum of n products in any order is off by at most γₙ Σ|aᵢ bᵢ| with
γₙ = n u / (1 − n u). Results below the normal range may be flushed to zero, so every term may lose `SMALLEST` more.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

import torch

UNIT: Final = 2.0**-24
SMALLEST: Final = 2.0**-126
ELEMENTARY_ULPS: Final = 8

T = TypeVar("T", bound=torch.Tensor)


class Arithmetic(Enum):
    """The arithmetic that a bound is proved for."""

    REAL = "real"
    FLOAT32 = "float32"


def gamma(terms: int) -> float:
    """Return γₙ = n u / (1 − n u) of binary32. Raises OverflowError where n u ≥ 1/2 and the model says nothing."""
    product = terms * UNIT
    if product >= 0.5:
        raise OverflowError(f"a sum of {terms} products has no binary32 error bound")
    return product / (1.0 - product)


def inflation(terms: int) -> float:
    """Return the relative growth ρ that an affine operator of `terms` products needs in binary32.

    Four errors of at most γ (|W||x| + |b|) each have to be covered, with γ = gamma(terms) and |x| ≤ |c| + r:
    the network's own sum, the bound's center, the bound's radius, and the conversion between center/radius and
    lower/upper on either side (2u). Sixteen more terms pay for the products of (1 + δ) left out above.
    """
    return 4.0 * gamma(terms + 16)


def vanishing(terms: int) -> float:
    """Return the absolute error that underflow can add to a sum of `terms` products, flushing to zero included."""
    return 4.0 * (terms + 16) * SMALLEST


def down(lower: torch.Tensor, ulps: int = 1) -> torch.Tensor:
    """Return a value below `lower` by at least `ulps` roundings of relative size 2u, computed in binary32."""
    return lower - (lower.abs() * (2.0 * (ulps + 1) * UNIT) + 4.0 * SMALLEST)


def up(upper: torch.Tensor, ulps: int = 1) -> torch.Tensor:
    """Return a value above `upper` by at least `ulps` roundings of relative size 2u, computed in binary32."""
    return upper + (upper.abs() * (2.0 * (ulps + 1) * UNIT) + 4.0 * SMALLEST)
