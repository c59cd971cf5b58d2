"""The rewriting: nodes that make or read windows, on whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper

from ibpc.frontends.onnx_fold import Known
from ibpc.frontends.onnx_windows.marks import Marks
from ibpc.frontends.onnx_windows.positions import FARTHEST, Positions
from ibpc.frontends.onnx_windows.spans import (
    Dim,
    Dims,
    Shapes,
    Span,
    attribute_of,
    has_operand,
    whole_sizes,
)
from ibpc.frontends.onnx_windows.vectors import ShapeVectors
from ibpc.frontends.onnx_windows.writer import NodeWriter

_OTHER_ROWS: Final = "its operands have different rows"
_ELEMENTWISE: Final = frozenset(
    {
        *("Abs", "Add", "Asinh", "Atan", "Cast", "Clip", "Cosh", "Div", "Exp", "Identity", "Max", "Min", "Mul", "Neg"),
        *("Pow", "Relu", "Sigmoid", "Sinh", "Sqrt", "Sub", "Tanh"),
    }
)


class Windows:
    """Rewrites the nodes of a model that make or read windows at computed positions; the others are left alone.

    `values` are what is known of the values of the model so far, which the rewritten nodes become part of. A window
    keeps its name; its value is the whole tensor.
    """

    def __init__(self, graph: onnx.GraphProto, values: Mapping[str, Known]) -> None:
        self._shapes = Shapes(values)
        self._writer = NodeWriter(graph)
        self._positions = Positions(graph, self._shapes)
        self._vectors = ShapeVectors(self._shapes, self._writer)
        self._marks = Marks(values, self._writer)

    def __contains__(self, name: str) -> bool:
        """Whether a value is a window or the shape of one, which has no static shape in the file."""
        return name in self._shapes

    def concerns(self, node: onnx.NodeProto) -> bool:
        """Return whether a node makes or reads a window."""
        if any(name in self for name in node.input):
            return True
        known = all(name in self._shapes.values for name in node.input if name)
        return node.op_type == "Slice" and not node.domain and known and self._positions.are_computed(node)

    def rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that take the place of one that `concerns` windows. Raises ValueError with the reason."""
        missing = [name for name in node.input if name and name not in self and name not in self._shapes.values]
        if missing:
            return []  # what it reads has been refused, so nothing can be said about it
        self._writer.start()
        if self._vectors.concern(node):
            self._vectors.compute(node)
        else:
            self._rule(node)(node)
        return self._writer.nodes

    def _rule(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], None]:
        rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Concat": self._concat,
            "ConstantOfShape": self._filled,
            "Expand": self._expand,
            "Reshape": self._reshape,
            "ScatterND": self._scatter,
            "Shape": self._shape,
            "Slice": self._slice,
            "Squeeze": self._squeeze,
            "Transpose": self._transpose,
            "Unsqueeze": self._unsqueeze,
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
        }
        if node.domain or node.op_type not in rules:
            raise self._shapes.refusal(node)
        return rules[node.op_type]

    def _write(self, node: onnx.NodeProto, dims: Dims, inputs: Sequence[str] | None = None) -> None:
        """Write a node, with its own inputs or others, whose result is a window of these dimensions."""
        self._writer.copy(node, inputs)
        self._shapes.windows[node.output[0]] = dims

    # ── making windows, and reading their shapes ────────────────────────────────────────────────────────────────
    def _slice(self, node: onnx.NodeProto) -> None:
        """Mark the rows between computed numbers; cut others as they are."""
        dims = list(self._shapes.dims(node.input[0]))
        rank, cut = len(dims), self._positions.are_computed(node)
        starts, ends = (self._positions.of(node, slot) for slot in (1, 2))
        axes = self._numbers(node, 3) if has_operand(node, 3) else list(range(len(starts)))
        steps = self._numbers(node, 4) if has_operand(node, 4) else [1] * len(axes)
        if not len(starts) == len(ends) == len(axes) == len(steps) or any(not -rank <= axis < rank for axis in axes):
            raise self._shapes.refusal(node, "its starts, ends, axes and steps do not fit")
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            size = dims[axis]
            if isinstance(size, Span) or size > FARTHEST:
                raise self._shapes.refusal(node, "a window of a window")
            if not cut:
                dims[axis] = len(range(size)[slice(start.offset, end.offset, step)])
            elif step == 1:
                dims[axis] = Span(start, end, size)
            else:
                raise self._shapes.refusal(node, f"a step of {step}")
        whole = helper.make_node("Identity", node.input[:1], node.output, node.name)
        self._write(whole if cut else node, tuple(dims))

    def _numbers(self, node: onnx.NodeProto, slot: int) -> list[int]:
        return [int(number) for number in self._shapes.constant(node, slot).ravel()]

    def _filled(self, node: onnx.NodeProto) -> None:
        """Make a window of equal numbers, which has the shape of another one."""
        dims = tuple(self._shapes.vector(node, 0))
        self._write(node, dims, [self._writer.constant(whole_sizes(dims))])

    def _shape(self, node: onnx.NodeProto) -> None:
        dims = self._shapes.dims(node.input[0])
        part = dims[attribute_of(node, "start", 0) : attribute_of(node, "end", None)]
        self._vectors.keep(node.output[0], np.array(part, dtype=object))

    # ── from windows to windows ─────────────────────────────────────────────────────────────────────────────────
    def _elementwise(self, node: onnx.NodeProto) -> None:
        """Compute on whole tensors: operands have the same rows along an axis, or one."""
        given = [self._shapes.dims(name) for name in node.input if name]
        rank = max(map(len, given))
        aligned = [(1,) * (rank - len(dims)) + dims for dims in given]
        found: list[Dim] = []
        for axis in range(rank):
            sizes = {dims[axis] for dims in aligned} - {1}
            if len(sizes) > 1:
                raise self._shapes.refusal(node, _OTHER_ROWS)
            found.append(next(iter(sizes), 1))
        self._write(node, tuple(found))

    def _expand(self, node: onnx.NodeProto) -> None:
        given, wanted = self._shapes.dims(node.input[0]), tuple(self._shapes.vector(node, 1))
        rank = max(len(given), len(wanted))
        given, wanted = ((1,) * (rank - len(dims)) + dims for dims in (given, wanted))
        if any(1 not in (old, new) and old != new for old, new in zip(given, wanted, strict=True)):
            raise self._shapes.refusal(node, _OTHER_ROWS)
        dims = tuple(new if old == 1 else old for old, new in zip(given, wanted, strict=True))
        self._write(node, dims, [node.input[0], self._writer.constant(whole_sizes(dims))])

    def _reshape(self, node: onnx.NodeProto) -> None:
        """Put in and leave out dimensions of 1, or keep the shape."""
        dims, wanted = self._shapes.dims(node.input[0]), tuple(self._shapes.vector(node, 1))
        if wanted != dims:
            dims = self._spread(node, [dim for dim in dims if dim != 1], wanted)
        shape = self._writer.constant(whole_sizes(dims))
        self._write(helper.make_node("Reshape", [node.input[0], shape], node.output, node.name), dims)

    def _spread(self, node: onnx.NodeProto, dims: Sequence[Dim], wanted: Dims) -> Dims:
        """Return the wanted dimensions, those other than 1 being the given ones in their order."""
        slots = [slot for slot, dim in enumerate(wanted) if dim != 1]
        fits = len(dims) == len(slots) and all(
            wanted[slot] == -1 or (isinstance(dim, int) and wanted[slot] == dim)
            for slot, dim in zip(slots, dims, strict=True)
        )
        if not fits or 0 in wanted or wanted.count(-1) > 1:
            raise self._shapes.refusal(node, "it does more than add or drop dimensions of 1")
        found = list(wanted)
        for slot, dim in zip(slots, dims, strict=True):
            found[slot] = dim
        return tuple(found)

    def _unsqueeze(self, node: onnx.NodeProto) -> None:
        dims, axes = list(self._shapes.dims(node.input[0])), self._axes(node)
        rank = len(dims) + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            dims.insert(axis, 1)
        self._write(node, tuple(dims))

    def _squeeze(self, node: onnx.NodeProto) -> None:
        dims = self._shapes.dims(node.input[0])
        axes = {axis % len(dims) for axis in self._axes(node)}
        if not axes or any(dims[axis] != 1 for axis in axes):
            raise self._shapes.refusal(node, "it drops more than dimensions of 1")
        self._write(node, tuple(dim for axis, dim in enumerate(dims) if axis not in axes))

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        if has_operand(node, 1):
            return self._numbers(node, 1)
        return [int(axis) for axis in attribute_of(node, "axes", [])]

    def _transpose(self, node: onnx.NodeProto) -> None:
        dims = self._shapes.dims(node.input[0])
        self._write(node, tuple(dims[axis] for axis in attribute_of(node, "perm", range(len(dims))[::-1])))

    def _concat(self, node: onnx.NodeProto) -> None:
        given = [self._shapes.dims(name) for name in node.input]
        axis = attribute_of(node, "axis", 0) % len(given[0])
        sizes = [dims[axis] for dims in given]
        others = {dims[:axis] + dims[axis + 1 :] for dims in given}
        if len(others) > 1 or any(isinstance(size, Span) for size in sizes):
            raise self._shapes.refusal(node, _OTHER_ROWS)
        joined = sum(size for size in sizes if isinstance(size, int))
        self._write(node, (*given[0][:axis], joined, *given[0][axis + 1 :]))

    # ── from windows to tensors of static shape ─────────────────────────────────────────────────────────────────
    def _scatter(self, node: onnx.NodeProto) -> None:
        """Write only what is in the window: elsewhere write what is there already."""
        data, indices, updates = (self._shapes.dims(name) for name in node.input)
        depth = indices[-1] if indices else 0
        if node.input[0] in self or not isinstance(depth, int) or updates != (*indices[:-1], *data[depth:]):
            raise self._shapes.refusal(node, _OTHER_ROWS)
        if attribute_of(node, "reduction", b"none") != b"none" or self._shapes.values[node.input[1]].constant is None:
            raise self._shapes.refusal(node, "it does more than write at constant places")
        old = self._writer.add("GatherND", node.input[:2], node)
        chosen = self._writer.add("Where", [self._marks.of(updates, node), node.input[2], old], node)
        self._writer.copy(node, [*node.input[:2], chosen])
