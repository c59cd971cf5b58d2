"""Interpolation: every result is a copy of an element, or a weighted sum of some, along one axis after the other.

The weights of several axes are the products of those of each. Coordinates are computed by the standard's formulas, in
binary64 and in binary32. If both agree on numbers that no step rounds, so does every execution; otherwise a coordinate
may be off by some u times the length of the axis, and each weight by that times the slope of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.arithmetic import OWN_UNIT
from ibpc.verify.checking.linear import largest
from ibpc.verify.checking.pulls import scatter
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Affine, Array, Box

_MODES: Final = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
    *("tf_half_pixel_for_nn", "tf_crop_and_resize"),
)
_ROUNDINGS: Final[dict[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": lambda x: np.asarray(np.floor(x)),
    "ceil": lambda x: np.asarray(np.ceil(x)),
}
_WIDE: Final = np.dtype(np.float64)


@dataclass(frozen=True)
class Axis:
    """How an axis is resized: both sizes, the scale (their quotient if `stretched`), and the region of a crop."""

    before: int
    after: int
    scale: float
    stretched: bool
    mode: str
    region: tuple[float, float] = (0.0, 1.0)

    def places(self, kind: np.dtype[Any]) -> NDArray[Any]:
        """Return the positions of the results on the original axis, computed in a float type."""
        number = kind.type
        y, half, one = np.arange(self.after).astype(kind), number(0.5), number(1)
        size, count = number(self.before), number(self.after)
        scale = count / size if self.stretched else number(self.scale)
        if self.mode in ("align_corners", "tf_crop_and_resize"):
            start, end = (number(side) for side in self.region)
            first, length = start * (size - one), (end - start) * (size - one)
            if self.after == 1:
                middle = half * (start + end) * (size - one) if self.mode == "tf_crop_and_resize" else number(0)
                return np.asarray(y + middle)
            return np.asarray(first + y * length / (count - one))
        if self.mode == "asymmetric":
            return np.asarray(y / scale)
        if self.mode == "tf_half_pixel_for_nn":
            return np.asarray((y + half) / scale)
        if self.mode == "pytorch_half_pixel" and self.after == 1:
            return y
        middle = (y + half) / scale - half
        if self.mode == "half_pixel_symmetric":
            return np.asarray(middle + size * half * (one - count / (scale * size)))
        return np.asarray(middle)

    def doubt(self, unit: float) -> Array:
        """Return how far each position may be off in arithmetic with this unit roundoff."""
        wide, narrow = self.places(_WIDE), self.places(np.dtype(np.float32)).astype(np.float64)
        last = self.before - 1
        if self.mode in ("align_corners", "tf_crop_and_resize"):
            start, end = (Fraction(side) for side in self.region)
            steps = [start * last, end * last, (end - start) * last / max(self.after - 1, 1)]
        else:
            scale = Fraction(self.after, self.before) if self.stretched else Fraction(self.scale)
            steps = [scale, 1 / scale]
        exact = all(_is_short(step) for step in steps) & (wide == narrow)
        return np.where(exact, 0.0, 8.0 * unit * max(1.0, *map(abs, self.region)) * (self.before + 1.0))


def _is_short(number: Fraction) -> bool:
    """Return whether a number has at most twelve binary digits before and after the point."""
    return (number * 4096).denominator == 1 and abs(number) < 4096


@dataclass(frozen=True, eq=False)
class Table:
    """The weights (results, elements) of one axis, and how far each may be off."""

    weights: Array
    doubts: Array
    taps: int


# ── reading the node ────────────────────────────────────────────────────────────────────────────────────────────
@rule("Resize", "Upsample")
def resize(step: Step) -> Box:
    """Bound an interpolation: an affine function, unless rounding decides which element is copied."""
    step.require_floats()
    if "axes" not in step.memory:
        step.memory["axes"] = _axes(step)
    axes: dict[int, Axis] = step.memory["axes"]
    kind = step.attributes.get("mode", b"nearest")
    if kind == b"nearest":
        found = _copied(step, axes)
    elif kind in (b"linear", b"cubic"):
        found = _mixed(step, axes)
    else:
        step.fail(f"its mode {kind!r}", "nearest, linear or cubic")
    return _filled(step, axes, found)


def _numbers(step: Step, slot: int) -> list[float]:
    return step.constant(slot).wide.ravel().tolist() if step.has(slot) else []


def _axes(step: Step) -> dict[int, Axis]:
    """Return how each axis that changes is resized."""
    early, shape = step.version < 11, step.value(0).shape
    mode = "asymmetric" if early else step.attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    given = [int(axis) % len(shape) for axis in step.attributes.get("axes") or range(len(shape))]
    if mode not in _MODES or len(set(given)) < len(given):
        step.fail(f"its coordinates {mode} along the axes {given}", f"one of {', '.join(_MODES)}")
    if early and not step.has(1):
        scales = [float(scale) for scale in step.attributes.get("scales", [])]
    else:
        scales = _numbers(step, 1 if early else 2)
    region = _numbers(step, 1) if mode == "tf_crop_and_resize" else [0.0] * len(given) + [1.0] * len(given)
    if len(region) != 2 * len(given) or 0 in shape:
        step.fail(f"its region {region}, its shape {shape}", "two numbers for each axis, and elements")
    sides = list(zip(region[: len(given)], region[len(given) :], strict=True))
    if scales:
        found = [_scaled(step, shape[a], s, mode, r) for a, s, r in zip(given, scales, sides, strict=False)]
    else:
        found = _sized(step, [shape[axis] for axis in given], mode, sides)
    if len(found) != len(given):
        step.fail(f"{len(found)} scales or sizes", f"{len(given)}, one for each axis")
    kept = {axis: plan for axis, plan in zip(given, found, strict=True) if not _is_nothing(plan)}
    if kept and all(plan.before == plan.after for plan in found):
        step.fail(f"{mode} that keeps the size and moves elements", "another size, for runtimes copy this one")
    if any(_is_left_alone(plan) for plan in kept.values()):
        step.fail(f"{mode} with an axis of scale 1", "another scale, for runtimes copy such an axis")
    return kept


def _is_nothing(axis: Axis) -> bool:
    """Return whether each result is the element at its own position."""
    return axis.before == axis.after and bool((axis.places(_WIDE) == np.arange(axis.before)).all())


def _is_left_alone(axis: Axis) -> bool:
    """Return whether runtimes may just copy an axis since its scale is 1, although its coordinates differ."""
    cropped = axis.before * (axis.region[1] - axis.region[0])
    is_one = axis.scale == 1.0 or axis.after == axis.before or abs(axis.after - cropped) < 1e-3
    return axis.mode in ("tf_crop_and_resize", "tf_half_pixel_for_nn") and axis.before > 1 and is_one


def _scaled(step: Step, size: int, scale: float, mode: str, region: tuple[float, float]) -> Axis:
    """Return an axis of a given scale. Fails if rounding decides the number of results."""
    if not 0 < scale < 2**20:
        step.fail(f"its scale {scale:g}", "a positive number")
    wide = size * (region[1] - region[0]) * scale
    after = floor(wide)
    narrow = np.float32(size) * (np.float32(region[1]) - np.float32(region[0])) * np.float32(scale)
    if floor(narrow) != after or after < 1:
        step.fail(f"the scale {scale:g} of {size} elements", "a number of results that no rounding decides, at least 1")
    if mode in ("align_corners", "tf_crop_and_resize") and abs(wide - after) > 1e-3:
        step.fail(f"{mode} with the scale {scale:g} of {size} elements", "a whole number of results")
    return Axis(size, after, scale, False, mode, region)


def _sized(step: Step, shape: Sequence[int], mode: str, regions: Sequence[tuple[float, float]]) -> list[Axis]:
    """Return axes of given sizes, which a policy may change to keep the aspect ratio."""
    sizes = [int(size) for size in _numbers(step, 3)]
    policy = step.attributes.get("keep_aspect_ratio_policy", b"stretch")
    if len(sizes) != len(shape) or min(sizes, default=0) < 1:
        step.fail(f"its sizes {sizes}", f"{len(shape)} positive numbers")
    if policy == b"stretch":
        return [
            Axis(old, new, new / old, True, mode, region)
            for old, new, region in zip(shape, sizes, regions, strict=True)
        ]
    choose = {b"not_larger": min, b"not_smaller": max}.get(policy)
    if choose is None:
        step.fail(f"its policy {policy!r}", "stretch, not_larger or not_smaller")
    scale = choose(Fraction(new, old) for old, new in zip(shape, sizes, strict=True))
    return [
        Axis(old, floor(scale * old + Fraction(1, 2)), float(scale), False, mode, region)
        for old, region in zip(shape, regions, strict=True)
    ]


# ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _copied(step: Step, axes: dict[int, Axis]) -> Box:
    """Return the nearest elements; where the two ways to compute a coordinate differ, the hull of all in between."""
    x, sure = step.box(0), True
    rounding = step.attributes.get("nearest_mode", b"round_prefer_floor").decode()
    lower, upper, numbers = x.lower, x.upper, np.arange(x.lower.size).reshape(x.shape)
    for number, axis in axes.items():
        if step.version < 11:
            rounding = "ceil" if axis.scale < 1 else "floor"
        if rounding not in _ROUNDINGS:
            step.fail(f"its nearest_mode {rounding}", f"one of {', '.join(_ROUNDINGS)}")
        places = [
            np.clip(_ROUNDINGS[rounding](axis.places(np.dtype(kind))), 0, axis.before - 1).astype(np.int64)
            for kind in (np.float64, np.float32)
        ]
        first, last = np.minimum(*places), np.maximum(*places)
        numbers = np.take(numbers, first, number)
        least, most = np.take(lower, first, number), np.take(upper, first, number)
        for further in range(1, int((last - first).max()) + 1):
            sure = False
            other = np.minimum(first + further, last)
            least = np.minimum(least, np.take(lower, other, number))
            most = np.maximum(most, np.take(upper, other, number))
        lower, upper = least, most
    if not sure:
        return Box(lower, upper)
    flat = numbers.ravel()
    copies = int(np.bincount(flat).max())
    error = x.magnitude.ravel()[flat] * (2.0**-52 * copies if copies > 1 else 0.0)
    pull = scatter(flat, np.arange(len(flat)), x.lower.size)
    return Box(lower, upper, Affine(((step.names[0], pull),), np.zeros(len(flat)), error))


# ── weighted sums ───────────────────────────────────────────────────────────────────────────────────────────────
def _mixed(step: Step, axes: dict[int, Axis]) -> Box:
    """Return the weighted sums: each weight may be off by its doubt, in an execution and in the checker.

    (W + D) (x + e) is W x + W e + D (x + e): doubts of one axis multiply the sums along the axes before it.
    """
    unit = step.machine.unit + 8.0 * OWN_UNIT
    key = f"tables {unit}"
    if key not in step.memory:
        step.memory[key] = {number: _table(step, axis, unit) for number, axis in axes.items()}
    tables: dict[int, Table] = step.memory[key]
    x = step.box(0)
    lower, upper, moduli, doubt = x.lower, x.upper, x.magnitude, np.zeros(x.shape)
    for number, table in tables.items():
        greatest = np.maximum(np.abs(lower), np.abs(upper))
        positive, negative = np.maximum(table.weights, 0.0), np.minimum(table.weights, 0.0)
        lower, upper = (
            _along(positive, one, number) + _along(negative, other, number)
            for one, other in ((lower, upper), (upper, lower))
        )
        doubt = _along(np.abs(table.weights), doubt, number) + _along(table.doubts, greatest + doubt, number)
        moduli = _along(np.abs(table.weights) + table.doubts, moduli, number)
    terms = prod(table.taps for table in tables.values()) + 8 * len(tables)
    # Products may overflow before they cancel, and elements with a weight of 0 are multiplied too.
    error = step.machine.sum_error(terms, moduli, largest(x), 4.0 * largest(x)) + doubt * (1.0 + 2.0**-20)

    def pull(rows: Array) -> Array:
        shaped = rows.reshape(len(rows), *lower.shape)
        for number, table in reversed(tables.items()):
            shaped = _along(table.weights.T, shaped, number + 1)
        return shaped.reshape(len(rows), x.lower.size)

    return step.affine_box((lower, upper), error, moduli, [(step.names[0], pull)])


def _along(matrix: Array, x: Array, axis: int) -> Array:
    """Return the product of a matrix with x along an axis."""
    return np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)


def _table(step: Step, axis: Axis, unit: float) -> Table:
    """Return the weights of one axis.

    Taps are all elements at which the kernel may not be 0; those beyond the ends are replaced by the ends, or left out.
    A kernel that is stretched for antialiasing, or from which taps are left out, is divided by its sum: then the error
    of the sum enters each weight too.
    """
    cubic = step.attributes.get("mode") == b"cubic"
    excluded, antialias = (bool(step.attributes.get(name, 0)) for name in ("exclude_outside", "antialias"))
    coefficient = float(step.attributes.get("cubic_coeff_a", -0.75))
    if cubic and axis.mode == "pytorch_half_pixel" and axis.after == 1 < axis.before:
        step.fail("a single result of pytorch_half_pixel", "other coordinates, for runtimes differ in its place")
    stretch = min(axis.scale, 1.0) if antialias else 1.0
    support, steepness = (2, _steepness(coefficient)) if cubic else (1, 1.0)
    places, doubt = axis.places(_WIDE), axis.doubt(unit)[:, None]
    reach = int(np.ceil(support / stretch)) + 1
    taps = np.floor(places)[:, None] + np.arange(-reach, reach + 1.0)
    distance = np.abs(taps - places[:, None]) * stretch
    found = _cubic_kernel(distance, coefficient) if cubic else np.maximum(1.0 - distance, 0.0)
    near = distance < support + doubt
    if excluded:
        inside = (taps >= 0) & (taps < axis.before)
        found, near = np.where(inside, found, 0.0), near & inside
    slack = np.broadcast_to(doubt * steepness, found.shape)
    if cubic or antialias:
        slack = slack + 64.0 * unit * (max(1.0, abs(coefficient)) if cubic else 0.25)
    if antialias or excluded:
        share, count = 1.0 / found.sum(-1, keepdims=True), near.sum(-1, keepdims=True)
        if not bool((np.abs(share) * count * slack < 0.01).all()):
            step.fail("weights that rounding decides", "a sum of weights that is not near to 0")
        found = found * share
        slack = 1.05 * slack * np.abs(share) * (1.0 + count * np.abs(found)) + 8.0 * count * unit * np.abs(found)
    weights, doubts = np.zeros((2, axis.after, axis.before))
    rows = np.broadcast_to(np.arange(axis.after)[:, None], taps.shape)
    columns = np.clip(taps, 0, axis.before - 1).astype(np.int64)
    np.add.at(weights, (rows, columns), np.where(near, found, 0.0))
    np.add.at(doubts, (rows, columns), np.where(near, slack, 0.0))
    return Table(weights, doubts, int(near.sum(-1).max()))


def _steepness(a: float) -> float:
    """Return a bound of the cubic kernel's slope: x (3 (a + 2) x − 2 (a + 3)) up to 1, a (3 x − 4) (x − 2) beyond.

    The first is greatest at 1 or where its own slope is 0.
    """
    bend = a + 2.0
    if abs(bend) < 0.1:
        return 3.0 * abs(bend) + 2.0 * abs(a + 3.0)
    return max(abs(a), (a + 3.0) ** 2 / (3.0 * abs(bend)))


def _cubic_kernel(x: Array, a: float) -> Array:
    """Return the cubic kernel with coefficient `a` at distances x (Keys 1981)."""
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return np.where(x <= 1.0, inner, np.where(x < 2.0, outer, 0.0))


# ── crops ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _filled(step: Step, axes: dict[int, Axis], box: Box) -> Box:
    """Return the box with the extrapolation value outside the original axis, or the hull of both if that is unclear."""
    sure, possible = np.zeros((2, *box.shape), bool)
    for number, axis in axes.items():
        if axis.mode == "tf_crop_and_resize":
            out = [
                (place < 0) | (place > axis.before - 1)
                for place in (axis.places(_WIDE), axis.places(np.dtype(np.float32)))
            ]
            shape = [-1, *[1] * (len(box.shape) - number - 1)]
            sure = sure | (out[0] & out[1]).reshape(shape)
            possible = possible | (out[0] | out[1]).reshape(shape)
    if not possible.any():
        return box
    value = float(step.attributes.get("extrapolation_value", 0.0))
    lower = np.where(sure, value, np.where(possible, np.minimum(box.lower, value), box.lower))
    upper = np.where(sure, value, np.where(possible, np.maximum(box.upper, value), box.upper))
    if box.affine is None or bool((possible & ~sure).any()):
        return Box(lower, upper)
    kept = ~sure.ravel()
    pulls = tuple((name, lambda rows, own=pull: own(rows * kept)) for name, pull in box.affine.pulls)
    return Box(
        lower, upper, Affine(pulls, np.where(kept, box.affine.offset, value), np.where(kept, box.affine.error, 0.0))
    )
