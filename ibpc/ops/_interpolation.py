"""Interpolation along one axis as ONNX Resize defines it: the elements and weights that make up each result.

Coordinates are computed twice: in binary64 for the real numbers that the standard means, and in binary32 as runtimes
compute them. Where the two agree exactly, the weights of an execution differ from ours only by rounding; elsewhere by
up to `Axis.doubt`, and neighbouring elements may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.errors import GraphError
from ibpc.rounding import UNIT

Array: TypeAlias = NDArray[Any]

MODES: Final = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
_COORDINATE_ROUNDINGS: Final = 8.0
_WEIGHT_ROUNDINGS: Final = 64.0


@dataclass(frozen=True)
class Axis:
    """How one axis is resized: sizes, scale (the quotient of the sizes if `is_quotient`), and the region of a crop."""

    before: int
    after: int
    scale: float
    is_quotient: bool
    mode: str
    region: tuple[float, float] = (0.0, 1.0)

    def coordinates(self, kind: str) -> Array:
        """Return the coordinate of each result on the original axis, computed in the type "float32" or "float64"."""

        def number(value: float) -> Array:
            return np.asarray(value, kind)

        y, one, half = np.arange(self.after, dtype=kind), number(1), number(0.5)
        before, after = number(self.before), number(self.after)
        scale = after / before if self.is_quotient else number(self.scale)
        found: Array
        if self.mode == "asymmetric":
            found = y / scale
        elif self.mode == "align_corners":
            found = y * (before - one) / (after - one) if self.after > 1 else y * number(0)
        elif self.mode == "tf_crop_and_resize":
            found = self._cropped(y, *(number(place) for place in self.region))
        elif self.mode == "tf_half_pixel_for_nn":
            found = (y + half) / scale
        elif self.mode == "pytorch_half_pixel" and self.after == 1:
            found = y * number(0)
        elif self.mode == "half_pixel_symmetric":
            found = (y + half) / scale - half + before / number(2) * (one - after / (scale * before))
        else:
            found = (y + half) / scale - half
        return found

    def _cropped(self, y: Array, start: Array, end: Array) -> Array:
        last = np.asarray(self.before - 1, y.dtype)
        if self.after == 1:
            return np.asarray(np.asarray(0.5, y.dtype) * (start + end) * last + y)
        return np.asarray(start * last + y * ((end - start) * last / np.asarray(self.after - 1, y.dtype)))

    def doubt(self) -> Array:
        """Return the error that the coordinate of each result may have in binary32; 0 where it is computed exactly."""
        exact, single = self.coordinates("float64"), self.coordinates("float32")
        reach = max(1.0, *(abs(place) for place in self.region)) * (self.before + 1)
        same = (single.astype(np.float64) == exact) & all(map(_is_single, self._steps()))
        return np.where(same, 0.0, _COORDINATE_ROUNDINGS * UNIT * reach)

    def _steps(self) -> tuple[Fraction, ...]:
        """Return the numbers a coordinate may be computed from: the distance of two results, the scale, the start."""
        last = self.before - 1
        if self.mode == "align_corners":
            return (Fraction(last, max(self.after - 1, 1)),)
        if self.mode == "tf_crop_and_resize":
            start, end = (Fraction(place) for place in self.region)
            return start * last, end * last, (end - start) * last / max(self.after - 1, 1)
        scale = Fraction(self.after, self.before) if self.is_quotient else Fraction(self.scale)
        return scale, 1 / scale

    def outside(self) -> Array:
        """Return which results of a crop lie outside the axis. Raises GraphError if that depends on rounding."""
        if self.mode != "tf_crop_and_resize":
            return np.zeros(self.after, bool)
        exact, single = (
            (place < 0) | (place > self.before - 1) for place in map(self.coordinates, ("float64", "float32"))
        )
        if (exact != single).any():
            raise GraphError.at(
                "region", "it begins or ends so near to an edge that rounding decides", "another region"
            )
        return np.asarray(exact)


def _is_single(number: Fraction) -> bool:
    return abs(number) < 2**100 and Fraction(float(np.float32(float(number)))) == number


# ── nearest ─────────────────────────────────────────────────────────────────────────────────────────────────────
NEAREST: Final[Mapping[str, Callable[[Array], Array]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.asarray(0.5, x.dtype)),
    "round_prefer_ceil": lambda x: np.floor(x + np.asarray(0.5, x.dtype)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest(axis: Axis, rounding: str, where: str) -> Array:
    """Return the position that each result copies, if coordinates are computed by the standard's formulas.

    Raises GraphError if the position depends on rounding.
    """
    exact, single = (NEAREST[rounding](axis.coordinates(kind)) for kind in ("float64", "float32"))
    clamped: Array = np.clip(exact, 0, axis.before - 1).astype(np.int64)
    undecided = clamped != np.clip(single, 0, axis.before - 1).astype(np.int64)
    if bool((undecided & ~axis.outside()).any()):
        raise GraphError.at(
            where, "which element is the nearest depends on the rounding of a coordinate", "a scale without such ties"
        )
    return clamped


# ── linear, cubic ───────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Kernel:
    """An interpolation kernel: cubic with coefficient `cubic` (Keys 1981), or linear if that is None."""

    cubic: float | None
    antialias: bool
    exclude_outside: bool

    @property
    def support(self) -> int:
        """The distance beyond which the kernel is 0."""
        return 1 if self.cubic is None else 2

    @property
    def steepness(self) -> float:
        """A bound of the kernel's slope."""
        return 1.0 if self.cubic is None else 3 * abs(self.cubic + 2) + 2 * abs(self.cubic + 3) + abs(self.cubic)

    def __call__(self, distance: Array) -> Array:
        """Return the kernel at distances from its center."""
        x = np.abs(distance)
        if self.cubic is None:
            return np.asarray(np.maximum(1 - x, 0.0))
        a = self.cubic
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(axis: Axis, kernel: Kernel) -> tuple[Array, Array, Array]:
    """Return positions, weights, and the error each weight may have in binary32, all (results, taps).

    Results of a crop that lie outside the axis have weights of 0.
    """
    place, doubt, outside = axis.coordinates("float64"), axis.doubt(), axis.outside()
    stretch = min(axis.scale, 1.0) if kernel.antialias else 1.0
    rows = [_row(axis.before, kernel, stretch, float(x), float(d)) for x, d in zip(place, doubt, strict=True)]
    taps = max(len(row) for row in rows)
    positions, values, doubts = np.zeros((axis.after, taps), np.int64), *np.zeros((2, axis.after, taps))
    for number, row in enumerate(rows):
        for tap, (position, (weight, slack)) in enumerate(sorted(row.items())):
            positions[number, tap] = position
            values[number, tap], doubts[number, tap] = (0.0, 0.0) if outside[number] else (weight, slack)
    return positions, values, doubts


