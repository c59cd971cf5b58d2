"""The arithmetic that a bound is proved for, and the rounding errors that it must cover.

A bound under `Arithmetic.REAL` holds for real arithmetic up to unaccounted rounding. A bound under
`Arithmetic.FLOAT32`, although computed in binary32 itself, holds for real arithmetic *and* for every IEEE-754 binary32
execution of the network, in any summation order, with or without fused multiply-add.

The model is the standard one (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapters 2 and 3):
fl(a ∘ b) = (a ∘ b)(1 + δ), |δ| ≤ u, and a sum of n products in any order is off by at most γₙ Σ|aᵢ bᵢ| with
γₙ = n u / (1 − n u). Results below the normal range may be flushed to zero, so every term may lose another `SMALLEST`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

import torch
from torch import Tensor

from ibpc.errors import GraphError

UNIT: Final = 2.0**-24
WIDE_UNIT: Final = 2.0**-53
# The least positive normal number of binary32, and its greatest number.
SMALLEST: Final = 2.0**-126
LARGEST: Final = (2.0 - 2.0**-23) * 2.0**127
ELEMENTARY_ULPS: Final = 8
# The factor by which radii are raised while they are summed, and lowered afterwards, so that they overflow before any
# sum does.
RAISED: Final = 2.0**24
# The most that underflow can change in an operand: in the value itself, its center and radius, and their inflated sum.
# An affine operator multiplies this by |W|, so it is added before the product; `vanishing` covers underflow after it.
FLUSHED: Final = 16.0 * SMALLEST


class Arithmetic(Enum):
    """The arithmetic that a bound is proved for."""

    REAL = "real"
    FLOAT32 = "float32"


def gamma(terms: int) -> float:
    """Return γₙ = n u / (1 − n u) of binary32.

    Raises GraphError if n u ≥ 1/4: beyond some five million terms the second-order errors outgrow `inflation`.
    """
    product = terms * UNIT
    if product >= 0.25:
        raise GraphError.at("rounding", f"a sum of {terms} products", "fewer than 2²² terms", "use real arithmetic")
    return product / (1.0 - product)


def inflation(terms: int, unit: float = UNIT) -> float:
    """Return the relative growth ρ that an affine operator of `terms` products needs in binary32.

    `unit` is the unit roundoff in which the bound itself is computed. In binary32, four errors of at most
    γ (|W||x| + |b|) each must be covered, with γ = gamma(terms) and |x| ≤ |c| + r: those of the network's sum, the
    bound's center, the bound's radius, and the conversions between center/radius and lower/upper on either side (2u).
    Sixteen more terms cover the products of (1 + δ) left out above. In binary64 only the network's error is left:
    γ(n + 1) and up to forty roundings that passes fused into it (`ibpc.passes._roundings`). The bound's own errors are
    2⁻²⁹ of that, less than one of the seven terms that remain.
    """
    return 4.0 * gamma(terms + 16) if unit == UNIT else gamma(terms + 48)


def vanishing(terms: int) -> float:
    """Return the absolute error that underflow, flushing to zero included, can add to a sum of `terms` products."""
    return 4.0 * (terms + 16) * SMALLEST


def guard_overflow(radius: Tensor, growth: float) -> Tensor:
    """Return (1 + growth) · radius of an affine operator, infinite where its sums may overflow binary32 in some order.

    `radius` is at least 4 (n + 16) u Σ |wᵢ| |xᵢ| (see `inflation`), so radius / u overflows before any of the sums
    does, in the network or in the bound; an infinite center would claim too much. Powers of two are exact. Changes
    `radius` in place.
    """
    return radius.mul_((1.0 + growth) * RAISED).mul_(1.0 / RAISED)


def unraised(growth: float) -> float:
    """Return the factor that replaces `guard_overflow` for a radius that is `RAISED` already."""
    return (1.0 + growth) / RAISED


def down(lower: Tensor, ulps: int = 1) -> Tensor:
    """Return a value below `lower` by at least `ulps` roundings of relative size 2u, computed in binary32."""
    return lower - (lower.abs() * (2.0 * (ulps + 1) * UNIT) + 4.0 * SMALLEST)


def up(upper: Tensor, ulps: int = 1) -> Tensor:
    """Return a value above `upper` by at least `ulps` roundings of relative size 2u, computed in binary32."""
    return upper + (upper.abs() * (2.0 * (ulps + 1) * UNIT) + 4.0 * SMALLEST)


@contextmanager
def plain_products() -> Iterator[None]:
    """Compute products as plain binary32 dot products: no TF32, no reduced precision, no Winograd or FFT convolution.

    The error model of this module assumes these. On a CPU, PyTorch's convolutions are direct or matrix products; on
    CUDA, cuDNN chooses its own algorithm, so it is switched off. Restores the settings on exit.
    """
    precision = torch.get_float32_matmul_precision()
    matmul_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
        torch.set_float32_matmul_precision(precision)


def outer_ball(
    x: Tensor, eps: float | Tensor, clip: tuple[float | Tensor, float | Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Return binary32 bounds of the L∞ ball of radius `eps` around `x`, rounded outward, intersected with `clip`.

    The ball is exact: the bounds contain all of [x − ε, x + ε] for ε as given (a binary64 number or tensor), although
    x ± ε may not be representable. The ends of `clip` are rounded outward as well.
    """
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    lower, upper = _sum_toward(x.double(), -radius, -torch.inf), _sum_toward(x.double(), radius, torch.inf)
    if clip is not None:
        low, high = (torch.as_tensor(end, dtype=torch.float64, device=x.device) for end in clip)
        lower, upper = lower.clamp(low, high), upper.clamp(low, high)
    return toward(lower, -torch.inf), toward(upper, torch.inf)


def _sum_toward(a: Tensor, b: Tensor, end: float) -> Tensor:
    """Return binary64 a + b rounded toward `end`; the rounding error is computed exactly (Knuth's two-sum)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    missed = error < 0 if end < 0 else error > 0
    return torch.where(missed, torch.nextafter(total, torch.full_like(total, end)), total)


def toward(value: Tensor, end: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the binary64 `value` rounded to `dtype` toward `end`, −∞ or ∞."""
    rounded = value.to(dtype)
    limit = torch.full_like(rounded, end)
    missed = rounded.double() > value if end < 0 else rounded.double() < value
    return torch.where(missed, torch.nextafter(rounded, limit), rounded)
