"""Random networks as ONNX models, drawn by Hypothesis, and what must hold of each of them.

A network has one or two inputs with a symbolic batch, up to fourteen nodes that read any values made before them
(branches, shared nodes, broadcasting, odd shapes), and one or two outputs. A step makes one of the ONNX types that the
registry reads, sometimes with a few nodes around it that keep its operands in its domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np
import onnx
import torch
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.frontends.onnx import translate
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.lowering import lower_nominal, parameter_tree
from ibpc.ops import operators
from ibpc.passes import COMPILE, EVALUATION
from ibpc.rounding import Arithmetic, plain_products
from tests.onnx_models import runtime

READ: Final = frozenset(reading.type for operator in operators().values() for reading in operator.reads)
LARGEST: Final = 400
SAMPLES: Final = 12
OPSETS: Final = (13, 17, 18, 21)
# Where these stand in a network, two correct programs may differ by a whole step at a point that lies on an edge.
STEPS: Final = frozenset(
    ("Sign", "Floor", "Ceil", "Round", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "ThresholdedRelu", "Shrink")
)

Shape = tuple[int, ...]


@dataclass
class Draft:
    """A network under construction. `shapes` are those of one sample."""

    draw: Callable[[st.SearchStrategy], Any]
    opset: int
    generator: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def number(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))

    def value(self, *ranks: int) -> str:
        """Return a value made before, of one of the ranks if any are given."""
        fitting = [name for name, shape in self.shapes.items() if not ranks or len(shape) in ranks]
        if not fitting:
            raise UnfitError
        return self.choose(*fitting)

    def value_like(self, shape: Shape) -> str:
        """Return a value made before, of a shape that one has."""
        return self.choose(*[name for name, other in self.shapes.items() if other == shape])

    def constant(self, array: Any, kind: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, kind), name))
        return name

    def weights(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.generator.normal(size=shape) * scale)

    def factor(self, *shape: int, scale: float = 1.0) -> str:
        """Return weights, now and then what the file computes from others, which executions may round differently."""
        name = self.weights(*shape, scale=scale)
        kind = self.choose(None, None, "Tanh", "Exp", "Softmax", "MatMul")
        if kind is None or not shape:
            return name
        inputs = [name, self.weights(shape[-1], shape[-1])] if kind == "MatMul" else [name]
        computed = f"k{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [computed], computed))
        return computed

    def add(self, kind: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        """Append a node whose result has a shape. Raises UnfitError for a result that is too large or empty."""
        if not 0 < prod(shape) <= LARGEST or len(shape) > 4 or kind not in READ:
            raise UnfitError
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], f"{kind}_{len(self.nodes)}", **attributes))
        self.shapes[name] = tuple(shape)
        return name

    def axis(self, shape: Shape) -> int:
        """Return a feature axis, the batch counted."""
        if not shape:
            raise UnfitError
        return self.number(1, len(shape))

    def positive(self, name: str) -> str:
        """Return |value| + 0.5."""
        shape = self.shapes[name]
        return self.add("Add", [self.add("Abs", [name], shape), self.constant(0.5)], shape)

    def reduced_axes(self, axis: int, since: int) -> tuple[list[str], dict[str, Any]]:
        """Return the axes as the opset wants them: a further input, or an attribute."""
        if self.opset >= since:
            return [self.constant([axis], np.int64)], {}
        return [], {"axes": [axis]}


class UnfitError(Exception):
    """The step does not fit the values there are; another one is drawn."""


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────
_UNARY: Final = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Abs", "Neg", "Identity"),
    *("Erf", "Gelu", "Mish", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Shrink", "Sin", "Cos", "Sign", "Floor"),
    *("Ceil", "Round", "Clip"),
)
_ON_POSITIVE: Final = ("Log", "Sqrt", "Reciprocal")
_REDUCTIONS: Final = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    *("ReduceLogSumExp", "ReduceProd", "ReduceLogSum"),
)


def unary(draft: Draft) -> None:
    kind, name = draft.choose(*_UNARY), draft.value()
    since = {"Gelu": 20, "Mish": 18, "HardSwish": 14}
    if draft.opset < since.get(kind, 0):
        raise UnfitError
    attributes = {"alpha": 0.3} if kind == "LeakyRelu" else {"approximate": "tanh"} if kind == "Gelu" else {}
    draft.add(kind, [name], draft.shapes[name], **attributes)


def formula(draft: Draft) -> None:
    """Append an activation as exporters spell it out, or what only looks like one."""
    name, kind = draft.value(), draft.choose("Sigmoid", "Softsign", "Mish", "Erf", "Tanh")
    shape = draft.shapes[name]
    if kind == "Softsign":
        draft.add("Div", [name, draft.add("Add", [draft.add("Abs", [name], shape), draft.constant(1.0)], shape)], shape)
    elif kind == "Mish":
        share = draft.add("Tanh", [draft.add("Softplus", [name], shape)], shape)
        draft.add("Mul", [name, share], shape)
    elif kind == "Sigmoid":
        scaled = draft.add("Mul", [name, draft.constant(draft.choose(1.0, 1.702, 0.25))], shape)
        draft.add("Mul", [draft.add(kind, [draft.choose(name, scaled, draft.value_like(shape))], shape), name], shape)
    else:
        root = draft.constant(draft.choose(np.sqrt(2.0), 1.4))
        curve = draft.add(kind, [draft.add("Div", [name, root], shape)], shape)
        share = draft.add("Mul", [draft.add("Add", [curve, draft.constant(1.0)], shape), draft.constant(0.5)], shape)
        draft.add("Mul", [name, share], shape)


def on_positive(draft: Draft) -> None:
    name = draft.positive(draft.value())
    draft.add(draft.choose(*_ON_POSITIVE), [name], draft.shapes[name])


def power(draft: Draft) -> None:
    name, exponent = draft.value(), draft.choose(2.0, 3.0, 0.5, -1.0, 1.5)
    base = name if exponent in (2.0, 3.0) else draft.positive(name)
    draft.add("Pow", [base, draft.constant(exponent)], draft.shapes[name])


def exponential(draft: Draft) -> None:
    name = draft.value()
    shape = draft.shapes[name]
    draft.add("Exp", [draft.add("Clip", [name, draft.constant(-5), draft.constant(2)], shape)], shape)


def binary(draft: Draft) -> None:
    kind, x = draft.choose("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"), draft.value()
    y, shape = broadcast_partner(draft, x)
    if kind == "Div":
        y = draft.positive(y) if y in draft.shapes else draft.constant(draft.generator.uniform(0.5, 2.0))
        shape = broadcast(draft.shapes[x], draft.shapes.get(y, ()))
    swapped = kind != "Div" and draft.choose(True, False)
    draft.add(kind, [y, x] if swapped else [x, y], shape)


def broadcast_partner(draft: Draft, x: str) -> tuple[str, Shape]:
    """Return a value or constant that broadcasts with x, and the shape of the result."""
    shape = draft.shapes[x]
    if draft.choose(True, False):
        fitting = [name for name, other in draft.shapes.items() if broadcasts(shape, other)]
        y = draft.choose(*fitting)
        return y, broadcast(shape, draft.shapes[y])
    sizes = [size if draft.choose(True, False) else 1 for size in shape][draft.number(0, len(shape)) :]
    return draft.factor(*sizes), shape


def broadcasts(x: Shape, y: Shape) -> bool:
    """Return whether samples of equal rank broadcast, so that the batch stays in front."""
    return len(x) == len(y) and all(a == b or 1 in (a, b) for a, b in zip(x, y, strict=True))


def broadcast(x: Shape, y: Shape) -> Shape:
    return x if not y else tuple(max(a, b) for a, b in zip(x, y, strict=True))


def choice(draft: Draft) -> None:
    x = draft.value()
    y, shape = broadcast_partner(draft, x)
    condition = draft.choose("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    if shape != draft.shapes[x] or condition not in READ or "Where" not in READ:
        raise UnfitError
    test = f"t{len(draft.nodes)}"
    draft.nodes.append(helper.make_node(condition, [x, y], [test], test))
    other = draft.add("Neg", [x], shape)
    draft.add("Where", [test, other, x], shape)


def gemm(draft: Draft) -> None:
    name, rows = draft.value(1), draft.number(2, 7)
    (columns,) = draft.shapes[name]
    scale = columns**-0.5
    inputs = [name, draft.weights(rows, columns, scale=scale), draft.weights(rows)]
    draft.add("Gemm", inputs, (rows,), transB=1, alpha=draft.choose(1.0, 0.5))


def product_with_constant(draft: Draft) -> None:
    name, rows = draft.value(1, 2, 3), draft.number(1, 6)
    shape = draft.shapes[name]
    weight = draft.factor(shape[-1], rows, scale=shape[-1] ** -0.5)
    draft.add("MatMul", [name, weight], (*shape[:-1], rows))


def product_of_values(draft: Draft) -> None:
    name = draft.value(2)
    rows, columns = draft.shapes[name]
    other = draft.add("Transpose", [draft.value_like((rows, columns))], (columns, rows), perm=[0, 2, 1])
    draft.add("MatMul", [name, other], (rows, rows))


def convolution(draft: Draft) -> None:
    name = draft.value(2, 3)
    channels, *sizes = draft.shapes[name]
    groups = draft.choose(1, channels) if channels > 1 else 1
    out = groups * draft.number(1, 2)
    kernel = [draft.number(1, min(3, size)) for size in sizes]
    strides, pads = [draft.number(1, 2) for _ in sizes], [draft.number(0, 1) for _ in (*sizes, *sizes)]
    found = windows(sizes, kernel, strides, pads)
    scale = (channels // groups * prod(kernel)) ** -0.5
    inputs = [name, draft.weights(out, channels // groups, *kernel, scale=scale), draft.weights(out)]
    draft.add("Conv", inputs, (out, *found), kernel_shape=kernel, strides=strides, pads=pads, group=groups)


def windows(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> Shape:
    rank = len(sizes)
    return tuple((sizes[i] + pads[i] + pads[i + rank] - kernel[i]) // strides[i] + 1 for i in range(rank))


def transposed_convolution(draft: Draft) -> None:
    name = draft.value(3)
    channels, *sizes = draft.shapes[name]
    kernel, strides, out = [2, 3], [2, 1], draft.number(1, 3)
    shape = tuple((size - 1) * s + k for size, s, k in zip(sizes, strides, kernel, strict=True))
    draft.add("ConvTranspose", [name, draft.weights(channels, out, *kernel, scale=0.4)], (out, *shape), strides=strides)


def pool(draft: Draft) -> None:
    kind, name = draft.choose("MaxPool", "AveragePool", "LpPool"), draft.value(2, 3)
    channels, *sizes = draft.shapes[name]
    kernel = [min(2, size) for size in sizes]
    strides, pads = [draft.number(1, 2) for _ in sizes], [0] * (2 * len(sizes))
    shape = (channels, *windows(sizes, kernel, strides, pads))
    draft.add(kind, [name], shape, kernel_shape=kernel, strides=strides)


def global_pool(draft: Draft) -> None:
    name = draft.value(2, 3)
    channels, *sizes = draft.shapes[name]
    draft.add(draft.choose("GlobalAveragePool", "GlobalMaxPool"), [name], (channels, *[1] * len(sizes)))


def batch_normalization(draft: Draft) -> None:
    name = draft.value(1, 2, 3)
    channels, *_ = draft.shapes[name]
    variance = draft.constant(draft.generator.uniform(0.5, 2.0, channels))
    inputs = [name, *(draft.weights(channels) for _ in range(3)), variance]
    draft.add("BatchNormalization", inputs, draft.shapes[name])


def normalization(draft: Draft) -> None:
    kind, name = (
        draft.choose("LayerNormalization", "InstanceNormalization", "LpNormalization", "LRN"),
        draft.value(2, 3),
    )
    shape = draft.shapes[name]
    if kind == "LayerNormalization" and draft.opset >= 17:
        draft.add(kind, [name, draft.weights(shape[-1]), draft.weights(shape[-1])], shape, axis=-1, epsilon=1e-2)
    elif kind == "InstanceNormalization":
        draft.add(kind, [name, draft.weights(shape[0]), draft.weights(shape[0])], shape, epsilon=1e-2)
    elif kind == "LpNormalization":
        draft.add(kind, [draft.positive(name)], shape, axis=len(shape), p=draft.choose(1, 2))
    elif kind == "LRN" and len(shape) == 3:
        draft.add(kind, [name], shape, size=3)
    else:
        raise UnfitError


def softmax(draft: Draft) -> None:
    name = draft.value(1, 2)
    shape = draft.shapes[name]
    draft.add(draft.choose("Softmax", "LogSoftmax"), [name], shape, axis=draft.axis(shape))


def reduction(draft: Draft) -> None:
    kind, name = draft.choose(*_REDUCTIONS), draft.value(1, 2, 3)
    shape, keep = draft.shapes[name], draft.choose(0, 1)
    axis = draft.axis(shape)
    name = draft.positive(name) if kind == "ReduceLogSum" else name
    inputs, attributes = draft.reduced_axes(axis, 13 if kind == "ReduceSum" else 18)
    rest = (*shape[: axis - 1], *([1] if keep else []), *shape[axis:])
    draft.add(kind, [name, *inputs], rest, keepdims=keep, **attributes)


def move(draft: Draft) -> None:
    kind, name = (
        draft.choose("Reshape", "Flatten", "Transpose", "Unsqueeze", "Squeeze", "Concat", "Slice"),
        draft.value(),
    )
    shape = draft.shapes[name]
    if kind == "Reshape":
        draft.add(kind, [name, draft.constant([0, -1], np.int64)], (prod(shape),))
    elif kind == "Flatten" and shape:
        draft.add(kind, [name], (prod(shape),), axis=1)
    elif kind == "Transpose" and len(shape) > 1:
        order = draft.draw(st.permutations(range(len(shape))))
        draft.add(kind, [name], tuple(shape[i] for i in order), perm=[0, *(i + 1 for i in order)])
    elif kind == "Unsqueeze":
        draft.add(kind, [name, draft.constant([1], np.int64)], (1, *shape))
    elif kind == "Squeeze" and shape[:1] == (1,):
        draft.add(kind, [name, draft.constant([1], np.int64)], shape[1:])
    elif kind == "Concat" and shape:
        draft.add(kind, [name, draft.value_like(shape)], (2 * shape[0], *shape[1:]), axis=1)
    elif kind == "Slice" and shape:
        start, step = draft.number(0, shape[0] - 1), draft.choose(1, 2)
        ends = [draft.constant([number], np.int64) for number in (start, 1000, 1, step)]
        draft.add(kind, [name, *ends], (len(range(start, shape[0], step)), *shape[1:]))
    else:
        raise UnfitError


def rearrangement(draft: Draft) -> None:
    kind, name = (
        draft.choose("Gather", "Pad", "Tile", "CumSum", "Expand", "DepthToSpace", "SpaceToDepth"),
        draft.value(),
    )
    shape = draft.shapes[name]
    if kind == "Gather" and shape:
        indices = draft.generator.integers(-shape[0], shape[0], 3)
        draft.add(kind, [name, draft.constant(indices, np.int64)], (3, *shape[1:]), axis=1)
    elif kind == "Pad" and shape:
        ends = [0, *[0] * (len(shape) - 1), 1, 0, *[0] * (len(shape) - 1), 2]
        draft.add(kind, [name, draft.constant(ends, np.int64), draft.constant(0.5)], (*shape[:-1], shape[-1] + 3))
    elif kind == "Tile" and shape:
        repeats = draft.constant([1, 2, *[1] * (len(shape) - 1)], np.int64)
        draft.add(kind, [name, repeats], (2 * shape[0], *shape[1:]))
    elif kind == "CumSum" and shape:
        draft.add(kind, [name, draft.constant(len(shape), np.int64)], shape, reverse=draft.choose(0, 1))
    elif kind == "Expand" and shape[:1] == (1,):
        sizes = draft.constant([1, 3, *shape[1:]], np.int64)
        draft.add(kind, [name, sizes], (3, *shape[1:]))
    elif kind == "DepthToSpace" and len(shape) == 3 and shape[0] % 4 == 0:
        draft.add(
            kind, [name], (shape[0] // 4, 2 * shape[1], 2 * shape[2]), blocksize=2, mode=draft.choose("DCR", "CRD")
        )
    elif kind == "SpaceToDepth" and len(shape) == 3 and shape[1] % 2 == shape[2] % 2 == 0:
        draft.add(kind, [name], (4 * shape[0], shape[1] // 2, shape[2] // 2), blocksize=2)
    else:
        raise UnfitError


STEPS_THERE_ARE: Final = (
    *(unary, unary, unary, binary, binary, gemm, gemm, product_with_constant, product_of_values, convolution),
    *(convolution, transposed_convolution, pool, global_pool, batch_normalization, normalization, softmax, reduction),
    *(move, move, rearrangement, choice, power, exponential, on_positive, formula),
)


@st.composite
def models(draw: Any) -> onnx.ModelProto:
    """Draw a network as an ONNX model."""
    draft = Draft(draw, draw(st.sampled_from(OPSETS)), np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    sizes = st.integers(1, 5)
    kinds = st.one_of(st.tuples(sizes), st.tuples(sizes, sizes), st.tuples(st.integers(1, 4), sizes, sizes))
    inputs = draw(st.lists(kinds, min_size=1, max_size=2))
    for number, shape in enumerate(inputs):
        draft.shapes[f"x{number}"] = shape
    names = list(draft.shapes)
    wanted = draw(st.integers(1, 14))
    for _ in range(3 * wanted):
        if len(draft.nodes) >= wanted:
            break
        try:
            draw(st.sampled_from(STEPS_THERE_ARE))(draft)
        except UnfitError:
            continue
    if not draft.nodes:
        draft.add("Identity", [names[0]], draft.shapes[names[0]])
    read = {name for node in draft.nodes for name in node.input}
    open_ends = [name for name in draft.shapes if name not in read and name not in names]
    outputs = open_ends[-2:]
    used = [name for name in names if name in read]
    return _model(draft, used, outputs)


def _model(draft: Draft, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        draft.nodes,
        "random",
        [declare(name, TensorProto.FLOAT, ["N", *draft.shapes[name]]) for name in inputs],
        [declare(name, TensorProto.FLOAT, None) for name in outputs],
        draft.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", draft.opset)], ir_version=8)


# ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────────
def faults(model: onnx.ModelProto, seed: int = 0, methods: Sequence[str] = ("ibp",)) -> Iterator[str]:
    """Yield what is wrong: a nominal value other than ONNX Runtime's, or a point of a box outside a method's bounds."""
    graph, _ = COMPILE.run(translate(model, "random").graph)
    session = runtime(model)
    generator = torch.Generator().manual_seed(seed)
    shapes = [graph.node(name).shape[1:] for name in graph.inputs]
    centers = [torch.rand(2, *shape, generator=generator) * 4 - 2 for shape in shapes]
    names = [value.name for value in model.graph.input]

    def run(points: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        feed = {name: point.numpy() for name, point in zip(names, points, strict=True)}
        return [torch.from_numpy(np.asarray(value)) for value in session.run(None, feed)]

    yield from nominal_faults(model, graph, centers, run(centers))
    radius = (0.0, 0.01, 0.3)[seed % 3]
    ends = [(x - radius, x + radius) for x in centers]
    folded, _ = EVALUATION.run(graph)
    bounds = bounds_by_method(graph, ends, methods)
    for points in tried_points(folded, ends, generator):
        value = torch.cat([output.reshape(2, -1) for output in run(points)], 1)
        for method, (low, high) in bounds.items():
            # A bound that is NaN claims nothing: an undefined output makes one of every row that it enters with 0.
            outside = (value < low) | (value > high)
            if outside.any():
                yield f"{method}: {int(outside.sum())} values outside their bounds at radius {radius}"
                return


def bounds_by_method(
    graph: Graph, ends: Sequence[tuple[torch.Tensor, torch.Tensor]], methods: Sequence[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the bounds (2, K) of all outputs, for every binary32 execution, by each method."""
    count = sum(prod(graph.node(name).shape[1:]) for name in graph.outputs)
    boxes = [Interval.bounds(low, high) for low, high in ends]
    found = {}
    for name in methods:
        with plain_products():
            box = METHODS[name].bounder(walk_of(graph), torch.eye(count), Arithmetic.FLOAT32)(*boxes)
        found[name] = (box.lower, box.upper)
    return found


