"""Properties: what a network must never do, as a set of inputs and outputs in disjunctive form.

A property is the set of its counterexamples, the *unsafe* set: a union of cases, each a box of inputs together with a
disjunction of conjunctions of linear rows over inputs and outputs. The network is safe if no input of a box drives its
outputs into one of that box's conjunctions. All numbers are exact rationals. Each exact box has two float32 boxes: the
outer one contains it and is the one that is bounded, the inner one lies inside and is the one that is searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite, lcm, prod
from operator import index as whole
from typing import Any, Final, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibpc import rounding
from ibpc.data import real_array
from ibpc.errors import PropertyError
from ibpc.interval import Interval
from ibpc.ir import format_shape, same_order

LARGEST: Final = Fraction(rounding.LARGEST)
_MOST: Final = Fraction(10) ** 200
_LEAST: Final = 1 / _MOST
_MOST_BITS: Final = 2**14

Terms: TypeAlias = tuple[tuple[int, Fraction], ...]
_Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class DeclaredTensor:
    """An input or output that a property declares: its name and shape. Elements are numbered in row-major order.

    `onnx_name` is its name in the network's file, empty where the property does not state it.
    """

    name: str
    shape: tuple[int, ...]
    onnx_name: str = ""

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Box:
    """The exact box lower ≤ x ≤ upper over all inputs, flat and one after the other.

    An end whose index is in `open_lower` or `open_upper` does not belong to the box. Ends are at most `LARGEST`.
    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    open_lower: frozenset[int] = frozenset()
    open_upper: frozenset[int] = frozenset()

    @cached_property
    def outer(self) -> tuple[Tensor, Tensor]:
        """The smallest float32 box that contains this one: lower and upper bounds, (n,) each."""
        lower, upper = [low for low, _ in self._lows], [high for _, high in self._highs]
        return torch.tensor(lower, dtype=torch.float32), torch.tensor(upper, dtype=torch.float32)

    @cached_property
    def inner(self) -> tuple[Tensor, Tensor]:
        """The bounds of the float32 points of this box, (n,) each.

        A dimension that contains no float32 number, such as one pinned at 0.1, is replaced by the float32 number
        nearest to its middle, which a program in float32 would read; `rounded` lists these dimensions.
        """
        lower, upper = (bound.copy() for bound in self._tight)
        for index in self.rounded:
            lower[index] = upper[index] = np.float32(float((self.lower[index] + self.upper[index]) / 2))
        return torch.from_numpy(lower), torch.from_numpy(upper)

    @cached_property
    def rounded(self) -> tuple[int, ...]:
        """The dimensions in which no float32 number lies inside."""
        lower, upper = self._tight
        return tuple(np.flatnonzero(lower > upper).tolist())

    @property
    def reachable(self) -> bool:
        """Whether any float32 point counts as inside: not if a dimension without one has an open end."""
        return not (self.open_lower | self.open_upper).intersection(self.rounded)

    def inside(self, x: Tensor) -> bool:
        """Return whether the float32 point `x` (n,) lies in the exact box; see `inner` for pinned dimensions.

        Comparing with the inner bounds is as good as with the exact ones: no float32 number lies between the two.
        """
        lower, upper = self.inner
        point = x.detach().cpu()
        return self.reachable and bool(((lower <= point) & (point <= upper)).all())

    def least(self, terms: Terms) -> Fraction:
        """Return the least value of Σ aᵢ xᵢ over the outer box, exactly."""
        lower, upper = self.outer
        return sum((a * Fraction(float((lower if a > 0 else upper)[i])) for i, a in terms), Fraction())

    @cached_property
    def _lows(self) -> list[tuple[float, float]]:
        return [_enclosing(value) for value in self.lower]

    @cached_property
    def _highs(self) -> list[tuple[float, float]]:
        return [_enclosing(value) for value in self.upper]

    @cached_property
    def _tight(self) -> tuple[_Array, _Array]:
        lower = np.array([high for _, high in self._lows], np.float32)
        upper = np.array([low for low, _ in self._highs], np.float32)
        for index in self.open_lower:
            if self._lows[index][0] == self._lows[index][1]:
                lower[index] = np.nextafter(lower[index], np.float32(np.inf))
        for index in self.open_upper:
            if self._highs[index][0] == self._highs[index][1]:
                upper[index] = np.nextafter(upper[index], np.float32(-np.inf))
        return lower, upper


