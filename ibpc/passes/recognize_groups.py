"""Recognizing GroupNormalization in its spelling by InstanceNormalization.

Exporters reshape x to one channel per group, standardize each by an InstanceNormalization without weight and bias,
reshape back, and multiply and add constants of each channel. Training would train what stands for these by ones and
zeros, and leave the constants as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ibpc.ir import Graph, Node, Shape
from ibpc.passes.base import Log, Pass, constant_of, readers


@dataclass(frozen=True)
class RecognizeGroups(Pass):
    """Replace Reshape → InstanceNormalization → Reshape → Mul → Add by one GroupNormalization with weight and bias.

    It computes the same, and in binary32 its bounds hold for these steps: they are how it is exported. Steps that other
    nodes read are kept for them.
    """

    name: ClassVar[str] = "recognize_groups"

    def apply(self, graph: Graph, log: Log) -> None:
        """Recognize normalizations in graph order."""
        for node in graph.order():
            found = _grouped(graph, node)
            if found is None:
                continue
            normalization, x = found
            last, parameters = _scaled(graph, node)
            attributes = {
                "num_groups": normalization.shape[1],
                "epsilon": normalization.attributes["epsilon"],
            }
            graph.replace(last.name, operator="GroupNormalization", attributes=attributes)
            graph.set_operands(last.name, [x])
            graph.state.update({f"{last.name}.{role}": value for role, value in parameters.items()})
            log.changed(last.name, f"the GroupNormalization of {x} that {normalization.name} stands for")


def _grouped(graph: Graph, node: Node) -> tuple[Node, str] | None:
    """Return the InstanceNormalization of groups of x, and x, if the node is a Reshape back to the shape of x."""
    if node.operator != "Reshape":
        return None
    (operand,) = graph.operands(node.name)
    normalization = graph.node(operand)
    if normalization.operator != "InstanceNormalization" or not _is_plain(graph, normalization):
        return None
    merged = graph.node(graph.operands(normalization.name)[0])
    if merged.operator != "Reshape" or len(merged.shape) != 3:
        return None
    (x,) = graph.operands(merged.name)
    shape = graph.node(x).shape
    fits = shape == node.shape and len(shape) >= 3 and shape[1] % merged.shape[1] == 0
    return (normalization, x) if fits else None


def _is_plain(graph: Graph, normalization: Node) -> bool:
    """Return whether weights are 1 and biases 0."""
    parameters = graph.parameters_of(normalization.name)
    return all(
        bool((parameters[role] == neutral).all())
        for role, neutral in (("weight", 1.0), ("bias", 0.0))
        if role in parameters
    )


def _scaled(graph: Graph, node: Node) -> tuple[Node, dict[str, Tensor]]:
    """Return the last step, with weight and bias: the node itself without any, unless it has both."""
    product = _next(graph, node, "Mul")
    total = None if product is None else _next(graph, product[0], "Add")
    if product is None or total is None:
        return node, {}
    return total[0], {"weight": product[1], "bias": total[1]}


def _next(graph: Graph, node: Node, operator: str) -> tuple[Node, Tensor] | None:
    """Return the only reader of a node, if it has the operator and a constant for each channel, and these constants."""
    names = readers(graph, node.name)
    if len(names) != 1 or names[0] not in graph or graph.node(names[0]).operator != operator:
        return None
    reader = graph.node(names[0])
    (other,) = [name for name in graph.operands(reader.name) if name != node.name]
    value = constant_of(graph, other)
    channels = None if value is None or reader.shape != node.shape else _per_channel(value, node.shape)
    return None if channels is None else (reader, channels)


def _per_channel(value: Tensor, shape: Shape) -> Tensor | None:
    """Return a constant that broadcasts to `shape` along channels alone as a vector, None for any other."""
    sizes = (*[1] * (len(shape) - value.dim()), *value.shape)
    return value.flatten() if sizes == (1, shape[1], *[1] * (len(shape) - 2)) else None
