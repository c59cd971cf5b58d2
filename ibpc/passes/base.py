"""The base of all passes: rewritings of the IR that say what they changed and what they refused, and why.

A pass is a frozen dataclass whose fields are its options. `run` copies the graph, checks what the pass `requires`,
applies it, verifies every invariant of the IR, and checks what the pass `ensures`. The graph that comes in is never
changed. A `Pipeline` runs passes one after the other and keeps the result of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ibpc.errors import GraphError, Problem, raise_all
from ibpc.ir import Graph, Node
from ibpc.ops import operators


@dataclass(frozen=True)
class PassResult:
    """The graph after one pass, what the pass changed, and why it refused what looked like a match.

    Prints as one line, and one more for each change and refusal.
    """

    name: str
    graph: Graph
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
    """The changes and refusals of a pass. Each line starts with the name of the node it is about."""

    changes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def changed(self, node: str, what: str) -> None:
        """Note a change."""
        self.changes.append(f"{node}: {what}")

    def refused(self, node: str, why: str) -> None:
        """Note why something that looked like a match was left alone."""
        self.refusals.append(f"{node}: {why}")


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. A child names itself and implements `apply`."""

    name: ClassVar[str]

    def requires(self, graph: Graph) -> Iterator[Problem]:  # noqa: ARG002
        """Yield the reasons why the pass cannot run on `graph`: by default none."""
        return iter(())

    @abstractmethod
    def apply(self, graph: Graph, log: Log) -> None:
        """Rewrite `graph`, which is the pass's own copy, and write to `log`."""

    def ensures(self, graph: Graph) -> Iterator[Problem]:  # noqa: ARG002
        """Yield the promises beyond the IR's invariants that the rewritten `graph` breaks: by default none."""
        return iter(())

    def run(self, graph: Graph) -> PassResult:
        """Return the rewritten copy of `graph`. Raises GraphError if the pass cannot run or breaks an invariant.

        A pass that logs nothing has changed nothing, so the graph is not verified again.
        """
        raise_all(GraphError, self.requires(graph))
        copy, log = graph.copy(), Log()
        self.apply(copy, log)
        if log.changes or log.refusals:
            copy.verify(operators())
        raise_all(GraphError, self.ensures(copy))
        return PassResult(self.name, copy, tuple(log.changes), tuple(log.refusals))


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after the other."""

    passes: tuple[Pass, ...]

    def run(self, graph: Graph) -> tuple[Graph, tuple[PassResult, ...]]:
        """Return the graph after all passes and the result of each. Raises GraphError as `Pass.run` does.

        A pass that runs again judges again: only its last result lists refusals.
        """
        results = []
        for index, step in enumerate(self.passes):
            result = step.run(graph)
            graph = result.graph
            again = any(later.name == step.name for later in self.passes[index + 1 :])
            results.append(replace(result, refusals=()) if again else result)
        return graph, tuple(results)


# ── what passes ask of graphs and say in refusals ───────────────────────────────────────────────────────────────
def constant_of(graph: Graph, name: str) -> Tensor | None:
    """Return the value of a Constant, None for any other node."""
    if graph.node(name).operator != "Constant":
        return None
    return torch.as_tensor(graph.parameters_of(name)["value"])


def readers(graph: Graph, name: str) -> list[str]:
    """Return the nodes that read the value, and "the caller" if the network returns it."""
    found = [use.consumer for use in graph.consumers(name)]
    return [*found, "the caller"] if name in graph.outputs else found


def also_read(graph: Graph, name: str, reader: str) -> str | None:
    """Return the refusal if anything but node `reader` reads the value, else None."""
    others = [other for other in readers(graph, name) if other != reader]
    return f"the value of {name} is also read by {listed(others)}" if others else None


def described(node: Node) -> str:
    """Return the refusal of a node by its operator: `x is a Relu`."""
    return f"{node.name} is {'an' if node.operator[0] in 'AEIOU' else 'a'} {node.operator}"


def uneven(target: Node) -> str:
    """Return the refusal of a scaling that is not one number per channel of `target`."""
    return f"it treats the positions of one channel of {target.name} differently"


def listed(names: Iterable[str]) -> str:
    """Return names as text: `a`, `a and b`, `a, b and c`."""
    found = list(dict.fromkeys(names))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
