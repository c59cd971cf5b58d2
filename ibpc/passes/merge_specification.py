"""Elision: a specification C · output merged into the last affine operator (Gowal et al. 2018, section 3).

Let the output be z = W x + b over a box of x with radius r. Bounding z first, and C z from its bounds, gives the radius
|C| |W| r; bounding C z = (C W) x + C b gives |C W| r, which is never larger, and much smaller if rows of C take
differences of similar rows of W. The margin node keeps C and W separate, as its parameters `specification` and
`weight`, the latter tied to the output's weight: training updates W through both, and the float32 bound needs |C| |W|
as well, because the network rounds each logit before their difference is taken (`ibpc.ops.gemm`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, VIEWS, Graph, Node, Shape, format_shape
from ibpc.passes._roundings import copy_fused_roundings
from ibpc.passes.base import Log, Pass, PassResult, described

_TIED: Final = ("weight", "bias", "bias_magnitude")
_COPIES: Final = ("Identity", "Dropout")


@dataclass(frozen=True, eq=False)
class MergeSpecification(Pass):
    """Add a node with the value `matrix` · the first output, and make it the graph's last output.

    `matrix` is (rows, K) for an output …×K; `node` names the node to add. The output itself stays. If it is a Gemm,
    possibly followed by an Identity, a Dropout (the identity in evaluation) or a view of N×1×K as N×K, the matrix
    becomes the `specification` of a second Gemm with tied parameters; if the Gemm has a specification S₀ already, that
    becomes matrix · S₀. Otherwise a MatMul by the matrix is appended: the same values, looser bounds.
    """

    name: ClassVar[str] = "merge_specification"

    matrix: Tensor
    node: str = "margins"

    def apply(self, graph: Graph, log: Log) -> None:
        """Add the margin node. Raises GraphError for a matrix that does not fit."""
        output = self._output(graph)
        last = _producer(graph, output)
        reason = _why_apart(graph, last)
        if reason:
            self._append(graph, output)
            log.refused(self.node, f"not merged, {reason}; bounds of the margins take the outputs for independent")
        else:
            self._merge(graph, output, last)
            log.changed(self.node, f"{format_shape(tuple(self.matrix.shape))} specification merged into {last.name}")
        graph.outputs = (*graph.outputs, self.node)

    def _output(self, graph: Graph) -> Node:
        output = graph.node(graph.outputs[0])
        shape = output.shape
        if self.matrix.dim() != 2 or len(shape) < 2 or self.matrix.shape[1] != shape[-1]:
            found = f"a specification of shape {format_shape(tuple(self.matrix.shape))} for {format_shape(shape)}"
            raise GraphError.at(f"output {output.name}", found, f"(rows, {shape[-1] if shape else 1})")
        return output

    def _merge(self, graph: Graph, output: Node, last: Node) -> None:
        parameters = graph.parameters_of(last.name)
        weight = parameters["weight"]
        rows = self.matrix.to(weight.device, torch.float64)
        if "specification" in parameters:
            rows = rows @ parameters["specification"].double()
        merged_shape = (*last.shape[:-1], self.matrix.shape[0])
        is_view = last.shape[:-1] != output.shape[:-1]
        name = graph.fresh_name(f"{self.node}_rows") if is_view else self.node
        node = Node(name, "Gemm", last.attributes, merged_shape)
        graph.add(node, graph.operands(last.name), {"specification": rows.to(weight.dtype)})
        for role in _TIED:
            if role in parameters:
                graph.tie(f"{name}.{role}", f"{last.name}.{role}")
        copy_fused_roundings(graph, last.name, name)
        if is_view:
            shape: Shape = (output.shape[0], prod(merged_shape[1:]))
            graph.add(Node(self.node, "Flatten", {}, shape), [name])

    def _append(self, graph: Graph, output: Node) -> None:
        columns = self.matrix.to(_dtype(graph)).T.contiguous()
        constant = Node(graph.fresh_name(f"{self.node}_matrix"), "Constant", {}, tuple(columns.shape))
        graph.add(constant, state={"value": columns})
        product = Node(self.node, "MatMul", {}, (*output.shape[:-1], columns.shape[1]))
        graph.add(product, [output.name, constant.name])


def merge_specification(graph: Graph, matrix: Tensor, name: str = "margins") -> PassResult:
    """Return the graph with the node `name` = `matrix` · the first output as its last output; see `MergeSpecification`.

    Raises GraphError for a matrix that does not fit and for a name that is taken.
    """
    return MergeSpecification(matrix, name).run(graph)


def _producer(graph: Graph, output: Node) -> Node:
    """Return the node whose value `output` passes on unchanged, up to dimensions of size 1."""
    node = output
    while node.operator in _COPIES or _drops_ones(graph, node):
        node = graph.node(graph.operands(node.name)[0])
    return node


def _drops_ones(graph: Graph, node: Node) -> bool:
    """Whether the node turns N×1×…×K into N×K."""
    if node.operator not in VIEWS or len(node.shape) != 2 or node.shape[0] != BATCH:
        return False
    operand = graph.node(graph.operands(node.name)[0]).shape
    return len(operand) >= 2 and operand[0] == BATCH and operand[-1] == node.shape[1] == prod(operand[1:])


def _why_apart(graph: Graph, last: Node) -> str:
    """Return the refusal to merge a specification into `last`, or ""."""
    if last.operator == "Gemm":
        return ""
    return f"{described(last)} and not a Gemm"


def _dtype(graph: Graph) -> torch.dtype:
    """Return the floating type of the network's parameters, float32 if it has none."""
    tensors = (value for value in graph.state.values() if torch.is_tensor(value))
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
