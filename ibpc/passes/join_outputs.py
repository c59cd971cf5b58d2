"""Joining all outputs of a network into one row."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ibpc.ir import BATCH, Graph, Node
from ibpc.passes.base import Log, Pass


@dataclass(frozen=True)
class JoinOutputs(Pass):
    """Flatten and concatenate all outputs into the graph's only output, N×K, to which properties refer.

    A network whose only output is N×K already stays unchanged, so that a specification can be merged into its end.
    """

    name: ClassVar[str] = "join_outputs"

    def apply(self, graph: Graph, log: Log) -> None:
        """Flatten outputs that are no rows, and concatenate if there are several."""
        rows = [self._row(graph, name, log) for name in graph.outputs]
        if len(rows) > 1:
            name = graph.fresh_name("outputs")
            width = sum(graph.node(row).shape[1] for row in rows)
            graph.add(Node(name, "Concat", {"axis": 1}, (BATCH, width)), rows)
            log.changed(name, f"{len(rows)} outputs joined")
            rows = [name]
        graph.outputs = (rows[0],)

    def _row(self, graph: Graph, output: str, log: Log) -> str:
        shape = graph.node(output).shape
        if len(shape) == 2:
            return output
        name = graph.fresh_name(f"{output}_row")
        if len(shape) == 1:
            graph.add(Node(name, "Unsqueeze", {"axes": [1]}, (BATCH, 1)), [output])
        else:
            graph.add(Node(name, "Flatten", {}, (BATCH, prod(shape[1:]))), [output])
        log.changed(name, f"output {output} made flat")
        return name
