"""Rows pulled back to the inputs: through affine functions exactly, through others by their planes.

A lower bound of Σ C · value uses a value's lower plane where the coefficient is positive and its upper plane where it
is negative. Offsets and errors of all steps are added up; rows that reach an input, or a value without planes, are
bounded over its box. The checker's own rounding is part of the errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.arithmetic import OWN_UNIT
from ibpc.verify.checking.values import Array, Box, Constant, Planes, Value

Values: TypeAlias = Mapping[str, Value]
Rows: TypeAlias = dict[str, Array]

# Most numbers of all rows pulled back together, at one value.
_MOST_NUMBERS: Final = 2**20
# Most numbers for pulling back all rows of one value; beyond that only its widest elements are bounded.
_MOST_WORK: Final = 2**30
_SMALL: Final = 2**23


class Total:
    """A sum of rows over boxes: its ends, the sum of the moduli, the number of roundings, and an error.

    A row with a coefficient that is not finite is lost, whatever that is multiplied by.
    """

    def __init__(self, count: int) -> None:
        self._lower, self._upper, self._moduli, self._error = np.zeros((4, count))
        self._roundings = np.zeros(count)
        self._is_lost = np.zeros(count, bool)

    def add(self, rows: Array, lower: Array, upper: Array) -> None:
        """Add rows · [lower, upper]: the sign of each coefficient selects the end."""
        self._lose(rows)
        size = np.maximum(np.abs(lower), np.abs(upper))
        if not np.isfinite(size).all():
            self._add_each(rows, lower, upper)
        elif size.any():
            moduli, is_counted = np.abs(rows), size > 0
            least, most = _sums(rows, lower, upper)
            self._lower += least
            self._upper += most
            self._moduli += _dotted(moduli, size)
            self._roundings += _roundings(moduli, is_counted)

    def _add_each(self, rows: Array, lower: Array, upper: Array) -> None:
        """Add products with ends that may be infinite: where the coefficient is 0, the product is 0."""
        least = np.where(rows > 0, rows * lower, np.where(rows < 0, rows * upper, 0.0))
        most = np.where(rows > 0, rows * upper, np.where(rows < 0, rows * lower, 0.0))
        self._lower += least.sum(1)
        self._upper += most.sum(1)
        self._moduli += np.maximum(np.abs(least), np.abs(most)).sum(1)
        counted = (least != 0) | (most != 0)
        self._roundings += counted.sum(1) + (counted & (np.abs(rows) != 1)).sum(1)

    def widen(self, rows: Array, error: Array) -> None:
        """Allow each element of the value to be off by `error`."""
        self._lose(rows)
        if not np.isfinite(error).all():
            self._error += np.where(rows != 0, np.abs(rows) * error, 0.0).sum(1) * (1.0 + 2.0**-20)
        elif error.any():
            self._error += _dotted(np.abs(rows), error) * (1.0 + 2.0**-20)

    def _lose(self, rows: Array) -> None:
        """Mark rows as lost whose sum is not finite, which is quicker to test than each coefficient."""
        self._is_lost |= ~np.isfinite(rows.sum(1))

    def bounds(self) -> tuple[Array, Array]:
        """Return the ends, moved apart by the error and by the roundings of the sum; a single exact term has none."""
        own = np.where(self._roundings > 1, (self._roundings + 2) * 2.0 * OWN_UNIT * self._moduli, 0.0)
        error = np.where((self._roundings > 1) | (self._error > 0), (self._error + own) * (1.0 + 2.0**-50), 0.0)
        lower = np.where(error > 0, np.nextafter(self._lower - error, -np.inf), self._lower)
        upper = np.where(error > 0, np.nextafter(self._upper + error, np.inf), self._upper)
        known = ~(self._is_lost | np.isnan(lower) | np.isnan(upper) | np.isnan(error + own))
        known &= (lower < np.inf) & (upper > -np.inf)
        return np.where(known, lower, -np.inf), np.where(known, upper, np.inf)


def _dotted(rows: Array, factors: Array) -> Array:
    """Return Σ row · factor for finite factors (K,) or, per row, (R, K)."""
    if factors.ndim == 1 or len(factors) == 1:
        return np.asarray(rows @ factors.ravel())
    return np.asarray(np.einsum("rk,rk->r", rows, factors))


def _sums(rows: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return the least and the greatest value of rows · [lower, upper] for finite ends."""
    if lower is upper:
        both = _dotted(rows, lower)
        return both, both
    above = np.maximum(rows, 0.0)
    below = rows - above
    return _dotted(above, lower) + _dotted(below, upper), _dotted(above, upper) + _dotted(below, lower)


