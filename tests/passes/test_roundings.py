"""The inequalities that `ibpc.passes._roundings` rests on, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ibpc.passes._roundings import MOST_ROUNDINGS, UNDERFLOW
from ibpc.rounding import SMALLEST, WIDE_UNIT, inflation

U = Fraction(1, 2**24)


def gamma(count: int) -> Fraction:
    return count * U / (1 - count * U)


def covers(n: int, fused: int) -> bool:
    """Whether both inequalities of the docstring hold for n terms and `fused` roundings."""
    growth, lost = 4 * gamma(n + 16), gamma(n + 5)
    original = gamma(n + 1 + fused) * (1 + 10 * U)
    of_center = growth * (1 - lost) >= original + gamma(n + 1) * (1 + 10 * U) + 10 * U + 2 * U * growth
    of_radius = (1 + growth) * (1 - lost) >= 1 + 10 * U + original + 2 * U * growth
    return of_center and of_radius


SIZES = [*range(1, 200), *(2**power + offset for power in range(8, 22) for offset in (-1, 0, 1)), 2**22]


@pytest.mark.parametrize("fused", [0, 14, MOST_ROUNDINGS])
def test_the_inflation_covers_what_is_fused(fused: int) -> None:
    assert all(covers(n, fused) for n in SIZES)


@pytest.mark.parametrize("fused", [0, 14, MOST_ROUNDINGS])
def test_the_inflation_of_binary64_bounds_covers_what_is_fused(fused: int) -> None:
    """The original execution, and 4 n + 64 roundings of the bound itself."""
    wide = Fraction(WIDE_UNIT)
    for n in SIZES:
        if n + 48 < 2**22:
            assert Fraction(inflation(n, WIDE_UNIT)) >= gamma(n + 1 + fused) + (4 * n + 64) * wide


def test_and_not_much_more() -> None:
    assert not covers(1, MOST_ROUNDINGS + 16)


@pytest.mark.parametrize("n", [1, 9, 1000, 2**20])
def test_the_magnitude_covers_underflow(n: int) -> None:
    """Each of the 2 n + 1 operations of a fused sum may lose the smallest normal number."""
    assert inflation(n) * UNDERFLOW >= (2 * n + 1) * SMALLEST
