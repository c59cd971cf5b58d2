"""A lifted node computes for a batch what the node computes for each sample, by the ONNX reference evaluator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ibpc.frontends.onnx_batch import LIFTS
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops.onnx import OnnxNode
from tests.onnx_models import normal


@dataclass(frozen=True)
class Known:
    """A value with its array, of which dimension 0 is the batch unless it is constant."""

    array: np.ndarray
    is_constant: bool = False

    @property
    def constant(self):
        return torch.from_numpy(self.array.copy()) if self.is_constant else None

    @property
    def shape(self):
        return self.array.shape if self.is_constant else (BATCH, *self.array.shape[1:])


class NumpyBuilder:
    """Computes the nodes that lifts add."""

    def constant(self, value):
        return Known(value.numpy(), is_constant=True)

    def add(self, operator, operands, attributes=None):
        arrays, attributes = [operand.array for operand in operands], attributes or {}
        if operator == "Reshape":
            return Known(arrays[0].reshape(len(arrays[0]), *attributes["shape"]))
        if operator == "Transpose":
            return Known(arrays[0].transpose(attributes["perm"]))
        assert operator == "MatMul"
        return Known(arrays[0] @ arrays[1])


def c(*values):
    return np.array(values, dtype=np.int64)


X23, X243, V3 = normal(3, 2, 3), normal(3, 2, 4, 3), normal(3, 3)

# type, opset, attributes, inputs (a tuple (array,) depends on the input: a batch of three samples)
ROWS = [
    ("Relu", 17, {}, [(X23,)]),
    ("Clip", 17, {}, [(X23,), None, np.float32(0.5)]),
    ("Cast", 17, {"to": 1}, [(X23,)]),
    ("Add", 17, {}, [(X23,), normal(4, 2, 3)]),
    ("Mul", 17, {}, [normal(2, 1, 1, 3), (X23,)]),
    ("Sub", 17, {}, [(V3,), (X243,)]),
    ("Pow", 17, {}, [(X23,), np.float32(2)]),
    ("Max", 17, {}, [(X23,), (V3,), normal(4, 1, 3)]),
    ("Where", 17, {}, [np.array([True, False, True]), (X23,), (V3,)]),
    ("PRelu", 17, {}, [(X243,), normal(4, 1)]),
    ("Softmax", 17, {"axis": 0}, [(X23,)]),
    ("Softmax", 17, {"axis": -1}, [(X23,)]),
    ("Softmax", 11, {"axis": 1}, [(X243,)]),
    ("LogSoftmax", 17, {"axis": 1}, [(X23,)]),
    ("ArgMax", 17, {"axis": 0, "keepdims": 0}, [(X23,)]),
    ("LpNormalization", 17, {"axis": 0, "p": 1}, [(X23,)]),
    ("OneHot", 17, {"axis": 0}, [(np.float32([[0, 1], [2, 2], [1, 0]]),), np.array(3), np.float32([0, 1])]),
    ("OneHot", 17, {}, [(np.float32([[0, 1], [2, 2], [1, 0]]),), np.array(3), np.float32([2, -1])]),
    ("QuantizeLinear", 17, {"axis": 0}, [(X23,), np.float32([0.5, 0.25]), np.uint8([3, 100])]),
    ("QuantizeLinear", 10, {}, [(X23,), np.float32(0.5), np.uint8(3)]),
    ("LayerNormalization", 17, {"axis": 1}, [(X243,), normal(4, 3), normal(4, 3)]),
    ("Gather", 17, {"axis": 0}, [(X23,), c(1, 0, 1)]),
    ("Gather", 17, {"axis": -1}, [(X23,), np.array(2)]),
    ("Split", 17, {"axis": 0, "outputs": 2}, [(X23,), c(1, 1)]),
    ("ReduceSum", 17, {"keepdims": 0}, [(X23,), c(0)]),
    ("ReduceSum", 17, {"keepdims": 1}, [(X243,), c(-1, 0)]),
    ("ReduceSum", 17, {"keepdims": 0}, [(X23,)]),
    ("ReduceSum", 17, {"noop_with_empty_axes": 1}, [(X23,)]),
    ("ReduceSum", 11, {"axes": [1], "keepdims": 0}, [(X23,)]),
    ("ReduceMean", 17, {"axes": [0, 1], "keepdims": 0}, [(X243,)]),
    ("ReduceMean", 17, {}, [(X243,)]),
    ("ReduceMean", 18, {"keepdims": 0}, [(X243,), c(2)]),
    ("ReduceMax", 18, {"keepdims": 0}, [(X243,)]),
    ("ReduceL2", 13, {"axes": [-2]}, [(X243,)]),
    ("Transpose", 17, {}, [(X243,)]),
    ("Transpose", 17, {"perm": [1, 0, 2]}, [(X243,)]),
    ("Concat", 17, {"axis": 0}, [(X23,), normal(4, 3), (X23,)]),
    ("Concat", 17, {"axis": -1}, [normal(2, 1), (X23,)]),
    ("Slice", 17, {}, [(X23,), c(1), c(2)]),
    ("Slice", 17, {}, [(X243,), c(0, 3), c(1, 0), c(0, 1), c(1, -1)]),
    ("Slice", 17, {}, [(X243,), c(0), c(2), c(-1)]),
    ("Slice", 9, {"starts": [1], "ends": [2]}, [(X23,)]),
    ("Slice", 9, {"starts": [1], "ends": [2], "axes": [1]}, [(X23,)]),
    ("Pad", 17, {}, [(X23,), c(1, 0, 2, 1), np.float32(3)]),
    ("Pad", 17, {"mode": "reflect"}, [(X23,), c(1, 0, 0, 2)]),
    ("Pad", 18, {}, [(X23,), c(2, 1), np.float32(3), c(0)]),
    ("Pad", 18, {}, [(X23,), c(2, 1), None, c(-1)]),
    ("Expand", 17, {}, [(X23,), c(4, 2, 3)]),
    ("Expand", 17, {}, [(X23,), c(3)]),
    ("Tile", 17, {}, [(X23,), c(2, 3)]),
    ("GatherElements", 17, {"axis": 0}, [(X23,), c([1, 0, 1])]),
    ("GatherElements", 17, {"axis": 1}, [(X23,), c([2, -1], [0, 1])]),
    ("GatherND", 17, {}, [(X243,), c([1, 0], [0, 3])]),
    ("GatherND", 17, {"batch_dims": 1}, [(X243,), c([2], [-1])]),
    ("ScatterElements", 17, {"axis": 1}, [(X23,), c([2], [0]), normal(2, 1)]),
    ("ScatterElements", 17, {"axis": 0, "reduction": "add"}, [(X23,), c([1, 0, 1]), (normal(3, 1, 3),)]),
    ("ScatterND", 17, {}, [(X23,), c([1], [0]), (normal(3, 2, 3, seed=1),)]),
    ("ScatterND", 17, {"reduction": "mul"}, [(X23,), c([1, 2]), normal(1)]),
    ("Compress", 17, {"axis": 0}, [(X243,), np.array([False, True])]),
    ("ReverseSequence", 17, {"time_axis": 1, "batch_axis": 0}, [(X243,), c(3, 2)]),
    ("CumSum", 17, {}, [(X243,), np.array(0)]),
    ("CumSum", 17, {"exclusive": 1}, [(X243,), np.array(-1)]),
    ("Trilu", 17, {}, [(X243,)]),
    ("Resize", 17, {}, [(X243,), None, np.float32([1, 2, 1])]),
    ("Resize", 18, {"axes": [1]}, [(X243,), None, None, c(2)]),
    ("Einsum", 17, {"equation": "abc,cd->dab"}, [(X243,), normal(3, 2)]),
    ("Einsum", 17, {"equation": "b,a"}, [(V3,), (X23[:, 0],)]),
    ("Gemm", 17, {"alpha": 2.0, "transB": 1}, [(X23,), normal(4, 3)]),
    ("Gemm", 17, {"transA": 1, "beta": 3.0}, [(X23,), normal(2, 3), normal(3, 1)]),
    ("Gemm", 17, {}, [(X23,), normal(3, 4), normal(2, 4)]),
    ("Gemm", 17, {}, [(X23,), normal(3, 3), (V3,)]),
    ("MatMul", 17, {}, [(X23,), normal(3, 4)]),
    ("MatMul", 17, {}, [normal(4, 2), (X23,)]),
    ("MatMul", 17, {}, [(X23,), normal(5, 3, 4)]),
    ("MatMul", 17, {}, [(X23,), normal(3)]),
    ("MatMul", 17, {}, [normal(2), (X23,)]),
    ("MatMul", 17, {}, [(V3,), normal(3, 4)]),
    ("MatMul", 17, {}, [(V3,), normal(3)]),
    ("MatMul", 17, {}, [normal(3), (V3,)]),
    ("MatMul", 17, {}, [normal(4, 3), (V3,)]),
    ("MatMul", 17, {}, [(V3,), normal(5, 3, 4)]),
    ("MatMul", 17, {}, [normal(5, 4, 3), (V3,)]),
    ("MatMul", 17, {}, [(X23,), (V3,)]),
    ("MatMul", 17, {}, [(V3,), (V3,)]),
    ("MatMul", 17, {}, [(V3,), (normal(3, 5, 3, 2),)]),
    ("MatMul", 17, {}, [(X23,), (normal(3, 5, 3, 2),)]),
    ("Flatten", 17, {"axis": 0}, [(X243,)]),
    ("Flatten", 17, {"axis": 2}, [(X243,)]),
    ("Reshape", 17, {}, [(X243,), c(0, -1)]),
    ("Squeeze", 17, {}, [(normal(3, 1, 2, 1),)]),
    ("Squeeze", 11, {"axes": [0]}, [(normal(3, 1, 2, 1),)]),
    ("Unsqueeze", 17, {}, [(X23,), c(0, -1)]),
]

INDEXED = ("GatherElements", "GatherND", "ScatterElements", "ScatterND")


def named(row):
    return f"{row[0]}-{row[1]}-{row[2]}-{[np.shape(i[0]) if isinstance(i, tuple) else np.shape(i) for i in row[3]]}"


def evaluate(kind, opset, attributes, arrays):
    attributes = dict(attributes)
    outputs = [f"y{slot}" for slot in range(attributes.pop("outputs", 1))]
    names = [f"i{slot}" if array is not None else "" for slot, array in enumerate(arrays)]
    node = helper.make_node(kind, names, outputs, **attributes)
    graph = helper.make_graph(
        [node], "g", [onnx.ValueInfoProto(name=n) for n in names if n], [onnx.ValueInfoProto(name=n) for n in outputs]
    )
    feed = {name: array for name, array in zip(names, arrays, strict=True) if name}
    return ReferenceEvaluator(graph, {"": opset}).run(None, feed)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_lifted_nodes_map_over_the_samples(row):
    kind, opset, attributes, inputs = row
    each = [
        evaluate(kind, opset, attributes, [i[0][index] if isinstance(i, tuple) else i for i in inputs])
        for index in range(3)
    ]
    expected = [np.stack(results) for results in zip(*each, strict=True)]
    lifted = LIFTS[kind](onnx_node(row), NumpyBuilder(), tuple(result.shape[1:] for result in expected))
    arrays = [None if value is None else value.array for value in lifted.inputs]
    if kind == "Concat":  # the operator repeats a constant of one sample over the batch
        arrays = [np.repeat(array, 3 // len(array), axis=0) for array in arrays]
    if kind in INDEXED:  # so do these, whose constants are those of one sample
        arrays = [np.repeat(array, 3 // len(array), axis=0) for array in arrays]
    if kind == "ScatterND":
        arrays[1][..., 0] += np.arange(3).reshape(-1, *[1] * (arrays[1].ndim - 2))
    if kind == "Gemm":  # the operator takes stacks of rows, ONNX only matrices
        found = [gemm(lifted.attributes, *arrays)]
    else:
        found = evaluate(lifted.type, max(opset, lifted.version), lifted.attributes, arrays)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def gemm(attributes, x, weight, addend=0.0):
    assert not attributes["transA"]
    return attributes["alpha"] * x @ (weight.T if attributes["transB"] else weight) + attributes["beta"] * addend


def onnx_node(row):
    kind, opset, attributes, inputs = row
    schema = onnx.defs.get_schema(kind, opset)
    defaults = {
        name: helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }
    values = tuple(
        None if i is None else Known(i[0]) if isinstance(i, tuple) else Known(np.asarray(i), is_constant=True)
        for i in inputs
    )
    return OnnxNode("n", kind, schema.since_version, {**defaults, **attributes}, values)


# What ONNX defines for a batch in dimension 0 only.
BATCHED_ONLY = {
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalLpPool"),
    *("GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool"),
}


def test_every_type_that_is_read_is_lifted_to_a_batch_or_has_one():
    read = {reading.type for operator in operators().values() for reading in operator.reads}
    assert set(LIFTS) <= read
    assert read - set(LIFTS) == BATCHED_ONLY


def test_every_lift_has_rows():
    assert {LIFTS[row[0]] for row in ROWS} == set(LIFTS.values())