def _roundings(moduli: Array, is_counted: NDArray[np.bool_]) -> Array:
    """Return the number of roundings in the sum of each row's products; a single term times ±1 counts 1: none."""
    counts = _dotted(np.sign(moduli), is_counted.astype(np.float64))
    single = np.flatnonzero(counts == 1)
    terms = np.where(np.broadcast_to(is_counted, moduli.shape)[single], moduli[single], 0.0)
    found = 2.0 * counts
    found[single[terms.max(1, initial=0.0) == 1.0]] = 1.0
    return found


def affine_bounds(values: Values, rows: Rows) -> tuple[Array, Array]:
    """Return bounds of Σ rows · value, with the rows pulled back through affine functions to the boxes in front."""
    total = Total(len(next(iter(rows.values()))))
    for name in reversed(list(values)):
        if name in rows:
            value = values[name]
            if isinstance(value, Constant) or value.affine is None:
                total.add(rows.pop(name), value.lower.ravel(), value.upper.ravel())
            else:
                _through_affine(name, value, values, rows, total)
    return total.bounds()


def linear_bounds(values: Values, rows: Rows, choices: Mapping[str, Array]) -> Array:
    """Return lower bounds (R,) of Σ rows · value over the boxes of `values`.

    `choices`, numbers in [0, 1], pick among the planes of a value: (R, K) picks slopes in its fan; (R, 2, K) mixes the
    lower and the upper plane with the constant bounds or, where planes are tuned, picks where they touch. R may be 1.
    Every choice is sound.
    """
    total = Total(len(next(iter(rows.values()))))
    for name in reversed(list(values)):
        if name not in rows:
            continue
        value = values[name]
        if isinstance(value, Constant) or (value.affine is None and value.bend is None):
            total.add(rows.pop(name), value.lower.ravel(), value.upper.ravel())
        elif value.affine is not None:
            _through_affine(name, value, values, rows, total)
        elif value.bend is not None:
            planes = _chosen(value.bend(), value, choices[name]) if name in choices else value.bend()
            _through_planes(name, planes, values, rows, total)
    return total.bounds()[0]


def _through_affine(name: str, value: Box, values: Values, rows: Rows, total: Total) -> None:
    here = rows.pop(name)
    assert value.affine is not None
    total.add(here, value.affine.offset, value.affine.offset)
    total.widen(here, value.affine.error)
    for source, pull in value.affine.pulls:
        _add(source, pull(here), values, rows, total)


def _through_planes(name: str, planes: Planes, values: Values, rows: Rows, total: Total) -> None:
    here = rows.pop(name)
    above, below = np.maximum(here, 0.0), np.minimum(here, 0.0)
    total.add(above, planes.lower, planes.lower)
    total.add(below, planes.upper, planes.upper)
    total.widen(here, planes.error)
    for term in planes.terms:
        pulled = term.spread(above * term.below + below * term.above)
        _add(term.source, pulled, values, rows, total)


def _add(source: str, pulled: Array, values: Values, rows: Rows, total: Total) -> None:
    if source in rows:
        pulled = pulled + rows[source]
        total.widen(pulled, 2.0 * OWN_UNIT * values[source].magnitude.ravel())
    rows[source] = pulled


def _chosen(planes: Planes, box: Box, choice: Array) -> Planes:
    """Return planes for each row, (R, K): slopes in the fan, tuned ones, or mixed with the constant bounds."""
    if choice.ndim == 2:
        if planes.fan is None or len(planes.terms) != 1:
            return planes
        least, most = planes.fan
        free = ~np.isnan(least)
        slope = np.clip(least + choice * (most - least), least, most)
        (term,) = planes.terms
        lower = np.where(free, 0.0, planes.lower)
        return replace(planes, terms=(replace(term, below=np.where(free, slope, term.below)),), lower=lower)
    if planes.tune is not None:
        return planes.tune(choice)
    below, above = choice[:, 0], choice[:, 1]
    terms = tuple(replace(term, below=term.below * below, above=term.above * above) for term in planes.terms)
    lower = _mixed(planes.lower, box.lower.ravel(), below)
    return replace(planes, terms=terms, lower=lower, upper=_mixed(planes.upper, box.upper.ravel(), above))


