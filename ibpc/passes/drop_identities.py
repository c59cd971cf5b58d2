"""Dropping nodes that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from ibpc.ir import INPUT, Graph, Node
from ibpc.passes.base import Log, Pass, constant_of


def _why_kept(graph: Graph, operand: str) -> str:
    """Return why an output with this operand is not dropped."""
    if operand in graph.outputs:
        return f"the network returns both it and {operand}, its operand"
    return f"it is an output, and {operand}, its operand, an input"


def _always(graph: Graph, node: Node) -> bool:
    return True


def _keeps_order(graph: Graph, node: Node) -> bool:
    return list(node.attributes["perm"]) == sorted(node.attributes["perm"])


def _is_alone(graph: Graph, node: Node) -> bool:
    return len(graph.operands(node.name)) == 1


def _adds_nothing(graph: Graph, node: Node) -> bool:
    return not any(node.attributes["pads"])


def _neutral(value: float, slots: tuple[int, ...]) -> Callable[[Graph, Node], bool]:
    """Return the condition that an operand in one of the slots is a Constant that holds only `value`."""

    def holds(graph: Graph, node: Node) -> bool:
        operands = graph.operands(node.name)
        constants = [constant_of(graph, operands[slot]) for slot in slots]
        return any(constant is not None and bool((constant == value).all()) for constant in constants)

    return holds


# Operators that pass one operand on unchanged if it has the shape of the result and the condition holds.
_CONDITIONS: Final[Mapping[str, Callable[[Graph, Node], bool]]] = {
    "Identity": _always,
    "Flatten": _always,
    "Reshape": _always,
    "Squeeze": _always,
    "Unsqueeze": _always,
    "Transpose": _keeps_order,
    "Concat": _is_alone,
    "Pad": _adds_nothing,
    "Add": _neutral(0.0, (0, 1)),
    "Sub": _neutral(0.0, (1,)),
    "Mul": _neutral(1.0, (0, 1)),
    "Div": _neutral(1.0, (1,)),
}


@dataclass(frozen=True)
class DropIdentities(Pass):
    """Let the readers of a node that changes nothing read its operand.

    `also` names further operators that change nothing for this use of the graph: ("Dropout",) in evaluation. A dropped
    output is replaced by its operand in the same place, unless the operand is an input or an output itself.
    """

    name: ClassVar[str] = "drop_identities"

    also: tuple[str, ...] = ()

    def apply(self, graph: Graph, log: Log) -> None:
        """Drop nodes in graph order."""
        for node in graph.order():
            operand = self._same(graph, node)
            if operand is None:
                continue
            if node.name in graph.outputs and (operand in graph.outputs or graph.node(operand).operator == INPUT):
                log.refused(node.name, f"not dropped, {_why_kept(graph, operand)}")
                continue
            graph.rewire(node.name, operand)
            graph.remove(node.name)
            log.changed(node.name, f"{node.operator} dropped, its readers read {operand}")

    def _same(self, graph: Graph, node: Node) -> str | None:
        """Return the operand that the node passes on unchanged, None if it changes something."""
        unchanged = _always if node.operator in self.also else _CONDITIONS.get(node.operator)
        if unchanged is None or not unchanged(graph, node):
            return None
        candidates = [name for name in graph.operands(node.name) if constant_of(graph, name) is None]
        if len(candidates) != 1 or graph.node(candidates[0]).shape != node.shape:
            return None
        return candidates[0]
