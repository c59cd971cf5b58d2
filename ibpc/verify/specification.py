"""Properties as tensors: the rows that a bounding method bounds, and the score that an attack descends.

A conjunction is refuted over a box if one of its rows cannot hold there: Σ c·y + Σ a·x − b has a lower bound above 0,
or of 0 where the row is strict. Sums of rows hold where all of them do, so their plain sum is tried as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd, inf, isfinite, nextafter
from typing import Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ibpc.errors import PropertyError
from ibpc.verify.properties import Case, Conjunction, Property, Row, Terms, common_denominator
from ibpc.verify.rows import summed

_SIGNIFICANT: Final = 24
_WIDEST: Final = 120
_MOST_TERMS: Final = 2**27
_MOST_ENTRIES: Final = 2**29

_Key: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Refutation:
    """The verdict of bounds on one conjunction: the best lower bound of a row's excess, and whether that refutes it.

    `margin` is rounded down to binary64, −∞ if nothing finite is known; `refuted` was judged before rounding. `row` is
    the index in the conjunction of the row with that excess; −1 is the sum of all.
    """

    margin: float
    refuted: bool
    row: int = 0


@dataclass(frozen=True)
class Plan:
    """How a row's lower bound is computed from the matrix: scale · Σ sign · (matrix row) + rest over `columns`."""

    columns: tuple[int, ...]
    sign: int
    scale: Fraction
    rest: Fraction
    strict: bool

    def lower(self, lower: Sequence[float], upper: Sequence[float]) -> Fraction | None:
        """Return the exact lower bound of the row's excess, None if a bound is not finite."""
        ends = [lower[column] if self.sign > 0 else -upper[column] for column in self.columns]
        if not all(isfinite(end) for end in ends):
            return None
        return self.scale * sum((Fraction(end) for end in ends), Fraction()) + self.rest


