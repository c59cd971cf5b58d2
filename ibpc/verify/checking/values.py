"""The values along the edges of a checked file: constants and boxes.

Both have the shape that the file gives them at batch 1. A box may be known as an affine function of other values, and
rows of a specification are pulled back through it before they are bounded; otherwise it may have planes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.errors import ModelError

Array: TypeAlias = NDArray[np.float64]
Pull: TypeAlias = Callable[[Array], Array]

# Binary64 represents all integers up to here.
LAST_WHOLE: Final = 2.0**53
_UNDEFINED: Final = 0
# The least and the greatest binary64 number in the range of each integer type, beyond which results wrap around.
INTEGERS: Final = {
    2: (0.0, 2.0**8 - 1),
    3: (-(2.0**7), 2.0**7 - 1),
    4: (0.0, 2.0**16 - 1),
    5: (-(2.0**15), 2.0**15 - 1),
    6: (-(2.0**31), 2.0**31 - 1),
    7: (-(2.0**63), 2.0**63 - 2.0**10),
    12: (0.0, 2.0**32 - 1),
    13: (0.0, 2.0**64 - 2.0**11),
}
_IN_ALL: Final = (0.0, 2.0**7 - 1)


def is_whole(values: Array) -> bool:
    """Return whether all values are integers."""
    return bool((np.isfinite(values) & (values == np.rint(values))).all())


class Constant:
    """An array that does not depend on the inputs, in the type of the file."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return self.array.shape

    @cached_property
    def wide(self) -> Array:
        """The values in binary64. Raises ModelError for integers that it may not represent."""
        wide = np.asarray(self.array, dtype=np.float64)
        if self.array.dtype.kind in "iu" and bool((np.abs(wide) >= LAST_WHOLE).any()):
            raise ModelError.at("checker", "an integer constant of 2⁵³ or more", "less")
        return wide

    @cached_property
    def positive(self) -> Array:
        """The positive part W⁺ = max(W, 0)."""
        return np.maximum(self.wide, 0.0)

    @cached_property
    def negative(self) -> Array:
        """The negative part W⁻ = min(W, 0)."""
        return np.minimum(self.wide, 0.0)

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are integers."""
        return is_whole(self.wide)

    @property
    def lower(self) -> Array:
        """The values, as the lower end of a box of one point."""
        return self.wide

    @property
    def upper(self) -> Array:
        """The values, as the upper end of a box of one point."""
        return self.wide

    @property
    def magnitude(self) -> Array:
        """The moduli."""
        return np.abs(self.wide)


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine function of other values: value = Σ M source + offset, with an error of at most `error`, flat (K,).

    Each pull takes rows C (R, K) to C M (R, n), with n the size of its source.
    """

    pulls: tuple[tuple[str, Pull], ...]
    offset: Array
    error: Array


@dataclass(frozen=True, eq=False)
class Term:
    """The term of one source in planes: slope · element, where each element of the value reads one of the source.

    `spread` takes rows over the value (R, K) to rows over the source (R, n), adding up copies. `below` and `above` are
    the slopes of the lower and the upper plane, (K,).
    """

    source: str
    spread: Pull
    below: Array
    above: Array


@dataclass(frozen=True, eq=False)
class Planes:
    """Two affine functions of other values that enclose a value, up to `error`; all flat, (K,).

    `fan` holds the least and the greatest slope of lines through 0 below the value, NaN for elements with only one: the
    lower plane may have any slope in between, with a single term and offset 0. `tune` makes planes from two numbers in
    [0, 1] for each element and row, (R, 2, K), below and above.
    """

    terms: tuple[Term, ...]
    lower: Array
    upper: Array
    error: Array
    fan: tuple[Array, Array] | None = None
    tune: Callable[[Array], Planes] | None = None


@dataclass(frozen=True, eq=False)
class Box:
    """All values between `lower` and `upper`, elementwise; infinite ends bound nothing.

    `bend` makes the planes of a value that is not an affine function of others.
    """

    lower: Array
    upper: Array
    affine: Affine | None = None
    bend: Callable[[], Planes] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file at batch 1."""
        return self.lower.shape

    @cached_property
    def magnitude(self) -> Array:
        """The greatest modulus."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


Value: TypeAlias = Constant | Box


def unknown(box: Box) -> NDArray[np.bool_]:
    """Return where nothing is known, so that a value may even be NaN: where neither end is finite."""
    return ~(np.isfinite(box.lower) | np.isfinite(box.upper))


def unwrapped(box: Box, element_type: int) -> Box:
    """Return the box, unbounded where integers may lie beyond the range of their type.

    An unknown type gets the range that all types share.
    """
    if element_type not in INTEGERS and element_type != _UNDEFINED:
        return box
    least, greatest = INTEGERS.get(element_type, _IN_ALL)
    beyond = ~((box.lower >= least) & (box.upper <= greatest))
    return replace(unless(beyond, box), affine=box.affine, bend=box.bend) if beyond.any() else box


def unless(lost: Any, box: Box) -> Box:
    """Return the box, unbounded where it is `lost`."""
    return Box(np.where(lost, -np.inf, box.lower), np.where(lost, np.inf, box.upper))