def nominal_faults(
    model: onnx.ModelProto, graph: Graph, points: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
) -> Iterator[str]:
    if any(node.op_type in STEPS for node in model.graph.node):
        return
    with torch.no_grad():
        found = lower_nominal(graph, parameter_tree(graph))(*points)
    for number, (value, wanted) in enumerate(
        zip(found if isinstance(found, tuple) else (found,), expected, strict=True)
    ):
        finite = wanted.isfinite() & value.isfinite()
        scale = float(wanted[finite].abs().max()) if finite.any() else 0.0
        if value.shape != wanted.shape or ((value - wanted)[finite].abs() > 1e-3 * scale + 1e-4).any():
            yield f"output {number}: the nominal value differs from ONNX Runtime's"


def tried_points(
    graph: Graph, ends: Sequence[tuple[torch.Tensor, torch.Tensor]], generator: torch.Generator
) -> Iterator[list[torch.Tensor]]:
    """Yield points of the boxes: random ones, corners, and those that gradients of random sums of outputs point at."""
    for number in range(SAMPLES):
        shares = [torch.rand(low.shape, generator=generator) for low, _ in ends]
        yield [placed(low, high, s.round() if number % 2 else s) for (low, high), s in zip(ends, shares, strict=True)]
    nominal = lower_nominal(graph, parameter_tree(graph))
    for _ in range(3):
        points = [placed(low, high, torch.rand(low.shape, generator=generator)).requires_grad_() for low, high in ends]
        outputs = nominal(*points)
        listed = outputs if isinstance(outputs, tuple) else (outputs,)
        goal = sum((value * torch.randn(value.shape, generator=generator)).sum() for value in listed)
        if not torch.is_tensor(goal) or not goal.requires_grad:
            return
        slopes = torch.autograd.grad(goal, points, allow_unused=True)
        for sign in (1, -1):
            yield [
                placed(low, high, torch.zeros_like(low) if slope is None else (sign * slope > 0).float())
                for (low, high), slope in zip(ends, slopes, strict=True)
            ]


def placed(low: torch.Tensor, high: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return the point of the box at a share of each width."""
    return torch.minimum(torch.maximum(low + share * (high - low), low), high).detach()