class Specification:
    """The output rows of some cases as one matrix (rows, K), float32 and exact, to be merged into the last layer.

    Coefficients are scaled to integers and, if these need more than 24 bits, spread over several rows of the matrix;
    rows that differ by a factor or a constant share theirs. So one pass bounds all margins of all cases.
    """

    def __init__(self, cases: Sequence[Case], outputs: int) -> None:
        self._outputs = outputs
        self._keys: dict[_Key, int] = {}
        self._counts = [[len(rows) for rows in case.disjuncts] for case in cases]
        self._plans = [[[self._plan(row, case) for row in _tried(rows)] for rows in case.disjuncts] for case in cases]
        self.matrix = self._matrix()

    @classmethod
    def of(cls, prop: Property) -> Specification:
        """Return the specification of all cases of a property.

        Raises PropertyError for coefficients of too different magnitudes, and for a matrix that would be too large.
        """
        return cls(prop.cases, prop.output_count)

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        """The rows of `matrix` whose lower bounds are needed, and those whose upper bounds are."""
        plans = [plan for case in self._plans for disjunct in case for plan in disjunct]
        below = sorted({column for plan in plans if plan.sign > 0 for column in plan.columns})
        above = sorted({column for plan in plans if plan.sign < 0 for column in plan.columns})
        return below, above

    def refutations(self, case: int, lower: Tensor, upper: Tensor) -> tuple[Refutation, ...]:
        """Return the refutation of each disjunct of a case by bounds (rows,) of `matrix` · y over its outer box."""
        low, high = lower.tolist(), upper.tolist()
        return tuple(
            _best([(plan.lower(low, high), plan.strict) for plan in rows], count)
            for rows, count in zip(self._plans[case], self._counts[case], strict=True)
        )

    def excesses(self, case: int, disjunct: int) -> tuple[Tensor, Tensor]:
        """Return rows (T, K) and offsets (T,) in binary64: row · y + offset is at most the excess of a row tried.

        Tried are the rows of the disjunct and their sum. The form may be above the excess by the rounding of the
        coefficients, a few units in their last place.
        """
        plans = self._plans[case][disjunct]
        rows = torch.zeros(len(plans), self._outputs, dtype=torch.float64)
        for number, plan in enumerate(plans):
            for column in plan.columns:
                rows[number] += float(plan.sign * plan.scale) * self.matrix[column].double()
        return rows, torch.tensor([_down(plan.rest) for plan in plans], dtype=torch.float64)

    def plans(self, case: int, disjunct: int) -> tuple[Plan, ...]:
        """Return the plans of a disjunct's rows, followed by that of their sum."""
        return tuple(self._plans[case][disjunct])

    def column(self, case: int, disjunct: int, row: int) -> tuple[int, int]:
        """Return the row of `matrix` that a row of a disjunct uses (the leading one of several), and its sign.

        Row −1 is the sum. For a row that is not about outputs it is −1.
        """
        plan = self._plans[case][disjunct][row]
        return (plan.columns[0] if plan.columns else -1), plan.sign

    def is_single(self, case: int, disjunct: int, row: int) -> bool:
        """Return whether a row of a disjunct (−1: the sum) uses a single row of `matrix`."""
        return len(self._plans[case][disjunct][row].columns) == 1

    def _plan(self, row: Row, case: Case) -> Plan:
        rest = case.box.least(row.inputs) - row.bound
        if not row.outputs:
            return Plan((), 1, Fraction(1), rest, row.strict)
        sign = 1 if row.outputs[0][1] > 0 else -1
        integers, scale = _integers(row.outputs)
        width = _width(integers)
        if width > _WIDEST:
            raise PropertyError.at("property", f"coefficients {width} bits apart", f"at most {_WIDEST} bits")
        indices = [index for index, _ in row.outputs]
        columns = tuple(
            self._keys.setdefault(tuple((i, v) for i, v in zip(indices, part, strict=True) if v), len(self._keys))
            for part in _parts([sign * value for value in integers], width)
        )
        return Plan(columns, sign, scale * 2 ** (width - 1), rest, row.strict)

    def _matrix(self) -> Tensor:
        if len(self._keys) * self._outputs > _MOST_ENTRIES:
            found = f"{len(self._keys):,} different rows over {self._outputs:,} outputs"
            raise PropertyError.at("property", found, f"a matrix of at most {_MOST_ENTRIES:,} entries")
        matrix = torch.zeros(len(self._keys), self._outputs, dtype=torch.float32)
        for key, number in self._keys.items():
            matrix[number, [index for index, _ in key]] = torch.tensor([value for _, value in key], dtype=torch.float32)
        return matrix


class DisjunctScores:
    """Scores of points against disjuncts, for descent: at most 0 where all rows of the disjunct hold.

    `items` lists (case, disjunct) of each score. A row's score is its excess divided by its largest coefficient,
    rounded up, so that a score of 0 is on the safe side of float32; a disjunct's is the greatest of its rows.
    """

    def __init__(self, prop: Property, device: torch.device | str = "cpu") -> None:
        cases = list(enumerate(prop.cases))
        self.items = tuple((number, index) for number, case in cases for index in range(len(case.disjuncts)))
        rows = [prop.cases[number].disjuncts[index] for number, index in self.items]
        terms = [[_combined(row, prop.output_count) for row in conjunction] for conjunction in rows]
        height = max((len(conjunction) for conjunction in rows), default=0)
        width = max((len(row) for conjunction in terms for row in conjunction), default=0)
        if len(rows) * height * width > _MOST_TERMS:
            raise PropertyError.at(prop.name, f"{len(rows):,} disjuncts of up to {height:,} rows", "a smaller property")
        index = np.zeros((len(rows), height, width), np.int64)
        factor = np.zeros((len(rows), height, width), np.float32)
        offset = np.full((len(rows), height), -np.inf, np.float32)
        for item, (conjunction, listed) in enumerate(zip(rows, terms, strict=True)):
            for line, (row, pairs) in enumerate(zip(conjunction, listed, strict=True)):
                size = max((abs(value) for _, value in pairs), default=Fraction(1))
                index[item, line, : len(pairs)] = [place for place, _ in pairs]
                factor[item, line, : len(pairs)] = [float(value / size) for _, value in pairs]
                offset[item, line] = _harder(-row.bound / size, row.strict)
        self._index, self._factor, self._offset = (torch.from_numpy(a).to(device) for a in (index, factor, offset))

    def __call__(self, x: Tensor, y: Tensor, items: Tensor) -> Tensor:
        """Return the scores (B,) of flat inputs `x` (B, n) and flat outputs `y` (B, K) for the named items (B,)."""
        index = self._index[items]
        values = torch.cat([y.flatten(1), x.flatten(1)], dim=1).gather(1, index.flatten(1)).reshape(index.shape)
        return ((values * self._factor[items]).sum(2) + self._offset[items]).amax(1)


