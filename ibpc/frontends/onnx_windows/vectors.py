"""What nodes make of the shapes of windows: vectors in which a span stands for the number of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ibpc.frontends.onnx_windows.positions import WHOLE_NUMBERS
from ibpc.frontends.onnx_windows.spans import Shapes, Span, Vector, attribute_of
from ibpc.frontends.onnx_windows.writer import NodeWriter


class ShapeVectors:
    """Computes the vectors of a model, which have no nodes in what is written unless they are constants."""

    def __init__(self, shapes: Shapes, writer: NodeWriter) -> None:
        self._shapes = shapes
        self._writer = writer

    def concern(self, node: onnx.NodeProto) -> bool:
        """Return whether a node makes a vector of vectors."""
        if node.op_type == "ConstantOfShape":
            return False
        if any(name in self._shapes.vectors for name in node.input[:1]):
            return True
        return node.op_type in ("Concat", "Equal", "Where") and any(name in self._shapes.vectors for name in node.input)

    def compute(self, node: onnx.NodeProto) -> None:
        """Compute the result of a node that they concern."""
        self.keep(node.output[0], self._rule(node)(node))

    def keep(self, name: str, found: Vector | NDArray[Any]) -> None:
        """Make a vector the value of a name: a constant, if there is no span in it."""
        array = np.asarray(found)
        if array.dtype == object and any(isinstance(dim, Span) for dim in array.ravel()):
            self._shapes.vectors[name] = array
        else:
            self._writer.constant(array.astype(np.int64) if array.dtype == object else array, name)

    def _rule(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], NDArray[Any]]:
        shapes = self._shapes
        rules: dict[str, Callable[[onnx.NodeProto], NDArray[Any]]] = {
            "Cast": self._same,
            "Concat": lambda node: np.concatenate([shapes.vector(node, slot) for slot in range(len(node.input))]),
            "Equal": self._equal,
            "Gather": lambda node: np.take(shapes.vector(node, 0), shapes.constant(node, 1)),
            "Identity": self._same,
            "Reshape": lambda node: shapes.vector(node, 0).reshape(shapes.constant(node, 1)),
            "Shape": lambda node: np.array(shapes.vector(node, 0).shape, np.int64),
            "Slice": self._part,
            "Squeeze": lambda node: shapes.vector(node, 0).reshape(()),
            "Unsqueeze": lambda node: shapes.vector(node, 0).reshape(-1),
            "Where": self._where,
        }
        if node.domain or node.op_type not in rules:
            raise shapes.refusal(node)
        return rules[node.op_type]

    def _same(self, node: onnx.NodeProto) -> Vector:
        if attribute_of(node, "to", onnx.TensorProto.INT64) not in WHOLE_NUMBERS:
            raise self._shapes.refusal(node)
        return self._shapes.vector(node, 0)

    def _part(self, node: onnx.NodeProto) -> Vector:
        slots = [self._shapes.constant(node, slot).ravel().tolist() for slot in range(1, len(node.input))]
        if any(len(slot) != 1 for slot in slots):
            raise self._shapes.refusal(node)
        start, end, step = slots[0][0], slots[1][0], slots[3][0] if len(slots) > 3 else 1
        return self._shapes.vector(node, 0)[slice(start, end, step)]

    def _equal(self, node: onnx.NodeProto) -> NDArray[np.bool_]:
        """Compare shapes with negative numbers, which no number of rows is."""
        pairs = np.broadcast(*(self._shapes.vector(node, slot) for slot in range(len(node.input))))
        for pair in pairs:
            spans = [dim for dim in pair if isinstance(dim, Span)]
            if spans and not any(isinstance(dim, int) and dim < 0 for dim in pair):
                raise self._shapes.refusal(node)
        pairs.reset()
        return np.array([first == second for first, second in pairs], dtype=bool).reshape(pairs.shape)

    def _where(self, node: onnx.NodeProto) -> Vector:
        first, second = (self._shapes.vector(node, slot) for slot in range(1, len(node.input)))
        return np.where(self._shapes.constant(node, 0), first, second)
