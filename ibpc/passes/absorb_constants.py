"""Constant factors and addends that become the weight and the bias of a linear operator.

x · M with a constant matrix M becomes a Gemm with the weight Mᵀ; W x + c with one constant per channel becomes the
operator with the bias c. Both compute the same sums of the same products, so no rounding is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ibpc.ir import Graph, Node
from ibpc.passes._scalings import LINEAR, Scaling, elementwise_scaling
from ibpc.passes.base import Log, Pass, also_read, constant_of, uneven


@dataclass(frozen=True)
class AbsorbConstants(Pass):
    """Turn MatMul by a constant matrix into Gemm, and Add or Sub of a constant after a linear operator into its bias.

    Training may follow: it trains weight and bias.
    """

    name: ClassVar[str] = "absorb_constants"

    def apply(self, graph: Graph, log: Log) -> None:
        """Absorb in graph order, so that a product becomes a Gemm before its addend is absorbed."""
        for node in graph.order():
            if node.operator == "MatMul" and (matrix := _constant_matrix(graph, node)) is not None:
                _form_gemm(graph, node, matrix)
                log.changed(node.name, "MatMul by a constant matrix is a Gemm")
            elif node.operator in ("Add", "Sub"):
                _absorb_addend(graph, node, log)


def _constant_matrix(graph: Graph, node: Node) -> Tensor | None:
    """Return the right operand of a MatMul by a constant matrix; None if the left one is constant or a vector."""
    x, y = graph.operands(node.name)
    matrix = constant_of(graph, y)
    if matrix is None or matrix.dim() != 2 or constant_of(graph, x) is not None or len(graph.node(x).shape) < 2:
        return None
    return matrix


def _form_gemm(graph: Graph, node: Node, matrix: Tensor) -> None:
    x, _ = graph.operands(node.name)
    graph.replace(node.name, operator="Gemm", attributes={})
    graph.set_operands(node.name, [x])
    graph.state[f"{node.name}.weight"] = matrix.T.contiguous()


def _absorb_addend(graph: Graph, node: Node, log: Log) -> None:
    match = elementwise_scaling(graph, node)
    if match is None:
        return
    operand, scaling = match
    target = graph.node(operand)
    if target.operator not in LINEAR or bool((scaling.scale != 1).any()):
        return
    reason = _absorb(graph, node.name, target, scaling)
    if reason is None:
        log.changed(node.name, f"{node.operator} absorbed as the bias of {operand}")
    else:
        log.refused(node.name, f"not absorbed, {reason}")


def _absorb(graph: Graph, name: str, target: Node, scaling: Scaling) -> str | None:
    """Make the constant that node `name` adds the bias of `target`. Return the refusal, None if done."""
    parameters = graph.parameters_of(target.name)
    present = [role for role in ("bias", "specification", "bias_magnitude") if role in parameters]
    if present:
        return f"{target.name} has a {present[0]} already"
    reason = also_read(graph, target.name, name)
    if reason is not None:
        return reason
    channels = scaling.per_channel(target.operator)
    if channels is None:
        return uneven(target)
    bias = channels.shift.to(parameters["weight"].dtype)
    if bool((bias.double() != channels.shift).any()):
        return f"the constant has more digits than the weights of {target.name}"
    graph.state[f"{target.name}.bias"] = bias.contiguous()
    graph.rewire(name, target.name)
    graph.remove(name)
    return None
