"""Pulls of rows over a value back to its source, when the value consists of copies of the source's elements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.values import Array, Pull


def scatter(indices: NDArray[np.int64], positions: NDArray[np.int64], size: int) -> Pull:
    """Return the pull of value[positions] = source[indices]: coefficients of copies are added up."""
    unique = len(np.unique(indices)) == len(indices)

    def pull(rows: Array) -> Array:
        taken = rows[:, positions]
        result = np.zeros((len(rows), size))
        if unique:
            result[:, indices] = taken
        else:
            np.add.at(result.T, indices, taken.T)
        return result

    return pull


def broadcast_pull(shape: tuple[int, ...], output: tuple[int, ...], scale: Array | float = 1.0) -> Pull:
    """Return the pull of value = scale · source, the source of `shape` broadcast to `output`."""
    size = int(np.prod(shape))
    indices = np.broadcast_to(np.arange(size).reshape(shape), output).ravel()
    gather = scatter(indices, np.arange(len(indices)), size)
    factors = np.broadcast_to(scale, output).ravel()
    return lambda rows: gather(rows * factors)
