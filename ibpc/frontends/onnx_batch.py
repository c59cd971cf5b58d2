"""The batch: how an ONNX node that was written for one sample acts on a batch of samples.

A network is imported as the function f that its file computes at batch 1, mapped over the samples of a batch. A value
of that function, of ONNX shape s, has one of two forms in the IR:

- BATCHED: s = (1, …) and dimension 0 of the file's value is the batch: N×s[1:]. The node is imported as it stands.
- SAMPLE: the value is all one sample's: N×s, one dimension more than in the file. The node is imported after its axes,
  permutations and target shapes have been moved by one dimension: the lifts of this module.

Every value can take the form SAMPLE, and a reshape turns one form into the other, so files without a batch axis, files
that move or merge it, and files with it need no guess: BATCHED is only the shorter way to say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from string import ascii_letters
from typing import Final, TypeAlias

import onnx
import torch

from ibpc.errors import GraphError
from ibpc.ir import BATCH, VIEWS
from ibpc.ops._einsums import explicit
from ibpc.ops.onnx import Builder, OnnxNode, Value

Sizes: TypeAlias = tuple[int, ...]
Lift: TypeAlias = Callable[[OnnxNode, Builder, tuple[Sizes, ...]], OnnxNode]


class Form(Enum):
    """What dimension 0 of an ONNX value is: the batch, or a dimension of one sample."""

    BATCHED = "batched"
    SAMPLE = "sample"

    def shape(self, sizes: Sizes) -> Sizes:
        """Return the IR shape of a value whose ONNX shape at batch 1 is `sizes`."""
        return (BATCH, *(sizes[1:] if self is Form.BATCHED else sizes))

    def admits(self, sizes: Sizes) -> bool:
        """Return whether a value of this ONNX shape can have the form."""
        return self is Form.SAMPLE or sizes[:1] == (1,)


def preferred_form(sizes: Sizes) -> Form:
    """Return the form in which an input enters and an output leaves: BATCHED for 1×…, SAMPLE for the rest."""
    return Form.BATCHED if len(sizes) >= 2 and sizes[0] == 1 else Form.SAMPLE


def reshaping(node: OnnxNode, builder: Builder, sizes: Sizes) -> OnnxNode:
    """Return the ONNX Reshape of the node's first input to N×`sizes`."""
    target = builder.constant(torch.tensor([0, *sizes]))
    return replace(
        node, type="Reshape", version=14, attributes={"allowzero": 0}, inputs=(node.operand(0), target), outputs=1
    )


