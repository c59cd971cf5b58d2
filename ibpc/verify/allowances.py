"""How far a claim may lie above what the checker finds, where nobody accounts for rounding."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# How far a claim in real arithmetic, whose rounding nobody accounts for, may lie above the checker's bound, relative to
# the ends of the range.
UNACCOUNTED: Final = 1e-4


def magnitudes(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what rounding that nobody accounts for is relative to: the greater end of each range, at least 1."""
    ends = np.maximum(np.abs(lower), np.abs(upper))
    return np.maximum(np.where(np.isfinite(ends), ends, 1.0), 1.0)