def _row(size: int, kernel: Kernel, stretch: float, place: float, doubt: float) -> dict[int, tuple[float, float]]:
    """Return weight and doubt by position for a result at coordinate `place`."""
    reach = int(np.ceil(kernel.support / stretch)) + 1
    taps = np.arange(floor(place) - reach, floor(place) + reach + 1)
    found = kernel((taps - place) * stretch)
    is_normalized = kernel.antialias or kernel.exclude_outside
    inside = (taps >= 0) & (taps < size)
    if kernel.exclude_outside:
        found = np.where(inside, found, 0.0)
    share = 1.0 / found.sum() if is_normalized else 1.0
    slack = doubt * kernel.steepness * (4.0 * abs(share) if is_normalized else 1.0)
    slack += _WEIGHT_ROUNDINGS * UNIT * (kernel.cubic is not None or is_normalized) * max(1.0, abs(share))
    near = np.abs(taps - place) * stretch < kernel.support + doubt
    row: dict[int, tuple[float, float]] = {}
    for tap, weight, counts in zip(taps.tolist(), (found * share).tolist(), near.tolist(), strict=True):
        position = min(max(tap, 0), size - 1)
        if not counts or (kernel.exclude_outside and position != tap):
            continue
        old = row.get(position, (0.0, 0.0))
        row[position] = (old[0] + weight, old[1] + slack)
    return {position: pair for position, pair in row.items() if pair != (0.0, 0.0)}