@dataclass(frozen=True)
class Row:
    """One linear constraint Σ cᵢ yᵢ + Σ aᵢ xᵢ ≤ bound over outputs y and inputs x; < if `strict`.

    `outputs` and `inputs` are pairs of a flat index and a nonzero coefficient, sorted by index.
    """

    outputs: Terms
    inputs: Terms
    bound: Fraction
    strict: bool = False

    def numbers(self) -> Iterator[Fraction]:
        """Yield all coefficients and the bound."""
        yield from (value for _, value in (*self.outputs, *self.inputs))
        yield self.bound

    def excess(self, x: Sequence[float], y: Sequence[float]) -> Fraction | None:
        """Return Σ cᵢ yᵢ + Σ aᵢ xᵢ − bound exactly, or None if a value in it is not finite."""
        pairs = [*((a, x[i]) for i, a in self.inputs), *((c, y[i]) for i, c in self.outputs)]
        if not all(isfinite(value) for _, value in pairs):
            return None
        return sum((factor * Fraction(value) for factor, value in pairs), -self.bound)

    def holds(self, x: Sequence[float], y: Sequence[float]) -> bool:
        """Return whether the constraint holds at (x, y), exactly."""
        excess = self.excess(x, y)
        if excess is None:
            return False
        return excess < 0 if self.strict else excess <= 0


Conjunction: TypeAlias = tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """A box of inputs and its unsafe outputs: those for which all rows of one of the `disjuncts` hold."""

    box: Box
    disjuncts: tuple[Conjunction, ...]


@dataclass(frozen=True, eq=False)
class Property:
    """A property by its counterexamples: pairs (x, y) that lie in one of the `cases`.

    x and y are all inputs and all outputs, flat and one after the other, in the network's own order. A property without
    cases is vacuous: nothing can violate it. Raises PropertyError for extremely large or small numbers.
    """

    name: str
    inputs: tuple[DeclaredTensor, ...]
    outputs: tuple[DeclaredTensor, ...]
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        """Raise PropertyError for numbers so large or small that results computed from them leave binary64."""
        rows = (row for case in self.cases for disjunct in case.disjuncts for row in disjunct)
        far = next(
            (value for row in rows for value in row.numbers() if value and not _LEAST <= abs(value) <= _MOST), None
        )
        if far is not None:
            found = f"a coefficient or bound {'beyond 1e200' if abs(far) > 1 else 'below 1e-200'} in size"
            raise PropertyError.at(self.name, found, "0, or from 1e-200 to 1e200")

    @classmethod
    def from_ball(
        cls,
        x: Tensor | NDArray[Any],
        eps: float | Tensor,
        label: int,
        classes: int,
        clip: tuple[float, float] | None = (0.0, 1.0),
        target: int | None = None,
    ) -> Self:
        """Return robustness of the label: an output is unsafe if another class scores at least as high as the label.

        With a `target` it is only unsafe if that class does. The box is the exact [x − ε, x + ε] ∩ clip, with one ε or
        one for each element of `x`. Raises PropertyError for a bad radius, class or point, and for a ball outside the
        range.
        """
        x = x if isinstance(x, Tensor) else torch.from_numpy(real_array(x, "input"))
        radius = _radius(x, eps)
        others = _opponents(label, target, classes)
        points = [Fraction(value) for value in x.detach().double().flatten().tolist()]
        radii = radius.expand(x.shape).flatten().tolist()
        lower = [point - Fraction(radius) for point, radius in zip(points, radii, strict=True)]
        upper = [point + Fraction(radius) for point, radius in zip(points, radii, strict=True)]
        if clip is not None:
            low, high = Fraction(clip[0]), Fraction(clip[1])
            lower, upper = [max(value, low) for value in lower], [min(value, high) for value in upper]
        _check_ends(lower, upper)
        disjuncts = tuple((_at_least(other, whole(label)),) for other in others)
        case = Case(Box(tuple(lower), tuple(upper)), disjuncts)
        cases = (case,) if disjuncts else ()
        return cls("ball", (DeclaredTensor("x", tuple(x.shape)),), (DeclaredTensor("y", (classes,)),), cases)

    @property
    def input_count(self) -> int:
        """The number of input elements."""
        return sum(tensor.size for tensor in self.inputs)

    @property
    def output_count(self) -> int:
        """The number of output elements."""
        return sum(tensor.size for tensor in self.outputs)

    def read_outputs(self) -> Tensor:
        """Return which output elements (K,) at least one row reads."""
        read = torch.zeros(self.output_count, dtype=torch.bool)
        rows = (row for case in self.cases for disjunct in case.disjuncts for row in disjunct)
        read[sorted({index for row in rows for index, _ in row.outputs})] = True
        return read

    @property
    def is_vacuous(self) -> bool:
        """Whether no network can have a counterexample."""
        return not self.cases

    @property
    def leaves_outputs_free(self) -> bool:
        """Whether some disjunct constrains no output: then points are counterexamples whatever a network computes."""
        disjuncts = (rows for case in self.cases for rows in case.disjuncts)
        return any(not any(row.outputs for row in rows) for rows in disjuncts)

    def violated(self, x: Tensor, y: Tensor) -> bool:
        """Return whether inputs `x`, a float32 point (n,), and outputs `y`, any floats (K,), are a counterexample.

        The test is exact.
        """
        point, outputs = x.detach().tolist(), y.detach().tolist()
        disjuncts = (rows for case in self.cases if case.box.inside(x) for rows in case.disjuncts)
        return any(all(row.holds(point, outputs) for row in rows) for rows in disjuncts)

    def split(self, flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        """Return flat inputs (B, n) as one tensor (B, *shape) for each input of a network."""
        parts = torch.split(flat, [prod(shape) for shape in shapes], dim=1)
        return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))

    def boxes(self, lower: Tensor, upper: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Interval, ...]:
        """Return flat ends (B, n) as one box (B, *shape) for each input of a network."""
        return tuple(map(Interval.bounds, self.split(lower, shapes), self.split(upper, shapes)))

    def check(self, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]) -> None:
        """Compare with a network's inputs and outputs, shapes without the batch.

        A single declared tensor may stand for several, one after the other. Raises PropertyError where they differ.
        """
        _compare(self.name, "inputs", self.inputs, inputs)
        _compare(self.name, "outputs", self.outputs, outputs)


