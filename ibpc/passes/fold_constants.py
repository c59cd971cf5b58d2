"""Constant folding: nodes that do not depend on an input become Constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ibpc.ir import Graph, Node, format_shape
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.passes.base import Log, Pass, constant_of


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Turn each node that does not depend on an input into a Constant with the value of its nominal rule.

    Nodes with parameters are left alone, because training may change them, and so are operators that act differently
    while training. The value is that of one execution in the precision of the state; bounds for every binary32
    execution take it as given.
    """

    name: ClassVar[str] = "fold_constants"

    def apply(self, graph: Graph, log: Log) -> None:
        """Fold in graph order, so that constants propagate as far as possible."""
        perturbed = graph.descendants(graph.inputs)
        for node in graph.order():
            if node.name in perturbed or node.operator == "Constant":
                continue
            reason = _why_kept(graph, node)
            if reason is None:
                reason = _fold(graph, node)
            if reason is None:
                log.changed(node.name, f"{node.operator} of constants computed, {format_shape(node.shape)}")
            else:
                log.refused(node.name, f"not folded, {reason}")


def _why_kept(graph: Graph, node: Node) -> str | None:
    open_operands = [name for name in graph.operands(node.name) if constant_of(graph, name) is None]
    if open_operands:
        return f"{open_operands[0]} was not"
    if graph.parameters_of(node.name):
        return "it has parameters, which training may move"
    operator = operators()[node.operator]
    if operator.rules.training is not operator.rules.nominal:
        return f"{node.operator} acts differently while training"
    return None


@torch.no_grad()
def _fold(graph: Graph, node: Node) -> str | None:
    """Replace the node by its value. Return the refusal, None if done."""
    operands = [constant_of(graph, name) for name in graph.operands(node.name)]
    value = operators()[node.operator].rules.nominal(call_of(graph, node), *operands)
    if tuple(value.shape) != node.shape:
        return f"its value has the shape {format_shape(tuple(value.shape))}"
    graph.replace(node.name, operator="Constant", attributes={}, constraints=())
    graph.set_operands(node.name, [])
    graph.state[f"{node.name}.value"] = value.clone()
    return None
