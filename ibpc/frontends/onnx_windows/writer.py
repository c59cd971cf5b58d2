"""The nodes that take the place of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class NodeWriter:
    """Writes nodes in the place of one of a graph's, with names that the graph does not have."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._count = 0

    def start(self) -> None:
        """Begin with the nodes that take the place of another one."""
        self.nodes = []

    def copy(self, node: onnx.NodeProto, inputs: Iterable[str] | None = None) -> None:
        """Write a node as it is, or with other inputs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if inputs is not None:
            copy.input[:] = list(inputs)
        self.nodes.append(copy)

    def add(self, kind: str, inputs: Sequence[str], node: onnx.NodeProto) -> str:
        """Write a new node on behalf of another one and return the name of its output."""
        name = self._fresh(f"{node.name}.{kind.lower()}")
        self.nodes.append(helper.make_node(kind, inputs, [name], name))
        return name

    def constant(self, array: NDArray[Any], name: str = "") -> str:
        """Write a constant and return its name."""
        name = name or self._fresh("window")
        self.nodes.append(helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array)))
        return name

    def _fresh(self, wish: str) -> str:
        name = wish
        while name in self._taken:
            self._count += 1
            name = f"{wish}_{self._count}"
        self._taken.add(name)
        return name
