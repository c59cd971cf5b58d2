"""When two implementations compute the same: what tells rounding from another meaning."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

RELATIVE: Final = 1e-4
ABSOLUTE: Final = 1e-5

Array: TypeAlias = NDArray[Any]


def agree(ours: Array, theirs: Array) -> bool:
    """Return whether |ours − theirs| ≤ 1e-4 |theirs| + 1e-5 max(1, max|theirs|) everywhere, NaN and ∞ alike in both."""
    ours, theirs = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    if ours.shape != theirs.shape:
        return False
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return False
    ours, theirs = ours[finite], theirs[finite]
    return bool(np.all(np.abs(ours - theirs) <= _bound(theirs)))


def agree_with_bounds(lower: Array, upper: Array, theirs: Array) -> bool:
    """Return whether values lie within bounds, give or take what `agree` allows; what is not finite says nothing."""
    low, high, values = (side.astype(np.float64).ravel() for side in (lower, upper, theirs))
    if not low.shape == high.shape == values.shape:
        return False
    known = np.logical_and.reduce([np.isfinite(side) for side in (low, high, values)])
    low, high, values = low[known], high[known], values[known]
    slack = RELATIVE * np.abs(values) + ABSOLUTE * magnitude(values)
    return bool(((low - slack <= values) & (values <= high + slack)).all())


def magnitude(values: Array) -> float:
    """Return the largest modulus, at least 1."""
    return max(1.0, float(np.abs(values).max(initial=0.0)))


def _bound(values: Array) -> Array:
    return np.asarray(RELATIVE * np.abs(values) + ABSOLUTE * magnitude(values))
