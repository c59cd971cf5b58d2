"""What a pass is: a rewriting of the IR that says what it changed and what it refused, and why.

A pass is a frozen dataclass whose fields are its options. `run` copies the graph, checks what the pass `requires`,
applies it, verifies every invariant of the IR, and checks what the pass `ensures`. The graph that comes in is never
changed. A `Pipeline` runs passes one after the other and keeps a report of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ibpc.errors import GraphError, Problem, raise_all
from ibpc.ir import Graph
from ibpc.ops import operators


@dataclass(frozen=True)
class PassResult:
    """What a pass returns: the new graph, what it changed, and why it refused what looked like a match."""

    graph: Graph
    changes: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What one pass of a pipeline changed and refused. Prints as one line, and one more for each of them."""

    name: str
    summary: str
    changes: tuple[str, ...]
    refusals: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.name}: {_count(len(self.changes), 'change')}"
        if self.refusals:
            head += f", {len(self.refusals)} refused"
        changes = [f"  {change}" for change in self.changes]
        return "\n".join([head, *changes, *(f"  refused: {refusal}" for refusal in self.refusals)])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@dataclass
class Log:
    """Where a pass writes what it changes and refuses. Each line starts with the name of the node it is about."""

    changes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def changed(self, node: str, what: str) -> None:
        """Note a change."""
        self.changes.append(f"{node}: {what}")

    def refused(self, node: str, why: str) -> None:
        """Note that something looked like a match and why it was left alone."""
        self.refusals.append(f"{node}: {why}")


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. A child names itself, says in one line what it does, and implements `apply`."""

    name: ClassVar[str]
    summary: ClassVar[str]

    def requires(self, graph: Graph) -> Iterator[Problem]:  # noqa: ARG002
        """Yield why the pass cannot run on `graph`: by default nothing."""
        return iter(())

    @abstractmethod
    def apply(self, graph: Graph, log: Log) -> None:
        """Rewrite `graph`, which is the pass's own copy, and write to `log`."""

    def ensures(self, graph: Graph) -> Iterator[Problem]:  # noqa: ARG002
        """Yield what `graph`, rewritten, lacks of what the pass promises beyond the IR's invariants."""
        return iter(())

    def run(self, graph: Graph) -> PassResult:
        """Return the rewritten copy of `graph`. Raises GraphError where the pass cannot run or breaks an invariant.

        What noted nothing changed nothing, and broke nothing.
        """
        raise_all(GraphError, self.requires(graph))
        copy, log = graph.copy(), Log()
        self.apply(copy, log)
        if log.changes or log.refusals:
            copy.verify(operators())
        raise_all(GraphError, self.ensures(copy))
        return PassResult(copy, tuple(log.changes), tuple(log.refusals))


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after the other."""

    passes: tuple[Pass, ...]

    def run(self, graph: Graph) -> tuple[Graph, tuple[Report, ...]]:
        """Return the graph after all passes and the report of each. Raises GraphError as `Pass.run` does.

        A pass that runs again judges again: only its last report says what it refused.
        """
        reports = []
        for index, step in enumerate(self.passes):
            result = step.run(graph)
            graph = result.graph
            again = any(later.name == step.name for later in self.passes[index + 1 :])
            reports.append(Report(step.name, step.summary, result.changes, () if again else result.refusals))
        return graph, tuple(reports)


def listed(names: Iterable[str]) -> str:
    """Return names as text: `a`, `a and b`, `a, b and c`."""
    found = list(dict.fromkeys(names))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
