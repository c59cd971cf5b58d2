"""ONNX files with booleans, integers, indices and quantization: import, export, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.errors import ModelError
from ibpc.exports import nominal_model
from ibpc.frontends.onnx import graph_from_onnx, import_model
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.rounding import Arithmetic
from tests.onnx_models import expect_same_function, model, normal, runtime

node = helper.make_node
FLOAT, INT64, INT32, BOOL, FLOAT16 = (
    getattr(TensorProto, name) for name in ("FLOAT", "INT64", "INT32", "BOOL", "FLOAT16")
)


def comparison(kind):
    return [node(kind, ["x", "c"], ["b"]), node("Cast", ["b"], ["y"], to=FLOAT)]


def logic(kind):
    return [
        node("Greater", ["x", "c"], ["a"]),
        node("Less", ["x", "d"], ["b"]),
        node(kind, ["a", "b"], ["e"]),
        node("Not", ["e"], ["f"]),
        node("Cast", ["f"], ["y"], to=FLOAT),
    ]


def quantized(**attributes):
    return [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]


C, D = np.float32([0.1, -0.2, 0.0]), np.float32([0.5, 0.4, 0.3])
SCALES = {"s": np.float32([0.01, 0.02, 0.005]), "z": np.uint8([0, 100, 200])}
WHOLE = {"s": np.float32(0.02), "z": np.int8(-5)}

AS_FLOAT = node("Cast", ["i"], ["y"], to=FLOAT)

# name, input shape, constants, opset, nodes
FILES = [
    *(
        (f"{kind} in opset {opset}", (1, 2, 3), {"c": C}, opset, comparison(kind))
        for kind in ("Greater", "Less")
        for opset in (7, 9, 13, 18)
    ),
    *((kind, (1, 2, 3), {"c": C}, 16, comparison(kind)) for kind in ("GreaterOrEqual", "LessOrEqual", "Equal")),
    *((kind, (1, 2, 3), {"c": C, "d": D}, 13, logic(kind)) for kind in ("And", "Or", "Xor")),
    ("comparison without a batch", (2, 3), {"c": C}, 13, comparison("Greater")),
    (
        "selection by a constant",
        (1, 2, 3),
        {"m": np.array([True, False, True]), "c": C},
        16,
        [node("Where", ["m", "x", "c"], ["y"])],
    ),
    (
        "selection by a comparison",
        (1, 2, 3),
        {"c": C},
        9,
        [node("Greater", ["x", "c"], ["b"]), node("Neg", ["x"], ["n"]), node("Where", ["b", "x", "n"], ["y"])],
    ),
    (
        "numbers compared as integers",
        (1, 4),
        {"two": np.int64(1), "s": np.float32(3)},
        13,
        [
            node("Mul", ["x", "s"], ["h"]),
            node("Cast", ["h"], ["i"], to=INT64),
            node("Cast", ["i"], ["j"], to=INT32),
            node("Cast", ["j"], ["k"], to=INT64),
            node("Add", ["k", "two"], ["n"]),
            node("Equal", ["n", "two"], ["b"]),
            node("Cast", ["b"], ["y"], to=FLOAT),
        ],
    ),
    (
        "cast to the type of another value",
        (1, 4),
        {"like": np.int32([1]), "s": np.float32(3)},
        19,
        [node("Mul", ["x", "s"], ["h"]), node("CastLike", ["h", "like"], ["i"]), node("CastLike", ["i", "x"], ["y"])],
    ),
    ("indices", (1, 2, 5), {}, 13, [node("ArgMax", ["x"], ["i"], axis=2, keepdims=0), AS_FLOAT]),
    ("last index", (1, 2, 5), {}, 12, [node("ArgMin", ["x"], ["i"], axis=-1, select_last_index=1), AS_FLOAT]),
    ("indices over the first dimension", (4, 3), {}, 13, [node("ArgMax", ["x"], ["i"], axis=0, keepdims=0), AS_FLOAT]),
    (
        "segmentation: one-hot masks of the greatest channel",
        (1, 3, 2, 2),
        {"depth": np.int64([3]), "values": np.int64([0, 1])},
        11,
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
            node("OneHot", ["i", "depth", "values"], ["o"], axis=-1),
            node("Transpose", ["o"], ["t"], perm=[0, 3, 1, 2]),
            node("Cast", ["t"], ["y"], to=FLOAT),
        ],
    ),
    *(
        (
            f"{kind} in opset {opset}",
            (1, 2, 3),
            {"s": np.float32(4)},
            opset,
            [node("Mul", ["x", "s"], ["h"]), node(kind, ["h"], ["y"])],
        )
        for kind, opsets in (("Floor", (7, 13)), ("Ceil", (7, 13)), ("Round", (11, 18)), ("Sign", (9, 13)))
        for opset in opsets
    ),
    (
        "remainder of integers",
        (1, 4),
        {"five": np.int64(-5), "s": np.float32(20)},
        13,
        [
            node("Mul", ["x", "s"], ["h"]),
            node("Cast", ["h"], ["a"], to=INT64),
            node("Mod", ["a", "five"], ["i"]),
            AS_FLOAT,
        ],
    ),
    ("remainder", (1, 4), {"c": np.float32(0.3)}, 10, [node("Mod", ["x", "c"], ["y"], fmod=1)]),
    (
        "what is no number",
        (1, 4),
        {"c": np.float32(2)},
        13,
        [
            node("IsNaN", ["x"], ["a"]),
            node("IsInf", ["x"], ["b"]),
            node("Or", ["a", "b"], ["d"]),
            node("Where", ["d", "c", "x"], ["y"]),
        ],
    ),
    ("greatest elements", (1, 2, 5), {"k": np.int64([3])}, 11, [node("TopK", ["x", "k"], ["y", "i"])]),
    (
        "least element and its index",
        (1, 2, 5),
        {"k": np.int64([1])},
        11,
        [
            node("TopK", ["x", "k"], ["v", "i"], axis=2, largest=0),
            node("Cast", ["i"], ["j"], to=FLOAT),
            node("Add", ["v", "j"], ["y"]),
        ],
    ),
    (
        "greatest elements without a batch",
        (5, 2),
        {"k": np.int64([2])},
        10,
        [node("TopK", ["x", "k"], ["y", "i"], axis=0)],
    ),
    ("quantization of a tensor", (1, 3, 2), WHOLE, 10, quantized()),
    ("quantization of a tensor", (1, 3, 2), WHOLE, 21, quantized()),
    ("quantization per channel", (1, 3, 2), SCALES, 13, quantized(axis=1)),
    ("quantization per channel from the end", (1, 2, 3), SCALES, 19, quantized(axis=-1)),
    ("quantization per channel without a batch", (3, 2), SCALES, 13, quantized(axis=0)),
    (
        "quantized weights",
        (1, 3),
        {"w": np.int8([[1, -2], [3, 4], [-5, 6]]), "ws": np.float32(0.1), "wz": np.int8(0)},
        13,
        [node("DequantizeLinear", ["w", "ws", "wz"], ["f"]), node("MatMul", ["x", "f"], ["y"])],
    ),
]


def named(row):
    return f"{row[0]}-{row[3]}"


def file_of(row):
    _, shape, constants, opset, nodes = row
    return model(nodes, {"x": shape}, constants=constants, opset=opset)


@pytest.mark.parametrize("row", FILES, ids=named)
def test_imports_compute_what_the_file_computes(row):
    proto = file_of(row)
    expect_same_function(proto, graph_from_onnx(proto, "test"))


@pytest.mark.parametrize("row", FILES, ids=named)
def test_exports_compute_what_the_network_computes(row):
    graph = graph_from_onnx(file_of(row), "test")
    exported = nominal_model(graph)
    session = runtime(exported)
    x = normal(3, *graph.node(graph.inputs[0]).shape[1:])
    (found,) = session.run(None, {graph.inputs[0]: x})
    with torch.no_grad():
        expected = Network(graph).nominal(torch.from_numpy(x)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    again = graph_from_onnx(exported, "again")
    with torch.no_grad():
        np.testing.assert_allclose(Network(again).nominal(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", FILES, ids=named)
def test_boxes_contain_what_onnx_runtime_computes(row):
    proto = file_of(row)
    session = runtime(proto)
    network = Network(graph_from_onnx(proto, "test"))
    center = torch.from_numpy(normal(1, *network.graph.node(network.graph.inputs[0]).shape[1:]))
    for radius in (0.0, 0.05, 0.5):
        box = network.interval(Interval.ball(center, radius))
        for seed in range(40):
            share = torch.rand(center.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
            x = center + radius * (share if seed % 2 else share.sign())
            (value,) = session.run(None, {"x": x.reshape(row[1]).numpy()})
            value = torch.from_numpy(np.asarray(value, dtype=np.float32)).reshape(box.lower.shape)
            slack = 1e-4 * (1 + value.abs())
            assert ((box.lower - slack <= value) & (value <= box.upper + slack)).all()


@pytest.mark.parametrize("method", ["crown-ibp", "crown", "alpha-crown"])
def test_linear_bounds_hold_of_constants_with_a_dimension_for_the_batch(method):
    """In a file of batch 1 a constant of the shape of a value has the batch in it, and is no sample's."""
    nodes = [
        node("Greater", ["x", "zero"], ["positive"]),
        node("Where", ["positive", "k", "x"], ["h"]),
        node("Max", ["h", "m"], ["g"]),
        node("MatMul", ["g", "w"], ["y"]),
    ]
    constants = {"zero": np.float32(0), "k": normal(1, 3, seed=1), "m": normal(1, 3, seed=2), "w": normal(3, 2)}
    proto = model(nodes, {"x": (1, 3)}, constants=constants, opset=13)
    network = Network(graph_from_onnx(proto, "test"))
    session = runtime(proto)
    center = torch.from_numpy(normal(2, 3, seed=5))
    bound = METHODS[method].bounder(walk_of(network.snapshot()), torch.eye(2), Arithmetic.FLOAT32)
    box = bound(Interval.ball(center, 0.5))
    for seed in range(40):
        x = center + 0.5 * (torch.rand(center.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1)
        found = torch.from_numpy(np.concatenate([session.run(None, {"x": row[None].numpy()})[0] for row in x]))
        assert ((box.lower <= found) & (found <= box.upper)).all()


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────
REFUSED = [
    ("rounding to 16 bits", {}, 13, [node("Cast", ["x"], ["h"], to=FLOAT16), node("Cast", ["h"], ["y"], to=FLOAT)]),
    ("a scale below zero", {"s": np.float32(-0.1), "z": np.int8(0)}, 13, quantized()),
    (
        "a depth that depends on the input",
        {"v": np.float32([0, 1])},
        13,
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
            node("ReduceSum", ["x"], ["d"], keepdims=0),
            node("OneHot", ["i", "d", "v"], ["y"]),
        ],
    ),
    (
        "a scale that depends on the input",
        {},
        13,
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
    ),
    (
        "sums of bytes, which wrap round",
        {"s": np.float32(0.1), "z": np.uint8(0)},
        14,
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("Add", ["q", "q"], ["a"]),
            node("DequantizeLinear", ["a", "s", "z"], ["y"]),
        ],
    ),
    (
        "the indices of several elements",
        {"k": np.int64([2])},
        11,
        [node("TopK", ["x", "k"], ["v", "i"]), node("Cast", ["i"], ["y"], to=FLOAT)],
    ),
    (
        "division of integers",
        {"two": np.int64(2)},
        14,
        [
            node("Cast", ["x"], ["i"], to=INT64),
            node("Div", ["i", "two"], ["j"]),
            node("Cast", ["j"], ["y"], to=FLOAT),
        ],
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_what_is_not_computed_is_refused(row):
    _, constants, opset, nodes = row
    with pytest.raises(ModelError, match="node"):
        graph_from_onnx(model(nodes, {"x": (1, 2, 3)}, constants=constants, opset=opset), "test")


@pytest.mark.parametrize(
    ("nodes", "kind", "expected"),
    [
        ([node("Greater", ["x", "c"], ["y"])], BOOL, [[1.0, 0.0, 1.0]]),
        ([node("ArgMax", ["x"], ["y"], axis=1, keepdims=0), node("Neg", ["c"], ["unused"])], INT64, [2.0]),
    ],
)
def test_booleans_and_indices_may_leave_the_network(nodes, kind, expected):
    proto = model(nodes, {"x": (1, 3)}, constants={"c": C})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, None))
    graph = graph_from_onnx(proto, "test")
    assert Network(graph).nominal(torch.tensor([[0.2, -0.3, 1.0]])).tolist() == expected


def test_quantized_layers_are_noted():
    """ONNX Runtime computes them in integers by default, which is another function."""
    notes = import_model(model(quantized(axis=2), {"x": (1, 2, 3)}, constants=SCALES), "m").notes
    assert any("integers" in note for note in notes)