def _combined(row: Row, outputs: int) -> list[tuple[int, Fraction]]:
    """Return the row's terms over the outputs followed by the inputs."""
    return [*row.outputs, *((outputs + index, value) for index, value in row.inputs)]


def _harder(offset: Fraction, strict: bool) -> float:
    """Return a float32 number that is at least `offset`, and above it if the row is strict."""
    nearest = np.float32(max(min(offset, Fraction(10) ** 38), -(Fraction(10) ** 38)))
    too_low = Fraction(float(nearest)) <= offset if strict else Fraction(float(nearest)) < offset
    return float(np.nextafter(nearest, np.float32(np.inf))) if too_low else float(nearest)


def _tried(rows: Conjunction) -> Iterator[Row]:
    """Yield the rows of a conjunction and, if two or more are about outputs, their sum if its numbers stay small."""
    yield from rows
    several = [row for row in rows if row.outputs]
    if len(several) > 1 and common_denominator(value for row in several for value in row.numbers()) is not None:
        total = summed([(Fraction(1), row) for row in several])
        if not total.outputs or _width(_integers(total.outputs)[0]) <= _WIDEST:
            yield total


def _integers(terms: Terms) -> tuple[list[int], Fraction]:
    """Return coprime integers, and the positive factor by which they give the coefficients."""
    bottom = common_denominator(value for _, value in terms)
    if bottom is None:
        raise PropertyError.at("property", "coefficients with too many digits")
    raised = [int(value * bottom) for _, value in terms]
    common = reduce(gcd, raised, 0)
    return [value // common for value in raised], Fraction(common, bottom)


def _width(integers: Sequence[int]) -> int:
    """Return the number of bits of the largest integer."""
    return max(abs(value).bit_length() for value in integers)


def _parts(integers: Sequence[int], width: int) -> Iterator[list[float]]:
    """Yield rows of float32 numbers whose sum is integers · 2^(1 − width): each row takes 24 bits of every integer."""
    rest = list(integers)
    for top in range(width, 0, -_SIGNIFICANT):
        shift = max(top - _SIGNIFICANT, 0)
        cut = [(abs(value) >> shift << shift) * (1 if value > 0 else -1) for value in rest]
        rest = [value - taken for value, taken in zip(rest, cut, strict=True)]
        yield [float(Fraction(value, 2 ** (width - 1))) for value in cut]


def _best(bounds: Sequence[tuple[Fraction | None, bool]], count: int) -> Refutation:
    """Return the best of the bounds of `count` rows, followed by that of their sum."""
    known = [(value, strict, row) for row, (value, strict) in enumerate(bounds) if value is not None]
    if not known:
        return Refutation(-inf, False)
    value, strict, row = max(known)
    return Refutation(_down(value), value > 0 or (strict and value == 0), row if row < count else -1)


def _down(value: Fraction | None) -> float:
    """Return the greatest binary64 number at most `value`."""
    if value is None or abs(value) > Fraction(10) ** 300:
        return -inf
    nearest = float(value)
    return nextafter(nearest, -inf) if Fraction(nearest) > value else nearest
