"""Dead-code elimination: nodes that no output needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ibpc.errors import Problem
from ibpc.ir import INPUT, Graph
from ibpc.passes._roundings import forget_removed
from ibpc.passes.base import Log, Pass


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove each node that no output depends on, and its parameters, except arrays that other nodes are tied to.

    Inputs stay: they are the network's signature.
    """

    name: ClassVar[str] = "eliminate_dead_code"

    def apply(self, graph: Graph, log: Log) -> None:
        """Remove nodes from the end, so that no removed node has readers."""
        needed = graph.ancestors(graph.outputs)
        for node in reversed(graph.order()):
            if node.name not in needed and node.operator != INPUT:
                graph.remove(node.name)
                log.changed(node.name, f"{node.operator} removed, no output needs it")
        forget_removed(graph)

    def ensures(self, graph: Graph) -> Iterator[Problem]:
        """Yield the nodes left that no output needs."""
        needed = graph.ancestors(graph.outputs)
        for node in graph.order():
            if node.name not in needed and node.operator != INPUT:
                yield Problem(f"node {node.name}", "no output needs it", "only what outputs need")
