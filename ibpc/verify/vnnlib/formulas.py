"""Formulas of linear constraints, and their disjunctive form, of limited size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from itertools import product
from typing import Final, TypeAlias

MOST_CONJUNCTIONS: Final = 2**17
MOST_ATOMS: Final = 2**21


class Side(Enum):
    """Whether a variable is an element of an input or of an output."""

    INPUT = "input"
    OUTPUT = "output"


Variable: TypeAlias = tuple[Side, int]


@dataclass(frozen=True, slots=True)
class LinearForm:
    """Σ factor · variable + constant, exact. Factors are not 0."""

    terms: Mapping[Variable, Fraction]
    constant: Fraction

    def plus(self, other: LinearForm, factor: Fraction) -> LinearForm:
        """Return self + factor · other."""
        terms = dict(self.terms)
        for variable, value in other.terms.items():
            terms[variable] = terms.get(variable, Fraction()) + factor * value
        return LinearForm({v: value for v, value in terms.items() if value}, self.constant + factor * other.constant)

    def times(self, factor: Fraction) -> LinearForm:
        """Return factor · self."""
        if not factor:
            return LinearForm({}, Fraction())
        return LinearForm({v: factor * value for v, value in self.terms.items()}, factor * self.constant)


@dataclass(frozen=True, slots=True)
class Atom:
    """One constraint: form ≤ 0, or < 0 where strict."""

    form: LinearForm
    strict: bool

    @property
    def truth(self) -> bool | None:
        """Whether the constraint holds, None if that depends on a variable."""
        if self.form.terms:
            return None
        return self.form.constant < 0 or (self.form.constant == 0 and not self.strict)


@dataclass(frozen=True, slots=True)
class And:
    """All of the parts hold."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of the parts holds."""

    parts: tuple[Formula, ...]


Formula: TypeAlias = Atom | And | Or


def opposite(formula: Formula) -> Formula:
    """Return the negation of `formula`."""
    if isinstance(formula, Atom):
        return Atom(formula.form.times(Fraction(-1)), not formula.strict)
    parts = tuple(map(opposite, formula.parts))
    return Or(parts) if isinstance(formula, And) else And(parts)


def flattened(formula: Formula) -> Iterator[Atom | Or]:
    """Yield formulas, none of them a conjunction, whose conjunction is `formula`."""
    if isinstance(formula, And):
        for part in formula.parts:
            yield from flattened(part)
    else:
        yield formula


def fits(formulas: Sequence[Formula]) -> bool:
    """Return whether the disjunctive form of the conjunction of `formulas` stays within this module's limits."""
    count, atoms = _size(And(tuple(formulas)))
    return count <= MOST_CONJUNCTIONS and atoms <= MOST_ATOMS


def _size(formula: Formula) -> tuple[int, int]:
    """Return the number of conjunctions and the number of atoms in all of them, each capped just above its limit."""
    if isinstance(formula, Atom):
        return 1, 1
    sizes = [_size(part) for part in formula.parts]
    if isinstance(formula, Or):
        return _cut(sum(count for count, _ in sizes), sum(atoms for _, atoms in sizes))
    count, atoms = 1, 0
    for other, more in sizes:
        count, atoms = _cut(count * other, atoms * other + more * count)
    return count, atoms


def _cut(count: int, atoms: int) -> tuple[int, int]:
    return min(count, MOST_CONJUNCTIONS + 1), min(atoms, MOST_ATOMS + 1)


def conjunctions(formula: Formula) -> Iterator[tuple[Atom, ...]]:
    """Yield the conjunctions of the disjunctive form; `fits` tells beforehand whether there are too many."""
    if isinstance(formula, Atom):
        yield (formula,)
    elif isinstance(formula, Or):
        for part in formula.parts:
            yield from conjunctions(part)
    else:
        for chosen in product(*(list(conjunctions(part)) for part in formula.parts)):
            yield tuple(atom for atoms in chosen for atom in atoms)
