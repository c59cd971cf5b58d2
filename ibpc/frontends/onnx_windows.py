"""Windows at positions that the network computes, as marks on whole tensors.

`x[a:b] = v` leaves exporters as Slice, Shape and Expand, for the indices as slices of Range, and as ScatterND. With
a computed a and b the shapes in between are known only when the network runs: where the window lies outside of x it
has no rows at all. Here such a window is the whole tensor that it was cut from, and along each cut axis a `Span`
that says which rows are in it. What moves elements or computes element by element acts on whole tensors. A shape is
a vector in which a span stands for the number of its rows. Only ScatterND asks which rows there are:

    Slice(x, a, b)        →  x, of which the rows a … b − 1 count
    ScatterND(x, i, v)    →  ScatterND(x, i, Where(marks, v, GatherND(x, i)))

The marks are comparisons of a and b with row numbers, so what follows is a network of static shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ibpc.frontends.onnx_fold import Array, Known

_WHOLE_NUMBERS: Final = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
# Positions and row numbers stay where neither 32 bits nor the integers of binary32 arithmetic end.
_FARTHEST: Final = 2**23
_NEVER: Final = 2**24
_LONGEST_SUM: Final = 64
_NAMED: Final = 5
_ELEMENTWISE: Final = frozenset(
    {
        *("Abs", "Add", "Cast", "Clip", "Div", "Exp", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Relu"),
        *("Sigmoid", "Sqrt", "Sub", "Tanh"),
    }
)


@dataclass(frozen=True)
class Bound:
    """A whole number of the file: that of an ONNX value of one element, and an offset. Without a value, the offset."""

    root: str
    offset: int


@dataclass(frozen=True)
class Span:
    """The rows from `start` to the one before `end` of an axis of `size` rows, as ONNX Slice counts and clamps them."""

    start: Bound
    end: Bound
    size: int


Dim: TypeAlias = int | Span
Dims: TypeAlias = tuple[Dim, ...]
Vector: TypeAlias = NDArray[np.object_]


class Windows:
    """Rewrites the nodes of a model that make or read windows at computed positions; the others are left alone.

    `values` are what is known of the values of the model so far, which the rewritten nodes become part of. A window
    keeps its name; its value is the whole tensor.
    """

    def __init__(self, graph: onnx.GraphProto, values: Mapping[str, Known]) -> None:
        self._values = values
        self._makers = {name: node for node in graph.node for name in node.output}
        self._taken = {*self._makers, *(name for node in graph.node for name in node.input)}
        self._dims: dict[str, Dims] = {}
        self._vectors: dict[str, Vector] = {}
        self._marks: dict[Span, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._count = 0

    def __contains__(self, name: str) -> bool:
        """Whether a value is a window or the shape of one, which has no static shape in the file."""
        return name in self._dims or name in self._vectors

    def concerns(self, node: onnx.NodeProto) -> bool:
        """Return whether a node makes or reads a window."""
        if any(name in self for name in node.input):
            return True
        known = all(name in self._values for name in node.input if name)
        return node.op_type == "Slice" and not node.domain and known and self._is_cut(node)

    def rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that take the place of one that `concerns` windows. Raises ValueError with the reason."""
        missing = [name for name in node.input if name and name not in self and name not in self._values]
        if missing:
            return []  # what it reads has been refused, so nothing can be said about it
        self._nodes = []
        if any(name in self._vectors for name in node.input[:1]) or self._is_of_vectors(node):
            self._keep(node.output[0], self._vector_rule(node)(node))
        else:
            self._window_rule(node)(node)
        return self._nodes

    # ── which rule ──────────────────────────────────────────────────────────────────────────────────────────────
    def _is_cut(self, node: onnx.NodeProto) -> bool:
        return any(name and self._values[name].constant is None for name in node.input[1:3])

    def _is_of_vectors(self, node: onnx.NodeProto) -> bool:
        """Return whether a node computes with shapes of windows only."""
        vectors = any(name in self._vectors for name in node.input)
        return vectors and node.op_type in ("Concat", "Equal", "Where")

    def _vector_rule(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], Any]:
        rules: dict[str, Callable[[onnx.NodeProto], Any]] = {
            "Cast": self._same_vector,
            "Concat": lambda node: np.concatenate([self._vector(name, node) for name in node.input]),
            "Equal": self._equal,
            "Gather": lambda node: np.take(self._vector(node.input[0], node), self._known(node, 1)),
            "Identity": self._same_vector,
            "Reshape": lambda node: self._vector(node.input[0], node).reshape(self._known(node, 1)),
            "Shape": lambda node: np.array(self._vector(node.input[0], node).shape, np.int64),
            "Slice": self._vector_part,
            "Squeeze": lambda node: self._vector(node.input[0], node).reshape(()),
            "Unsqueeze": lambda node: self._vector(node.input[0], node).reshape(-1),
            "Where": self._where,
            "ConstantOfShape": self._filled,
        }
        if node.op_type not in rules:
            raise self._refusal(node)
        return rules[node.op_type]

    def _window_rule(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], None]:
        rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Concat": self._concat,
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
            raise self._refusal(node)
        return rules[node.op_type]

    def _refusal(self, node: onnx.NodeProto, detail: str = "") -> ValueError:
        """Return the error for a node that wants to know a shape that no static network has."""
        names = ", ".join([name for name in node.input if name in self][:_NAMED])
        where = f" ({names})" if names else ""
        return ValueError(
            f"the shape of what it reads depends on numbers that the network computes{where}{detail and ': '}{detail}; "
            "expected a static shape, or a window that ScatterND writes to"
        )

    # ── shapes: vectors of numbers and spans ────────────────────────────────────────────────────────────────────
    def _keep(self, name: str, found: Any) -> None:
        """Make a vector the value of a name: a constant, if there is no span in it."""
        if found is None:
            return
        array = np.asarray(found)
        if array.dtype == object and any(isinstance(dim, Span) for dim in array.ravel()):
            self._vectors[name] = array
        else:
            self._constant(array.astype(np.int64) if array.dtype == object else array, name)

    def _vector(self, name: str, node: onnx.NodeProto) -> Vector:
        """Return a vector as python numbers and spans."""
        if name in self._vectors:
            return self._vectors[name]
        known = self._values[name].constant if name in self._values and name not in self else None
        if known is None or known.dtype.kind not in "iu":
            raise self._refusal(node)
        return known.astype(object)

    def _known(self, node: onnx.NodeProto, slot: int) -> Array:
        name = node.input[slot] if slot < len(node.input) else ""
        known = self._values[name].constant if name in self._values and name not in self else None
        if known is None:
            raise self._refusal(node)
        return known

    def _same_vector(self, node: onnx.NodeProto) -> Vector:
        if _attribute(node, "to", onnx.TensorProto.INT64) not in _WHOLE_NUMBERS:
            raise self._refusal(node)
        return self._vector(node.input[0], node)

    def _vector_part(self, node: onnx.NodeProto) -> Vector:
        slots = [self._known(node, slot).ravel().tolist() for slot in range(1, len(node.input))]
        if any(len(slot) != 1 for slot in slots):
            raise self._refusal(node)
        start, end, step = slots[0][0], slots[1][0], slots[3][0] if len(slots) > 3 else 1
        return self._vector(node.input[0], node)[slice(start, end, step)]

    def _equal(self, node: onnx.NodeProto) -> NDArray[np.bool_]:
        """Compare shapes with negative numbers, which no number of rows is."""
        pairs = np.broadcast(*(self._vector(name, node) for name in node.input))
        for pair in pairs:
            spans = [dim for dim in pair if isinstance(dim, Span)]
            if spans and not any(isinstance(dim, int) and dim < 0 for dim in pair):
                raise self._refusal(node)
        pairs.reset()
        return np.array([first == second for first, second in pairs], dtype=bool).reshape(pairs.shape)

    def _where(self, node: onnx.NodeProto) -> Vector:
        first, second = (self._vector(name, node) for name in node.input[1:])
        return np.where(self._known(node, 0), first, second)

    def _filled(self, node: onnx.NodeProto) -> None:
        """Make a window of equal numbers, which has the shape of another one."""
        dims = tuple(self._vector(node.input[0], node))
        self._emit(node, inputs=[self._constant(_sizes(dims))])
        self._dims[node.output[0]] = dims

    # ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _dims_of(self, name: str) -> Dims:
        return self._dims[name] if name in self._dims else self._values[name].shape

    def _slice(self, node: onnx.NodeProto) -> None:
        """Mark the rows between computed numbers; cut others as they are."""
        dims = list(self._dims_of(node.input[0]))
        rank, cut = len(dims), self._is_cut(node)
        starts, ends = (self._bounds(node, slot) for slot in (1, 2))
        axes = self._known(node, 3).ravel().tolist() if self._has(node, 3) else list(range(len(starts)))
        steps = self._known(node, 4).ravel().tolist() if self._has(node, 4) else [1] * len(axes)
        if not len(starts) == len(ends) == len(axes) == len(steps) or any(not -rank <= axis < rank for axis in axes):
            raise self._refusal(node, "its starts, ends, axes and steps do not fit")
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            size = dims[axis]
            if isinstance(size, Span) or size > _FARTHEST:
                raise self._refusal(node, "a window of a window")
            if not cut:
                dims[axis] = len(range(size)[slice(start.offset, end.offset, step)])
            elif step == 1:
                dims[axis] = Span(start, end, size)
            else:
                raise self._refusal(node, f"a step of {step}")
        self._emit(node if not cut else helper.make_node("Identity", node.input[:1], node.output, node.name))
        self._dims[node.output[0]] = tuple(dims)

    def _has(self, node: onnx.NodeProto, slot: int) -> bool:
        return slot < len(node.input) and bool(node.input[slot])

    def _bounds(self, node: onnx.NodeProto, slot: int) -> list[Bound]:
        name = node.input[slot]
        known = self._values[name].constant
        if known is not None:
            return [Bound("", int(number)) for number in known.ravel()]
        return [self._bound(name, node)]

    def _bound(self, name: str, node: onnx.NodeProto) -> Bound:
        """Return a computed number as that of a value of one element, and an offset: sums with constants are undone."""
        offset = 0
        for _ in range(_LONGEST_SUM):
            if (step := self._step_of(name)) is None:
                break
            name, offset = step[0], offset + step[1]
        known = self._values[name]
        if known.elem_type not in _WHOLE_NUMBERS or int(np.prod(known.shape)) != 1 or abs(offset) > _FARTHEST:
            raise self._refusal(node, f"{name} is no single whole number")
        return Bound(name, offset)

    def _step_of(self, name: str) -> tuple[str, int] | None:
        """Return the value that another one is plus a number, if its node says so."""
        maker = self._makers.get(name)
        if maker is None or maker.domain or any(each and each not in self._values for each in maker.input):
            return None
        known = [self._values[each] for each in maker.input if each]
        if any(each.elem_type != onnx.TensorProto.INT64 for each in (*known, self._values[name])):
            return None
        if maker.op_type in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast") and known[0].constant is None:
            return maker.input[0], 0
        if maker.op_type not in ("Add", "Sub") or len(known) != 2:
            return None
        for slot, sign in ((0, 1), (1, 1 if maker.op_type == "Add" else -1)):
            constant = known[slot].constant
            other = known[1 - slot].constant
            if constant is not None and other is None and constant.size == 1 and (slot or maker.op_type == "Add"):
                return maker.input[1 - slot], sign * int(constant.ravel()[0])
        return None

    def _shape(self, node: onnx.NodeProto) -> None:
        dims = self._dims_of(node.input[0])
        part = dims[_attribute(node, "start", 0) : _attribute(node, "end", None)]
        self._keep(node.output[0], np.array(part, dtype=object))

    def _elementwise(self, node: onnx.NodeProto) -> None:
        """Compute on whole tensors: operands have the same rows along an axis, or one."""
        given = [self._dims_of(name) for name in node.input if name]
        rank = max(map(len, given))
        aligned = [(1,) * (rank - len(dims)) + dims for dims in given]
        found: list[Dim] = []
        for axis in range(rank):
            sizes = {dims[axis] for dims in aligned} - {1}
            if len(sizes) > 1:
                raise self._refusal(node, "its operands have different rows")
            found.append(next(iter(sizes), 1))
        self._emit(node)
        self._dims[node.output[0]] = tuple(found)

    def _expand(self, node: onnx.NodeProto) -> None:
        given = self._dims_of(node.input[0])
        wanted = tuple(self._vector(node.input[1], node))
        rank = max(len(given), len(wanted))
        given, wanted = ((1,) * (rank - len(dims)) + dims for dims in (given, wanted))
        if any(1 not in (old, new) and old != new for old, new in zip(given, wanted, strict=True)):
            raise self._refusal(node, "its operands have different rows")
        dims = tuple(new if old == 1 else old for old, new in zip(given, wanted, strict=True))
        self._emit(node, inputs=[node.input[0], self._constant(_sizes(dims))])
        self._dims[node.output[0]] = dims

    def _reshape(self, node: onnx.NodeProto) -> None:
        """Put in and leave out dimensions of 1, or keep the shape."""
        dims, wanted = self._dims_of(node.input[0]), tuple(self._vector(node.input[1], node))
        if wanted != dims:
            real = [dim for dim in dims if dim != 1]
            slots = [slot for slot, dim in enumerate(wanted) if dim != 1]
            fits = len(real) == len(slots) and all(
                wanted[slot] == -1 or (isinstance(dim, int) and wanted[slot] == dim)
                for slot, dim in zip(slots, real, strict=True)
            )
            if not fits or 0 in wanted or wanted.count(-1) > 1:
                raise self._refusal(node, "it does more than add or drop dimensions of 1")
            found = list(wanted)
            for slot, dim in zip(slots, real, strict=True):
                found[slot] = dim
            dims = tuple(found)
        shape = self._constant(_sizes(dims))
        self._emit(helper.make_node("Reshape", [node.input[0], shape], node.output, node.name))
        self._dims[node.output[0]] = dims

    def _unsqueeze(self, node: onnx.NodeProto) -> None:
        dims, axes = list(self._dims_of(node.input[0])), self._axes(node)
        rank = len(dims) + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            dims.insert(axis, 1)
        self._emit(node)
        self._dims[node.output[0]] = tuple(dims)

    def _squeeze(self, node: onnx.NodeProto) -> None:
        dims = self._dims_of(node.input[0])
        axes = {axis % len(dims) for axis in self._axes(node)}
        if not axes or any(dims[axis] != 1 for axis in axes):
            raise self._refusal(node, "it drops more than dimensions of 1")
        self._emit(node)
        self._dims[node.output[0]] = tuple(dim for axis, dim in enumerate(dims) if axis not in axes)

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        if self._has(node, 1):
            return [int(axis) for axis in self._known(node, 1).ravel()]
        return [int(axis) for axis in _attribute(node, "axes", [])]

    def _transpose(self, node: onnx.NodeProto) -> None:
        dims = self._dims_of(node.input[0])
        self._emit(node)
        self._dims[node.output[0]] = tuple(dims[axis] for axis in _attribute(node, "perm", range(len(dims))[::-1]))

    def _concat(self, node: onnx.NodeProto) -> None:
        given = [self._dims_of(name) for name in node.input]
        axis = _attribute(node, "axis", 0) % len(given[0])
        sizes = [dims[axis] for dims in given]
        others = {dims[:axis] + dims[axis + 1 :] for dims in given}
        if len(others) > 1 or any(isinstance(size, Span) for size in sizes):
            raise self._refusal(node, "its operands have different rows")
        joined = sum(size for size in sizes if isinstance(size, int))
        self._emit(node)
        self._dims[node.output[0]] = (*given[0][:axis], joined, *given[0][axis + 1 :])

    def _scatter(self, node: onnx.NodeProto) -> None:
        """Write only what is in the window: elsewhere write what is there already."""
        data, indices, updates = (self._dims_of(name) for name in node.input)
        depth = indices[-1] if indices else 0
        if node.input[0] in self or not isinstance(depth, int) or updates != (*indices[:-1], *data[depth:]):
            raise self._refusal(node, "its operands have different rows")
        if _attribute(node, "reduction", b"none") != b"none" or self._values[node.input[1]].constant is None:
            raise self._refusal(node, "it does more than write at constant places")
        old = self._add("GatherND", [node.input[0], node.input[1]], node)
        marks = self._add("Reshape", [self._all_marks(updates, node), self._constant(_marks_shape(updates))], node)
        chosen = self._add("Where", [marks, node.input[2], old], node)
        self._emit(node, inputs=[node.input[0], node.input[1], chosen])

    def _all_marks(self, dims: Dims, node: onnx.NodeProto) -> str:
        """Return where all spans of some dimensions have rows, as a tensor of those dimensions alone."""
        axes = [axis for axis, dim in enumerate(dims) if isinstance(dim, Span)]
        joined = ""
        for place, axis in enumerate(axes):
            dim = dims[axis]
            assert isinstance(dim, Span)
            shape = [1] * len(axes)
            shape[place] = dim.size
            marks = self._add("Reshape", [self._marks_of(dim, node), self._constant(np.array(shape))], node)
            joined = self._add("And", [joined, marks], node) if joined else marks
        return joined

    def _marks_of(self, span: Span, node: onnx.NodeProto) -> str:
        """Return which rows are in a span: row r is, if start ≤ r < end, either counted from the end where negative.

        With start = a + i and n rows, start ≤ r is (a ≤ r − i and a ≥ −i) or a ≤ r − n − i, and r < end = b + j is
        b > r − j or (b > r − n − j and b < −j), which no b is for the last row. a and b are compared as they are, so
        whole numbers decide exactly; bounds are so too, of a window with a row that starts at 0 or behind it.
        """
        if span not in self._marks:
            rows = np.arange(span.size)
            a, i, b, j = span.start.root, span.start.offset, span.end.root, span.end.offset
            from_front = self._add("And", [self._below(a, rows - i + 1, node), self._from(a, [-i], node)], node)
            begun = self._add("Or", [from_front, self._below(a, rows - span.size - i + 1, node)], node)
            least = np.where(rows == span.size - 1, _NEVER, rows - span.size - j + 1)
            from_back = self._add("And", [self._from(b, least, node), self._below(b, [-j], node)], node)
            not_over = self._add("Or", [self._from(b, rows - j + 1, node), from_back], node)
            self._marks[span] = self._add("And", [begun, not_over], node)
        return self._marks[span]

    def _below(self, root: str, limits: Sequence[int] | NDArray[np.int64], node: onnx.NodeProto) -> str:
        """Return root < limits, elementwise."""
        kind = onnx.TensorProto.INT64 if not root else self._values[root].elem_type
        numbers = np.asarray(limits, helper.tensor_dtype_to_np_dtype(kind))
        one = self._constant(np.zeros(1, numbers.dtype))
        if root:
            one = self._add("Reshape", [root, self._constant(np.ones(1, np.int64))], node)
        return self._add("Less", [one, self._constant(numbers)], node)

    def _from(self, root: str, limits: Sequence[int] | NDArray[np.int64], node: onnx.NodeProto) -> str:
        """Return root ≥ limits, elementwise."""
        return self._add("Not", [self._below(root, limits, node)], node)

    # ── the nodes that take the place of one ────────────────────────────────────────────────────────────────────
    def _emit(self, node: onnx.NodeProto, inputs: Iterable[str] | None = None) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if inputs is not None:
            copy.input[:] = list(inputs)
        self._nodes.append(copy)

    def _add(self, kind: str, inputs: Sequence[str], node: onnx.NodeProto) -> str:
        """Add a node on behalf of another one and return the name of its output."""
        name = self._fresh(f"{node.name}.{kind.lower()}")
        self._nodes.append(helper.make_node(kind, inputs, [name], name))
        return name

    def _constant(self, array: NDArray[Any], name: str = "") -> str:
        name = name or self._fresh("window")
        self._nodes.append(helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array)))
        return name

    def _fresh(self, wish: str) -> str:
        name = wish
        while name in self._taken:
            self._count += 1
            name = f"{wish}_{self._count}"
        self._taken.add(name)
        return name


def _sizes(dims: Iterable[Dim]) -> NDArray[np.int64]:
    """Return the shape of the whole tensor."""
    return np.array([dim.size if isinstance(dim, Span) else dim for dim in dims], dtype=np.int64)


def _marks_shape(dims: Iterable[Dim]) -> NDArray[np.int64]:
    """Return the shape of marks that broadcast over a tensor: rows along the axes with spans, 1 along the others."""
    return np.array([dim.size if isinstance(dim, Span) else 1 for dim in dims], dtype=np.int64)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
