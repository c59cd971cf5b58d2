"""How far one training step moves the running statistics of BatchNormalization."""

from __future__ import annotations

from typing import Final

from ibpc.ir import Graph

BATCH_NORMALIZATION: Final = "BatchNormalization"

KEPT: Final = 1.0
REPLACED: Final = 0.0


def with_momentum(graph: Graph, momentum: float) -> Graph:
    """Return a copy of a graph with this momentum in every BatchNormalization.

    As in ONNX, momentum is the share of the old statistics that is kept: with `KEPT` they stay, with `REPLACED` they
    become those of the last batch.
    """
    result = graph.copy()
    for node in graph.order():
        if node.operator == BATCH_NORMALIZATION:
            result.replace(node.name, attributes={**node.attributes, "momentum": momentum})
    return result
