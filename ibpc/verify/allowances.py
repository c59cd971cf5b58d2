"""How far a claim in real arithmetic may lie above the checker's bound, since rounding is not accounted for."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# The allowance, relative to `magnitudes`.
UNACCOUNTED: Final = 1e-4


def magnitudes(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sizes that unaccounted rounding is relative to: the greater modulus of both ends, at least 1."""
    ends = np.maximum(np.abs(lower), np.abs(upper))
    return np.maximum(np.where(np.isfinite(ends), ends, 1.0), 1.0)