def _mixed(offset: Array, constant: Array, share: Array) -> Array:
    """Return share · offset + (1 − share) · constant, one of them alone at 1 and 0, as the other may be infinite."""
    mixed = share * offset + (1.0 - share) * constant
    return np.asarray(np.where(share == 1.0, offset, np.where(share == 0.0, constant, mixed)))


# ── boxes in between ────────────────────────────────────────────────────────────────────────────────────────────
def tightened(values: Values, name: str, kinked: bool, choices: Mapping[str, Array]) -> Box:
    """Return a value's box with its elements bounded by planes as well.

    In larger networks, in front of a function that is `kinked` at 0, only elements of either sign are bounded; and of
    all these only the widest, if there are too many.
    """
    box = values[name]
    assert isinstance(box, Box)
    lower, upper = box.lower.ravel().copy(), box.upper.ravel().copy()
    for part in _parts(values, box, kinked):
        units = np.zeros((len(part), lower.size))
        units[range(len(part)), part] = 1.0
        found = linear_bounds(values, {name: np.concatenate([units, -units])}, choices)
        lower[part] = np.maximum(lower[part], found[: len(part)])
        upper[part] = np.minimum(upper[part], -found[len(part) :])
    return replace(box, lower=lower.reshape(box.shape), upper=upper.reshape(box.shape))


@dataclass(frozen=True, eq=False)
class Picked:
    """Ends of a value's elements, flat (R,), to be bounded: lower ones for sign 1, upper ones for sign −1.

    `choices` (R, …) pick planes for each of them, as in `linear_bounds`.
    """

    elements: NDArray[np.int64]
    signs: NDArray[np.int64]
    choices: Mapping[str, Array]


def sharpened(values: Values, name: str, picked: Picked) -> Box:
    """Return a value's box with the picked ends bounded, each with its own planes."""
    box = values[name]
    assert isinstance(box, Box)
    lower, upper = box.lower.ravel().copy(), box.upper.ravel().copy()
    sizes = [prod(value.shape) for value in values.values() if isinstance(value, Box)]
    at_once = max(1, _MOST_NUMBERS // max(sizes))
    for start in range(0, len(picked.elements), at_once):
        part = slice(start, start + at_once)
        elements, signs = picked.elements[part], picked.signs[part]
        units = np.zeros((len(elements), lower.size))
        units[range(len(elements)), elements] = signs
        found = linear_bounds(values, {name: units}, {node: choice[part] for node, choice in picked.choices.items()})
        np.maximum.at(lower, elements[signs > 0], found[signs > 0])
        np.minimum.at(upper, elements[signs < 0], -found[signs < 0])
    return replace(box, lower=lower.reshape(box.shape), upper=upper.reshape(box.shape))


def most_tightened(numbers: int) -> int:
    """Return how many elements of a value are bounded by planes, given the total size of the values before it."""
    return _MOST_WORK // (2 * max(1, numbers))


def _parts(values: Values, box: Box, kinked: bool) -> Iterator[NDArray[np.int64]]:
    """Yield the elements to be bounded, in parts that are pulled back together."""
    sizes = [prod(value.shape) for value in values.values() if isinstance(value, Box)]
    is_small = 2 * sum(sizes) * box.lower.size <= _SMALL
    loose = box.lower < box.upper if is_small or not kinked else (box.lower < 0) & (box.upper > 0)
    wanted, most = np.flatnonzero(loose), most_tightened(sum(sizes))
    if len(wanted) > most:
        width = (box.upper - box.lower).ravel()[wanted]
        wanted = wanted[np.argsort(-width, kind="stable")[:most]]
    at_once = max(1, _MOST_NUMBERS // (2 * max(sizes)))
    for start in range(0, len(wanted), at_once):
        yield wanted[start : start + at_once]
