"""The cost of rounding: in the arithmetic of a claim, and in the checker's own.

Rounding follows the standard model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., lemma 3.1 and
section 3.1): whatever the order, a sum of products in which no term passes more than n roundings is off by at most γₙ
times the sum of the moduli, γₙ = n u / (1 − n u). It is applied twice: with the u of the claim's arithmetic, and with
the checker's own, 2⁻⁵³.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.values import Affine, Array, Box, Constant, is_whole

OWN_UNIT: Final = 2.0**-53
# The checker's own roundings beyond those of a sum: in shifts, scales and the widening.
OWN_ROUNDINGS: Final = 8
_OWN_SMALLEST: Final = 2.0**-1000


@dataclass(frozen=True)
class Machine:
    """The arithmetic of a claim: unit roundoff u, smallest normal number, and the largest number that may occur.

    In real arithmetic the first two are 0; the largest number is that of binary64, in which the checker computes.
    """

    unit: float
    smallest: float
    largest: float

    def sum_error(self, roundings: int, magnitude: Array, factor: float = 0.0, before: Array | float = 0.0) -> Array:
        """Return the greatest error of sums of products whose terms pass at most `roundings` roundings each.

        `magnitude` is the sum of the moduli, `factor` the largest modulus that multiplies a constant which may be
        flushed to zero. Infinite where a partial sum may overflow, or an intermediate result as large as `before`, from
        before a quotient or factor makes it smaller. The checker's own error is included.
        """
        if roundings * self.unit >= 0.25:
            return np.full_like(magnitude, np.inf)
        gamma = roundings * self.unit / (1.0 - roundings * self.unit)
        own = (roundings + OWN_ROUNDINGS) * 2.0 * OWN_UNIT
        vanished = (roundings + 4) * self.smallest * (1.0 + factor) if self.smallest else 0.0
        error = (gamma + own) * magnitude + (vanished + _OWN_SMALLEST)
        return np.where(np.maximum(magnitude, before) * (1.0 + 2.0 * gamma) < self.largest, error, np.inf)

    def whole_ends(self, box: Box, weight: Constant, bias: Constant, magnitude: Array) -> NDArray[np.bool_]:
        """Return where the ends of weight · box + bias are exact: sums of integers that round in no order of summation.

        Rounding is monotone, and so are sums in a fixed order: no point of the box gets beyond the exact ends.
        """
        whole = weight.is_whole and bias.is_whole and is_whole(box.lower) and is_whole(box.upper)
        return whole & (magnitude <= (1.0 / self.unit if self.unit else 1.0 / OWN_UNIT))

    def flushed(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return the ends, widened to include 0 where numbers may be flushed to it."""
        low = np.where((lower > 0) & (lower < self.smallest), 0.0, lower)
        return low, np.where((upper < 0) & (upper > -self.smallest), 0.0, upper)

    def settled(self, box: Box) -> Box:
        """Return the box for later nodes: widened for overflow, flushing to zero and NaN."""
        lower = np.where((box.lower >= -self.largest) & (box.lower <= self.largest), box.lower, -np.inf)
        upper = np.where((box.upper <= self.largest) & (box.upper >= -self.largest), box.upper, np.inf)
        unknown = np.isnan(box.lower) | np.isnan(box.upper)
        lower, upper = self.flushed(np.where(unknown, -np.inf, lower), np.where(unknown, np.inf, upper))
        if box.affine is None:
            return Box(lower, upper, bend=box.bend)
        bounded = (np.isfinite(lower) & np.isfinite(upper)).ravel()
        error = np.where(bounded & ~np.isnan(box.affine.error), box.affine.error, np.inf)
        return Box(lower, upper, Affine(box.affine.pulls, box.affine.offset, error))


MACHINES: Final = {
    "real": Machine(0.0, 0.0, float(np.finfo(np.float64).max)),
    "float32": Machine(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
}
