"""Shape inference: recomputing every node's shape from the operators' rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ibpc.errors import GraphError, Problem, nearest, raise_all
from ibpc.ir import Graph, Node, Shape, format_shape
from ibpc.ops import operators
from ibpc.passes.base import Log, Pass


@dataclass(frozen=True)
class InferShapes(Pass):
    """Recompute every shape, starting at the inputs. Raises GraphError with all nodes whose operands do not fit.

    Nodes that depend on one of these are not checked.
    """

    name: ClassVar[str] = "infer_shapes"

    def requires(self, graph: Graph) -> Iterator[Problem]:
        """Yield unknown operators, and invalid attributes, operands and parameters."""
        for node in graph.order():
            if node.operator not in operators():
                remedy = nearest(node.operator, operators())
                yield Problem(f"node {node.name}", f"unknown operator {node.operator!r}", remedy=remedy)
                continue
            operator = operators()[node.operator]
            counted = operator.check_operands(len(graph.operands(node.name)), graph.parameters_of(node.name))
            for text in (*operator.check_attributes(node.attributes), *counted):
                yield Problem(f"node {node.name}", text)

    def apply(self, graph: Graph, log: Log) -> None:
        """Update the shapes of all nodes."""
        problems: list[Problem] = []
        unknown: set[str] = set()
        for node in graph.order():
            if unknown.intersection(graph.operands(node.name)):
                unknown.add(node.name)
                continue
            try:
                shape = _shape(graph, node)
            except GraphError as error:
                problems.extend(_placed(problem, node) for problem in error.problems)
                unknown.add(node.name)
                continue
            if shape != node.shape:
                graph.replace(node.name, shape=shape)
                log.changed(node.name, f"shape {format_shape(node.shape)} → {format_shape(shape)}")
        raise_all(GraphError, problems)


def _shape(graph: Graph, node: Node) -> Shape:
    parameters = {role: tuple(value.shape) for role, value in graph.parameters_of(node.name).items()}
    return operators()[node.operator].infer_shape(
        node.attributes, graph.shapes_of(graph.operands(node.name)), parameters
    )


def _placed(problem: Problem, node: Node) -> Problem:
    return Problem(f"node {node.name} ({node.operator})", problem.found, problem.expected, problem.remedy)
