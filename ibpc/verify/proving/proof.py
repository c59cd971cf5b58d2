"""The proof of a search, written down as it goes: the tree of cuts, and in each leaf the evidence for its bound.

A place is one region of the search: cut in two, closed by evidence, or still open. `steps` writes the tree in the form
that `ibpc.verify.checking.proofs` replays, with the value names of the ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import onnx
import torch

from ibpc.bounds.sharpening import Record
from ibpc.frontends.onnx import translate
from ibpc.verify.checking.proofs import encoded
from ibpc.verify.properties import Conjunction


@dataclass(frozen=True, eq=False)
class Evidence:
    """What closes a region: the row of the disjunct that was bounded, the choices of planes, and multipliers.

    `row` is an index into the disjunct's rows, −1 for their sum. `choices` are encoded, by the IR node of a nonlinear
    operator; `multipliers` β ≥ 0 has one for each cut of a value on the way to the region.
    """

    row: int
    choices: Mapping[str, str] = field(default_factory=dict)
    multipliers: tuple[float, ...] = ()


class Place:
    """A region of a search: open, cut in two, or closed."""

    __slots__ = ("_before", "_cut", "_evidence", "_make", "_parts")

    def __init__(self) -> None:
        self._cut: tuple[Any, ...] = ()
        self._parts: tuple[Place, ...] = ()
        self._evidence: Evidence | Callable[[], Evidence | None] | None = None
        self._before: tuple[_Preparation, ...] = ()
        self._make: Callable[[], Place | None] | None = None

    @classmethod
    def closed(cls, evidence: Evidence | Callable[[], Evidence | None]) -> Place:
        """Return a place that is closed from the start."""
        place = cls()
        place.close(evidence)
        return place

    @classmethod
    def found_later(cls, make: Callable[[], Place | None]) -> Place:
        """Return a place whose proof is made on demand by `make`, which may find none.

        It shows that the region is refuted, but not by which margin.
        """
        place = cls()
        place._make = make
        return place

    @property
    def has_margin(self) -> bool:
        """Whether the proof covers the margin that was found, not only the refutation of the region."""
        return self._make is None

    def tighten(self, lines: Mapping[str, str] | Callable[[], Mapping[str, str]]) -> Place:
        """Note that the boxes in front of nonlinear operators were tightened backward here, for all places below.

        `lines` are the lower lines of rectifiers that were used; see `evidence.lines_of`.
        """
        self._before += (_Tightening(lines),)
        return self

    def sharpen(self, record: Record | Callable[[], Record | None]) -> Place:
        """Note that some of these boxes were tightened once more, each end with its own choices.

        Without a record the proof omits this step.
        """
        self._before += (_Sharpening(record),)
        return self

    def cut_input(self, index: int, at: float) -> tuple[Place, Place]:
        """Cut flat input `index`; return the places of x ≤ at and of x ≥ at."""
        return self._opened("input", index, at)

    def cut_value(self, operator: str, element: int, at: float) -> tuple[Place, Place]:
        """Cut an element of an operator's (an IR node's) operand; return the places of v ≤ at and of v ≥ at."""
        return self._opened("sign", operator, element) if at == 0.0 else self._opened("value", operator, element, at)

    def close(self, evidence: Evidence | Callable[[], Evidence | None]) -> None:
        """Close the place; evidence that takes time to make may be passed as a function, which may find none."""
        self._evidence = evidence

    def steps(self, names: Names, disjunct: Conjunction) -> list[list[Any]] | None:
        """Return the tree in preorder, or None if a place is open or a value has no name in the file."""
        if self._make is not None:
            made = self._make()
            return None if made is None else made.steps(names, disjunct)
        result: list[list[Any]] = []
        for place in self._walk():
            if place._is_open:
                return None
            before = (preparation.step(names) for preparation in place._before)
            result += [step for step in before if step is not None]
            step = place._step(names, disjunct)
            if step is None:
                return None
            result.append(step)
        return result

    @property
    def _is_open(self) -> bool:
        return not self._parts and self._evidence is None

    def _opened(self, *cut: Any) -> tuple[Place, Place]:
        self._cut, self._parts = cut, (Place(), Place())
        return self._parts[0], self._parts[1]

    def _walk(self) -> Iterator[Place]:
        waiting = [self]
        while waiting:
            place = waiting.pop()
            yield place
            waiting += place._parts[::-1]

    def _step(self, names: Names, disjunct: Conjunction) -> list[Any] | None:
        if self._parts:
            kind, where, *at = self._cut
            value = where if kind == "input" else names.operand(where)
            return None if value is None else [kind, value, *at]
        assert self._evidence is not None
        evidence = self._evidence() if callable(self._evidence) else self._evidence
        if evidence is None:
            return None
        choices = names.results(evidence.choices)
        return ["leaf", _weights(evidence.row, disjunct), choices, list(evidence.multipliers)]


class _Preparation(Protocol):
    """A step in a region before it is cut or closed."""

    def step(self, names: Names) -> list[Any] | None:
        """Return the step of the proof, without values that have no name in the file; None if nothing is left."""
        ...


@dataclass(frozen=True, eq=False)
class _Tightening:
    lines: Mapping[str, str] | Callable[[], Mapping[str, str]]

    def step(self, names: Names) -> list[Any]:
        return ["tighten", names.results(self.lines() if callable(self.lines) else self.lines)]


@dataclass(frozen=True, eq=False)
class _Sharpening:
    record: Record | Callable[[], Record | None]

    def step(self, names: Names) -> list[Any] | None:
        record = self.record() if callable(self.record) else self.record
        parts: list[list[Any]] = []
        found = [] if record is None else record.moved
        for (reader, slot), moved in groupby(found, lambda one: (one.reader, one.slot)):
            value, ends = names.operand(reader, slot), list(moved)
            if value is None or any(value == part[0] for part in parts):
                continue
            elements, signs = torch.cat([one.elements for one in ends]), torch.cat([one.signs for one in ends])
            choices = {node: torch.cat([one.choices[node] for one in ends]) for node in ends[0].choices}
            packed_choices = {node: encoded(choice.flatten().cpu().numpy()) for node, choice in choices.items()}
            parts.append([value, elements.tolist(), signs.int().tolist(), names.results(packed_choices)])
        return ["sharpen", parts] if parts else None


def _weights(row: int, disjunct: Conjunction) -> list[int]:
    """Return the weights of a disjunct's rows: 1 for one of them, or for all that are about outputs."""
    if row < 0:
        return [int(bool(one.outputs)) for one in disjunct]
    return [int(number == row) for number in range(len(disjunct))]


class Names:
    """The names in an ONNX model of the values that the IR imported from it computes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Import the model. Raises ModelError."""
        found = translate(model, "certificate")
        self._values = {node: value for value, node in found.values.items()}
        self._computed = {name for node in model.graph.node for name in node.output}
        self._operands = {name: list(node.input) for node in model.graph.node for name in node.output}

    def results(self, choices: Mapping[str, str]) -> dict[str, str]:
        """Return `choices` by the names of the nodes' results instead of the nodes, without unnamed ones."""
        return {self._values[node]: text for node, text in choices.items() if node in self._values}

    def operand(self, node: str, slot: int = 0) -> str | None:
        """Return the name of a node's operand in a slot, None unless a node of the file computes it."""
        operands = self._operands.get(self._values.get(node, ""), [])
        return operands[slot] if slot < len(operands) and operands[slot] in self._computed else None