# ── the lifts: node of one sample → node of a batch. Operands are N×s; `outputs` are the ONNX shapes of the results ─
def _same(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Elementwise in one operand: nothing to do."""
    return node


def _aligned(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Broadcasting counts dimensions from the end: give all operands that depend on an input the largest rank."""
    rank = max(_rank(value) for value in node.inputs if value is not None)
    return replace(node, inputs=tuple(value and _with_rank(value, rank, builder) for value in node.inputs))


def _rank(value: Value) -> int:
    return len(value.shape) - (value.constant is None)


def _with_rank(value: Value, rank: int, builder: Builder) -> Value:
    if value.constant is not None or _rank(value) == rank:
        return value
    ones = [1] * (rank - _rank(value))
    return builder.add("Reshape", [value], {"shape": [*ones, *value.shape[1:]]})


def _moved(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def _axis(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Move the attribute `axis` if there is one: a Compress without it flattens, DequantizeLinear-10 has one scale."""
    axis = node.attributes.get("axis")
    return node if axis is None else replace(node, attributes={**node.attributes, "axis": _moved(int(axis))})


def _axes(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Move the axes of a reduction: attribute or input 1 by version; left out, they are all axes of the sample."""
    given = node.attributes.get("axes") or (node.known(1).tolist() if node.optional(1) is not None else [])
    if node.attributes.get("noop_with_empty_axes", 0) and not given:
        return node
    axes = [_moved(int(axis)) for axis in given] or list(range(1, len(node.operand(0).shape)))
    if "axes" in onnx.defs.get_schema(node.type, node.version).attributes:
        return replace(node, attributes={**node.attributes, "axes": axes})
    return _with_input(node, 1, builder.constant(torch.tensor(axes)))


def _with_input(node: OnnxNode, slot: int, value: Value) -> OnnxNode:
    inputs = list(node.inputs) + [None] * (slot + 1 - len(node.inputs))
    inputs[slot] = value
    return replace(node, inputs=tuple(inputs))


def _permutation(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Transpose: the batch stays in front."""
    rank = len(node.operand(0).shape) - 1
    given = node.attributes.get("perm") or list(reversed(range(rank)))
    return replace(node, attributes={**node.attributes, "perm": [0, *(int(axis) + 1 for axis in given)]})


def _slices(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Slice: move the axes, an attribute or input 3 by version; left out, they are the first ones."""
    if node.version < 10:
        axes = node.attributes.get("axes") or range(len(node.attributes["starts"]))
        return replace(node, attributes={**node.attributes, "axes": [_moved(int(axis)) for axis in axes]})
    axes = range(node.known(1).numel()) if node.optional(3) is None else node.known(3).tolist()
    return _with_input(node, 3, builder.constant(torch.tensor([_moved(int(axis)) for axis in axes])))


def _pads(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Pad: nothing before or after the batch."""
    if node.optional(3) is not None:
        return _with_input(node, 3, builder.constant(torch.tensor([_moved(int(axis)) for axis in node.known(3)])))
    given = list(node.attributes["pads"]) if node.version < 11 else node.known(1).tolist()
    half = len(given) // 2
    pads = [0, *given[:half], 0, *given[half:]]
    if node.version < 11:
        return replace(node, attributes={**node.attributes, "pads": pads})
    return _with_input(node, 1, builder.constant(torch.tensor(pads)))


def _expansion(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Expand to the shape of the result; size 1 leaves the batch as it is."""
    x = _with_rank(node.operand(0), len(outputs[0]), builder)
    return replace(node, inputs=(x, builder.constant(torch.tensor([1, *outputs[0]]))))


def _repeats(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Tile the sample, not the batch."""
    return _with_input(node, 1, builder.constant(torch.tensor([1, *node.known(1).tolist()])))


def _indexed(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Constants get a dimension of size 1 in front, as every sample has; the axis and the batch dimensions move."""
    inputs = tuple(
        value if value is None or value.constant is None else builder.constant(value.constant.unsqueeze(0))
        for value in node.inputs
    )
    counted = {"batch_dims": int(node.attributes.get("batch_dims", 0)) + 1} if node.type == "GatherND" else {}
    return _axis(replace(node, attributes={**node.attributes, **counted}, inputs=inputs), builder, outputs)


def _tuples(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """ScatterND: constants get a dimension in front, and each tuple of indices begins with 0, the only one there."""
    indices = node.known(1)
    first = torch.zeros_like(indices[..., :1])
    full = builder.constant(torch.cat([first, indices], -1))
    return _indexed(_with_input(node, 1, full), builder, outputs)


def _sequences(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """ReverseSequence: move both axes, whose defaults are 0 for the time and 1 for the sequences."""
    moved = {name: int(node.attributes.get(name, default)) + 1 for name, default in _SEQUENCE_AXES.items()}
    return replace(node, attributes={**node.attributes, **moved})


def _cumulation(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """CumSum: move the axis, which is input 1."""
    return _with_input(node, 1, builder.constant(torch.tensor(_moved(int(node.known(1).item())))))


def _resizing(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Resize and Upsample: the axes move, or scales, sizes and region get an entry for the batch."""
    if node.attributes.get("axes"):
        return _moved_axes(node)
    if node.attributes.get("scales"):
        return replace(node, attributes={**node.attributes, "scales": [1.0, *node.attributes["scales"]]})
    for slot in range(1, len(node.inputs)):
        if node.optional(slot) is None or node.known(slot).numel() == 0:
            continue
        value = node.known(slot)
        one = torch.ones(1, dtype=value.dtype)
        is_region = slot == 1 and node.version >= 11
        parts = (0 * one, *value.chunk(2)[:1], one, *value.chunk(2)[1:]) if is_region else (one, value)
        node = _with_input(node, slot, builder.constant(torch.cat(parts)))
    return node


def _moved_axes(node: OnnxNode) -> OnnxNode:
    return replace(node, attributes={**node.attributes, "axes": [_moved(int(a)) for a in node.attributes["axes"]]})


def _equation(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Einsum: a label for the batch, first in the result and in what depends on an input."""
    terms, result = explicit(str(node.attributes["equation"]))
    batch = next(letter for letter in ascii_letters if letter not in "".join((*terms, result)))
    moved = [
        term if value is None or value.constant is not None else batch + term
        for term, value in zip(terms, node.inputs, strict=True)
    ]
    equation = ",".join(moved) + "->" + batch + result
    return replace(node, attributes={**node.attributes, "equation": equation})


def _product(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """MatMul: vectors become matrices of one row or column where numpy's rule would take the batch for one."""
    x, y = node.operand(0), node.operand(1)
    if not _is_vector(x) and not _is_vector(y):
        return _aligned(node, builder, outputs)
    if y.constant is not None and y.constant.dim() <= 2:
        return node
    if x.constant is not None and x.constant.dim() <= 2:
        turned = x.constant if x.constant.dim() == 1 else x.constant.T.contiguous()
        return replace(node, inputs=(y, builder.constant(turned)))
    row = builder.add("Reshape", [x], {"shape": [1, *x.shape[1:]]}) if _is_vector(x) else x
    column = builder.add("Reshape", [y], {"shape": [*y.shape[1:], 1]}) if _is_vector(y) else y
    rank = max(_rank(row), _rank(column))
    product = builder.add("MatMul", [_with_rank(row, rank, builder), _with_rank(column, rank, builder)])
    return reshaping(replace(node, inputs=(product,)), builder, outputs[0])


def _is_vector(value: Value) -> bool:
    return value.constant is None and _rank(value) == 1


def _affine(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Gemm: a transposed operand is transposed first, a column added to all columns is written out."""
    x, addend = node.operand(0), node.optional(2)
    if x.constant is not None:
        raise GraphError.at(f"node {node.name}", "input 0 of Gemm is constant", "a constant input 1")
    attributes = {**node.attributes, "transA": 0}
    if node.attributes.get("transA", 0):
        x = builder.add("Transpose", [x], {"perm": [0, 2, 1]})
    if addend is not None and addend.constant is not None and addend.constant.dim() == 2:
        addend = builder.constant(addend.constant.expand(outputs[0]).contiguous())
    elif addend is not None:
        addend = _with_rank(addend, 2, builder)
    inputs = (x, node.operand(1)) if addend is None else (x, node.operand(1), addend)
    return replace(node, attributes=attributes, inputs=inputs)


def _target(node: OnnxNode, builder: Builder, outputs: tuple[Sizes, ...]) -> OnnxNode:
    """Whatever keeps the elements in order is a Reshape to the shape of the result."""
    return reshaping(node, builder, outputs[0])


_SEQUENCE_AXES: Final = {"time_axis": 0, "batch_axis": 1}

_TABLE: Final[Mapping[Lift, Sequence[str]]] = {
    _same: (
        *("DepthToSpace", "SpaceToDepth", "Trilu"),
        *("Abs", "Asinh", "Atan", "Atanh", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout"),
        *("DynamicQuantizeLinear", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
        *("IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
        *("Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
    ),
    _aligned: (
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min"),
        *("Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
    ),
    _axis: (
        *("ArgMax", "ArgMin", "Compress", "DequantizeLinear", "Gather", "LayerNormalization", "LogSoftmax"),
        *("LpNormalization", "OneHot", "QuantizeLinear", "RMSNormalization", "Softmax", "Split", "TopK"),
    ),
    _axes: (
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
    ),
    _permutation: ("Transpose",),
    _slices: ("Slice",),
    _pads: ("Pad",),
    _expansion: ("Expand",),
    _repeats: ("Tile",),
    _indexed: ("Concat", "GatherElements", "GatherND", "ScatterElements"),
    _tuples: ("ScatterND",),
    _sequences: ("ReverseSequence",),
    _cumulation: ("CumSum",),
    _resizing: ("Resize", "Upsample"),
    _equation: ("Einsum",),
    _product: ("MatMul",),
    _affine: ("Gemm",),
    _target: VIEWS,
}

LIFTS: Final[Mapping[str, Lift]] = {name: lift for lift, names in _TABLE.items() for name in names}
