"""Formulas: nodes read as polynomials of a few values, with positive coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from math import inf
from typing import Final, TypeAlias

from ibpc.ir import Graph
from ibpc.passes.base import constant_of

Powers: TypeAlias = tuple[int, ...]

# The formula of an activation has few steps; deeper nesting is not read.
_DEEPEST: Final = 6
_MOST_VALUES: Final = 24
_HIGHEST_DEGREE: Final = 3
# In units of 2⁻²⁴: a power is within 8 ulps.
_POWER_ROUNDINGS: Final = 16


@dataclass(frozen=True)
class Polynomial:
    """A sum of positive multiples of products of powers of values.

    Each step rounds; together the error is at most `roundings` · 2⁻²⁴ relative to the sum of the terms' moduli.
    """

    coefficients: Mapping[Powers, Fraction]
    roundings: int = 0

    @property
    def degree(self) -> int:
        """The highest sum of powers."""
        return max(map(sum, self.coefficients))


@dataclass
class Formula:
    """Reads nodes of a graph as polynomials of the values `atoms`.

    Steps that change the shape are not read, nor are coefficients outside [`least`, `greatest`]: a product with a small
    one may be flushed to 0 although the value is not small, and one with a great one may overflow.
    """

    graph: Graph
    atoms: tuple[str, ...]
    least: Fraction
    greatest: Fraction
    _known: dict[str, Polynomial | None] = field(default_factory=dict)

    def polynomial(self, name: str, depth: int = 0) -> Polynomial | None:
        """Return the value `name` as a polynomial of the atoms, None if it is no such formula."""
        if name not in self._known:
            self._known[name] = self._read(name, depth)
        return self._known[name]

    def _read(self, name: str, depth: int) -> Polynomial | None:
        if name in self.atoms:
            return Polynomial({tuple(int(name == atom) for atom in self.atoms): Fraction(1)})
        number = _number_of(self.graph, name)
        if number is not None:
            return self._in_range(Polynomial({(0,) * len(self.atoms): number}))
        node = self.graph.node(name)
        if depth == _DEEPEST or node.operator not in _COMBINED or node.shape != self.graph.node(self.atoms[0]).shape:
            return None
        first, second = (self.polynomial(operand, depth + 1) for operand in self.graph.operands(name))
        if first is None or second is None:
            return None
        return self._in_range(_COMBINED[node.operator](first, second))

    def _in_range(self, found: Polynomial | None) -> Polynomial | None:
        if found is None or found.degree > _HIGHEST_DEGREE:
            return None
        in_range = all(self.least <= coefficient <= self.greatest for coefficient in found.coefficients.values())
        return found if in_range else None


def reached(graph: Graph, name: str) -> list[str]:
    """Return the values that `name` may be a formula of: itself, its operands, their operands and so on, while few."""
    found, level = dict.fromkeys([name]), [name]
    while level and len(found) < _MOST_VALUES:
        steps = [value for value in level if graph.node(value).operator in _COMBINED]
        level = list(dict.fromkeys(operand for step in steps for operand in graph.operands(step)))
        found.update(dict.fromkeys(level))
    return [value for value in found if constant_of(graph, value) is None]


def _number_of(graph: Graph, name: str) -> Fraction | None:
    """Return the only element of a Constant if it is positive and finite, else None."""
    value = constant_of(graph, name)
    if value is None or value.numel() != 1:
        return None
    number = float(value)
    return Fraction(number) if 0.0 < number < inf else None


# ── what operators make of polynomials ──────────────────────────────────────────────────────────────────────────
def _collected(terms: Iterable[tuple[Powers, Fraction]], roundings: int) -> Polynomial:
    coefficients: dict[Powers, Fraction] = {}
    for powers, coefficient in terms:
        coefficients[powers] = coefficients.get(powers, Fraction(0)) + coefficient
    return Polynomial(coefficients, roundings)


def _sum(first: Polynomial, second: Polynomial) -> Polynomial:
    terms = [*first.coefficients.items(), *second.coefficients.items()]
    return _collected(terms, max(first.roundings, second.roundings) + 1)


def _product(first: Polynomial, second: Polynomial) -> Polynomial:
    pairs = product(first.coefficients.items(), second.coefficients.items())
    terms = [(tuple(map(sum, zip(i, j, strict=True))), one * other) for (i, one), (j, other) in pairs]
    return _collected(terms, first.roundings + second.roundings + 1)


def _quotient(first: Polynomial, second: Polynomial) -> Polynomial | None:
    if second.degree or second.roundings:
        return None
    (powers, divisor), *_ = second.coefficients.items()
    return _product(first, Polynomial({powers: 1 / divisor}))


def _power(base: Polynomial, exponent: Polynomial) -> Polynomial | None:
    (number, *_) = exponent.coefficients.values()
    if exponent.degree or exponent.roundings or number not in range(1, _HIGHEST_DEGREE + 1):
        return None
    found = base
    for _ in range(int(number) - 1):
        found = _product(found, base)
    return Polynomial(found.coefficients, found.roundings + _POWER_ROUNDINGS)


_COMBINED: Final = {"Add": _sum, "Mul": _product, "Div": _quotient, "Pow": _power}