def check_names(what: str, declared: Sequence[DeclaredTensor], names: Sequence[str]) -> None:
    """Compare the ONNX names that a property declares with the file's, by position. Raises PropertyError."""
    for tensor, name in zip(declared, names, strict=False):
        if tensor.onnx_name and tensor.onnx_name != name:
            found = f"{what} {tensor.name} is named {tensor.onnx_name!r}, the file's in this place {name!r}"
            raise PropertyError.at("property", found, "the same names in the file's order")


def common_denominator(values: Iterable[Fraction]) -> int | None:
    """Return the least common denominator, or None if it is excessively long."""
    bottom = 1
    for value in values:
        bottom = lcm(bottom, value.denominator)
        if bottom.bit_length() > _MOST_BITS:
            return None
    return bottom


def _at_least(other: int, label: int) -> Row:
    """Return the row y_other ≥ y_label."""
    terms = sorted([(label, Fraction(1)), (other, Fraction(-1))])
    return Row(tuple(terms), (), Fraction())


def _enclosing(value: Fraction) -> tuple[float, float]:
    """Return the largest float32 number ≤ `value` and the smallest ≥ `value`."""
    nearest = np.float32(float(value))
    top, bottom = float(nearest).as_integer_ratio()
    left, right = top * value.denominator, value.numerator * bottom
    low = np.nextafter(nearest, np.float32(-np.inf)) if left > right else nearest
    high = np.nextafter(nearest, np.float32(np.inf)) if left < right else nearest
    return float(low), float(high)


def _compare(name: str, what: str, declared: Sequence[DeclaredTensor], shapes: Sequence[tuple[int, ...]]) -> None:
    found, wanted = [tensor.size for tensor in declared], [prod(shape) for shape in shapes]
    if found != wanted and not (len(found) == 1 and found[0] == sum(wanted)):
        raise PropertyError.at(name, f"{_counts(found)} {what}", f"the network's {_counts(wanted)}")
    for tensor, shape in zip(declared, shapes, strict=False) if found == wanted else ():
        if not same_order(tensor.shape, shape):
            place = f"{name}: {what.removesuffix('s')} {tensor.name}"
            expected = f"{format_shape(shape)}, the network's, or the number of its elements"
            raise PropertyError.at(place, f"the shape {format_shape(tensor.shape)}", expected)


def _counts(sizes: Iterable[int]) -> str:
    return " + ".join(f"{size:,}" for size in sizes)


def _radius(x: Tensor, eps: float | Tensor) -> Tensor:
    """Return the radius as a tensor. Raises PropertyError where it or the point is none."""
    try:
        radius = torch.as_tensor(eps, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PropertyError.at("eps", f"found {eps!r}", "a number of at least 0, such as 2/255") from error
    if not bool(((radius >= 0) & radius.isfinite()).all()):
        raise PropertyError.at("eps", f"found {eps}", "a number of at least 0")
    if radius.dim() and radius.shape != x.shape:
        raise PropertyError.at("eps", f"shape {tuple(radius.shape)}", f"one radius, or {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise PropertyError.at("input", "a number that is not finite", "finite numbers")
    return radius


def _opponents(label: int, target: int | None, classes: int) -> list[int]:
    """Return the classes that must stay below the label. Raises PropertyError for what is no class."""
    own = _class("label", label, classes)
    if target is None:
        return [other for other in range(classes) if other != own]
    other = _class("target", target, classes)
    if other == own:
        raise PropertyError.at("target", f"found {other}, the label itself", "another class")
    return [other]


def _class(name: str, given: int, classes: int) -> int:
    try:
        number = whole(given)
    except TypeError as error:
        raise PropertyError.at(name, f"found {given!r}", f"one of 0 to {classes - 1}") from error
    if not 0 <= number < classes:
        raise PropertyError.at(name, f"found {number}", f"one of 0 to {classes - 1}")
    return number


def _check_ends(lower: list[Fraction], upper: list[Fraction]) -> None:
    outside = [index for index, (low, high) in enumerate(zip(lower, upper, strict=True)) if low > high]
    if outside:
        raise PropertyError.at("input", f"{len(outside)} elements lie outside the range by more than eps")
    if any(abs(value) > LARGEST for value in (*lower, *upper)):
        raise PropertyError.at("input", "a ball beyond the float32 range", f"at most {float(LARGEST):.7g}")
