"""Affine elementwise operators with constants, fused into the linear operator before or after them.

A run of Add, Sub, Mul, Div and Neg by constants after y = W x + b gives s (W x + b) + t = (s W) x + (s b + t); one
before it gives W (s x + t) + b = (W s) x + (b + W t). Constants must be the same at all positions of a channel. Before
an operator that pads zeros nothing may be added, because the zeros are not shifted.

The fused bound must cover the original's own roundings. Each fused operator rounds each term once in the original and
once more in the new weights: two roundings are counted, none for Neg, and a node takes in at most `MOST_ROUNDINGS`.
The derivation is in `ibpc.passes._roundings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibpc.ir import Graph
from ibpc.passes._scalings import LINEAR, elementwise_scaling, fold_back, fold_forward, source_before
from ibpc.passes.base import Log, Pass


@dataclass(frozen=True)
class FuseAffine(Pass):
    """Fuse Add, Sub, Mul, Div and Neg by constants into a Conv, ConvTranspose or Gemm beside them.

    For evaluation only, because it mixes constants into weights, which training would change. Weights that are shared
    or constrained are left alone.
    """

    name: ClassVar[str] = "fuse_affine"

    def apply(self, graph: Graph, log: Log) -> None:
        """Fuse backward in graph order, then forward in reverse order."""
        order = [node.name for node in graph.order()]
        refused: dict[str, str] = {}
        for name in order:
            self._back(graph, name, log, refused)
        for name in reversed(order):
            self._forward(graph, name, log, refused)
        for name in order:
            if name in refused:
                log.refused(name, refused[name])

    def _back(self, graph: Graph, name: str, log: Log, refused: dict[str, str]) -> None:
        match = elementwise_scaling(graph, graph.node(name))
        if match is None:
            return
        operator = graph.node(name).operator
        source, reason = fold_back(graph, name, *match)
        if reason is None:
            log.changed(name, f"{operator} fused into {source.name} before it")
        else:
            refused[name] = f"not fused backward, {reason}"

    def _forward(self, graph: Graph, name: str, log: Log, refused: dict[str, str]) -> None:
        if name not in refused:
            return
        match = elementwise_scaling(graph, graph.node(name))
        if match is None:
            return
        operator = graph.node(name).operator
        reader, reason = fold_forward(graph, name, *match)
        if reason is None:
            log.changed(name, f"{operator} fused into {reader.name} behind it")
            del refused[name]
        elif {source_before(graph, name, *match).operator, reader.operator}.isdisjoint(LINEAR):
            del refused[name]
        else:
            refused[name] += f"; not fused forward, {reason}"
