"""VNN-LIB files (1.0 and 2.0, gzipped or not) as properties.

A file's assertions describe its counterexamples. Constraints on single input elements make the boxes; all others become
linear rows, in disjunctive form, grouped by box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from ibpc.errors import Problem, PropertyError
from ibpc.verify.properties import LARGEST, Box, Case, Conjunction, DeclaredTensor, Property, Row, Terms
from ibpc.verify.vnnlib.formulas import (
    MOST_CONJUNCTIONS,
    And,
    Atom,
    Formula,
    Side,
    conjunctions,
    fits,
    flattened,
)
from ibpc.verify.vnnlib.lexer import MOST_BYTES, SourceText, read_source
from ibpc.verify.vnnlib.parser import Query, parse

_MOST_ENDS: Final = 2**24
_MOST_LISTED: Final = 5
_ALWAYS: Final = Row((), (), Fraction())

_Ends: TypeAlias = dict[int, tuple[Fraction, bool]]


def load_vnnlib(path: str | Path) -> Property:
    """Return the property in a VNN-LIB file (1.0 or 2.0, `.gz` too).

    Raises PropertyError, with line and column, for a file that is damaged, too large, or not VNN-LIB, and for
    constraints that are not linear; also if an input element has no lower or no upper bound.
    """
    return property_from(read_source(Path(path)))


def parse_vnnlib(text: str, name: str = "property") -> Property:
    """Return the property in a VNN-LIB text, called `name`; see `load_vnnlib`. Raises PropertyError."""
    if not isinstance(text, str):
        raise PropertyError.at(name, f"found {type(text).__name__}", "text", "load_vnnlib reads files")
    if len(text) > MOST_BYTES:
        raise PropertyError.at(name, f"{len(text):,} characters", f"at most {MOST_BYTES:,}")
    return property_from(SourceText(name, text))


def property_from(source: SourceText) -> Property:
    """Return the property in a VNN-LIB text; see `load_vnnlib`."""
    query = parse(source)
    parts = [part for formula in query.formulas for part in flattened(formula)]
    common = _Conjunction.of(part for part in parts if isinstance(part, Atom))
    alternatives: list[Formula] = [part for part in parts if not isinstance(part, Atom)]
    if not fits(alternatives):
        raise PropertyError.at(source.name, "it spells out to too many cases", f"at most {MOST_CONJUNCTIONS:,}")
    cases = tuple(_cases(source, query, common, alternatives)) if common.possible else ()
    return Property(Path(source.name).name, query.inputs, query.outputs, cases)


@dataclass
class _Conjunction:
    """Constraints that hold together: the tightest ends (value, open) of input elements, and rows."""

    lower: _Ends = field(default_factory=dict)
    upper: _Ends = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    possible: bool = True

    @classmethod
    def of(cls, atoms: Iterable[Atom]) -> _Conjunction:
        """Return the conjunction of atoms."""
        result = cls()
        for atom in atoms:
            result._add(atom)
        return result

    def _add(self, atom: Atom) -> None:
        if atom.truth is not None:
            self.possible = self.possible and atom.truth
            return
        ((side, index), factor), *others = atom.form.terms.items()
        if side is Side.OUTPUT or others:
            self.rows.append(_row(atom))
            return
        end = -atom.form.constant / factor
        if factor > 0:
            self.upper[index] = min(self.upper.get(index, (end, False)), (end, atom.strict), key=_upper_order)
        else:
            self.lower[index] = max(self.lower.get(index, (end, False)), (end, atom.strict), key=_lower_order)


def _upper_order(end: tuple[Fraction, bool]) -> tuple[Fraction, bool]:
    value, is_open = end
    return value, not is_open


def _lower_order(end: tuple[Fraction, bool]) -> tuple[Fraction, bool]:
    return end


def _row(atom: Atom) -> Row:
    return Row(_terms(atom, Side.OUTPUT), _terms(atom, Side.INPUT), -atom.form.constant, atom.strict)


def _terms(atom: Atom, side: Side) -> Terms:
    """Return the terms of one side, sorted by index."""
    return tuple(sorted((index, value) for (place, index), value in atom.form.terms.items() if place is side))


def _cases(source: SourceText, query: Query, common: _Conjunction, alternatives: Sequence[Formula]) -> Iterator[Case]:
    """Yield a case for every box in the alternatives, with the disjuncts that belong to it."""
    grouped: dict[tuple[tuple[tuple[int, tuple[Fraction, bool]], ...], ...], list[Conjunction]] = {}
    for atoms in conjunctions(And(tuple(alternatives))):
        found = _Conjunction.of(atoms)
        if found.possible:
            key = (tuple(sorted(found.lower.items())), tuple(sorted(found.upper.items())))
            grouped.setdefault(key, []).append((*common.rows, *found.rows) or (_ALWAYS,))
    count = sum(tensor.size for tensor in query.inputs)
    if len(grouped) * count > _MOST_ENDS:
        raise PropertyError.at(source.name, f"{len(grouped):,} boxes of {count:,} elements", "a smaller property")
    for (lower, upper), disjuncts in grouped.items():
        ends = _Conjunction(dict(lower), dict(upper))
        box = _box(source, query.inputs, common, ends, count)
        if box is not None:
            yield Case(box, tuple(dict.fromkeys(disjuncts)))


def _box(
    source: SourceText, inputs: Sequence[DeclaredTensor], common: _Conjunction, ends: _Conjunction, count: int
) -> Box | None:
    """Return the box with all these ends, or None if it is empty."""
    lower, upper = dict(common.lower), dict(common.upper)
    for index, end in ends.lower.items():
        lower[index] = max(lower.get(index, end), end, key=_lower_order)
    for index, end in ends.upper.items():
        upper[index] = min(upper.get(index, end), end, key=_upper_order)
    _check_ends(source, inputs, lower, upper, count)
    for index in range(count):
        (low, low_open), (high, high_open) = lower[index], upper[index]
        if low > high or (low == high and (low_open or high_open)):
            return None
    return Box(
        tuple(lower[index][0] for index in range(count)),
        tuple(upper[index][0] for index in range(count)),
        frozenset(index for index, (_, is_open) in lower.items() if is_open),
        frozenset(index for index, (_, is_open) in upper.items() if is_open),
    )


def _check_ends(source: SourceText, inputs: Sequence[DeclaredTensor], lower: _Ends, upper: _Ends, count: int) -> None:
    far = sum(abs(value) > LARGEST for ends in (lower, upper) for value, _ in ends.values())
    faults = 2 * count - len(lower) - len(upper) + far
    if not faults:
        return
    listed = list(islice(_faults(source, inputs, lower, upper, count), _MOST_LISTED))
    more = faults - len(listed)
    raise PropertyError([*listed, *([Problem(source.name, f"{more:,} more of the kind")] if more else [])])


def _faults(
    source: SourceText, inputs: Sequence[DeclaredTensor], lower: _Ends, upper: _Ends, count: int
) -> Iterator[Problem]:
    for index in range(count):
        for ends, name in ((lower, "lower"), (upper, "upper")):
            if index not in ends:
                found = f"{_element(inputs, index)} has no {name} bound"
                yield Problem(source.name, found, "a box of inputs")
            elif abs(ends[index][0]) > LARGEST:
                found = f"the {name} bound of {_element(inputs, index)} lies beyond the float32 range"
                yield Problem(source.name, found, f"at most {float(LARGEST):.7g}")


def _element(inputs: Sequence[DeclaredTensor], index: int) -> str:
    for tensor in inputs:
        if index < tensor.size:
            return f"element {index} of the input {tensor.name}"
        index -= tensor.size
    return f"element {index}"
