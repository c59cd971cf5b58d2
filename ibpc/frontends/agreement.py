"""When two implementations compute the same: what tells rounding from another meaning."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

RELATIVE: Final = 1e-4
ABSOLUTE: Final = 1e-5
# How far a value may be from another implementation's, in units of what rounding did to it here.
_ROUNDINGS: Final = 64.0

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


def agree_where_stable(ours: Array, precisely: Array, theirs: Array) -> bool:
    """Return whether two agree wherever ours hardly moves when it is computed in binary64, which is `precisely`.

    For points where rounding may do anything: what is not finite in one of the three says nothing.
    """
    sides = [side.astype(np.float64).ravel() for side in (ours, precisely, theirs)]
    if len({side.shape for side in sides}) > 1:
        return False
    finite = np.logical_and.reduce([np.isfinite(side) for side in sides])
    mine, wide, other = (side[finite] for side in sides)
    return bool(np.all(np.abs(mine - other) <= _bound(other) + _ROUNDINGS * np.abs(mine - wide)))


def magnitude(values: Array) -> float:
    """Return the largest modulus, at least 1."""
    return max(1.0, float(np.abs(values).max(initial=0.0)))


def _bound(values: Array) -> Array:
    return np.asarray(RELATIVE * np.abs(values) + ABSOLUTE * magnitude(values))
