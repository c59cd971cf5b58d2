"""ONNX files come in as the function they compute, or are refused with a reason."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ibpc.errors import ModelError
from ibpc.frontends.onnx import graph_from_onnx, import_model, import_onnx, translate
from ibpc.frontends.onnx_load import read_model
from ibpc.ir import BATCH
from ibpc.ops import operators
from tests.onnx_models import chain, expect_same_function, model, normal

NODE = helper.make_node

CONSTANTS = {
    "w23": normal(2, 3),
    "w32": normal(3, 2),
    "w34": normal(3, 4),
    "w33": normal(3, 3),
    "w64": normal(6, 4),
    "w46": normal(4, 6),
    "w123": normal(1, 2, 3),
    "w423": normal(4, 2, 3),
    "w432": normal(4, 3, 2),
    "v3": normal(3),
    "v4": normal(4),
    "v6": normal(6),
    "column3": normal(3, 1),
    "row13": normal(1, 3),
    "kernel": normal(2, 1, 3, 3),
    "flat": np.array([-1]),
    "one_flat": np.array([1, -1]),
    "fixed_batch": np.array([1, 6]),
    "merged": np.array([-1, 3]),
    "heads": np.array([2, 2, 3]),
    "unheads": np.array([1, 2, 6]),
    "to23": np.array([2, 3]),
    "to123": np.array([1, 2, 3]),
    "axis0": np.array([0]),
    "axis1": np.array([1]),
    "starts": np.array([1]),
    "ends": np.array([2]),
    "pads2": np.array([1, 0, 0, 2]),
    "four": np.array(4.0, np.float32),
    "shape423": np.array([4, 2, 3]),
    "twice": np.array([2, 1]),
    "index": np.array([1, 0, 1]),
    "scalar_index": np.array(1),
}

# Every way in which files place, drop, move, merge or lack the batch. Each row is a chain from x to y.
PLACES = {
    "batch 1, Reshape to 1×rest": chain(
        ("Reshape", "one_flat"), ("MatMul", "w64"), start=[1, 2, 3], constants=CONSTANTS
    ),
    "batch 1, constant Reshape": chain(
        ("Reshape", "fixed_batch"), ("MatMul", "w64"), start=[1, 2, 3], constants=CONSTANTS
    ),
    "symbolic batch, constant Reshape": chain(("Reshape", "fixed_batch"), start=["N", 2, 3], constants=CONSTANTS),
    "Reshape drops the batch": chain(
        ("Reshape", "flat"), ("MatMul", "w64"), ("Add", "v4"), ("Relu",), start=[1, 2, 3], constants=CONSTANTS
    ),
    "Reshape merges the batch": chain(
        ("Reshape", "merged"), ("MatMul", "w34"), ("Reshape", "one_flat"), start=[1, 2, 3], constants=CONSTANTS
    ),
    "Transpose moves the batch": chain(
        *(("Reshape", "heads"), ("Transpose", {"perm": [1, 0, 2]}), ("MatMul", "w33")),
        *(("Transpose", {"perm": [1, 0, 2]}), ("Reshape", "unheads")),
        start=[1, 2, 6],
        constants=CONSTANTS,
    ),
    "Flatten at axis 0": chain(("Flatten", {"axis": 0}), ("MatMul", "w64"), start=[1, 2, 3], constants=CONSTANTS),
    "Flatten at a negative axis": chain(("Flatten", {"axis": -1}), start=[1, 2, 3], constants=CONSTANTS),
    "Squeeze of all ones": chain(("Squeeze",), ("Relu",), start=[1, 2, 1, 3], constants=CONSTANTS),
    "Squeeze of the batch": chain(("Squeeze", "axis0"), ("Relu",), start=[1, 2, 3], constants=CONSTANTS),
    "Unsqueeze in front": chain(("Unsqueeze", "axis0"), ("Relu",), start=[1, 2, 3], constants=CONSTANTS),
    "constant of another batch": chain(("Add", "w423"), ("Relu",), start=[1, 2, 3], constants=CONSTANTS),
    "constant with the batch": chain(("Add", "w123"), ("Relu",), start=[1, 2, 3], constants=CONSTANTS),
    "Softmax over the batch": chain(("Softmax", {"axis": 0}), start=[1, 2, 3], constants=CONSTANTS),
    "Concat over the batch": chain(("Concat", "w123", {"axis": 0}), ("Relu",), start=[1, 2, 3], constants=CONSTANTS),
    "stack of matrices": chain(("MatMul", "w432"), ("Relu",), start=[1, 2, 3], constants=CONSTANTS),
    "no batch: elementwise": chain(("Mul", "w23"), ("Relu",), start=[2, 3], constants=CONSTANTS),
    "no batch: larger constant": chain(("Add", "w423"), ("Relu",), start=[2, 3], constants=CONSTANTS),
    "no batch: constant in front": chain(("Sub", "v3"), ("Add", "row13"), start=[2, 3], constants=CONSTANTS),
    "no batch: Gemm": chain(("Gemm", "w34", "v4", {"alpha": 2.0, "beta": 0.5}), start=[2, 3], constants=CONSTANTS),
    "no batch: Gemm transposed": chain(
        ("Gemm", "w33", "column3", {"transA": 1, "transB": 1}), start=[3, 3], constants=CONSTANTS
    ),
    "no batch: Transpose": chain(("Transpose",), ("MatMul", "w23"), start=[2, 3], constants=CONSTANTS),
    "no batch: Concat": chain(("Concat", "w23", {"axis": 0}), ("MatMul", "w34"), start=[2, 3], constants=CONSTANTS),
    "no batch: Slice": chain(("Slice", "starts", "ends"), start=[2, 3], constants=CONSTANTS),
    "no batch: Slice of an axis": chain(("Slice", "starts", "ends", "axis1"), start=[2, 3], constants=CONSTANTS),
    "no batch: Slice-1": chain(
        ("Slice", {"starts": [0], "ends": [1], "axes": [1]}), start=[2, 3], constants={}, opset=9
    ),
    "no batch: Pad": chain(("Pad", "pads2", "four"), start=[2, 3], constants=CONSTANTS),
    "no batch: Pad-2": chain(("Pad", {"pads": [1, 0, 0, 2]}), start=[2, 3], constants={}, opset=9),
    "no batch: Softmax": chain(("Softmax", {"axis": 0}), start=[2, 3], constants=CONSTANTS),
    "no batch: Softmax-1": chain(("Softmax", {"axis": 1}), start=[2, 3], constants=CONSTANTS, opset=9),
    "no batch: Unsqueeze": chain(("Unsqueeze", "axis1"), ("Relu",), start=[2, 3], constants=CONSTANTS),
    "no batch: Conv": chain(
        *(
            ("Reshape", "to123"),
            ("Unsqueeze", "axis0"),
            ("Conv", "kernel", {"pads": [1, 1, 1, 1]}),
            ("Squeeze", "axis0"),
        ),
        start=[2, 3],
        constants=CONSTANTS,
    ),
    "rank 1": chain(("MatMul", "w34"), ("Add", "v4"), ("Relu",), start=[3], constants=CONSTANTS),
    "rank 1 of one": chain(("Mul", "four"), ("Relu",), start=[1], constants=CONSTANTS),
    "rank 1 times a vector": chain(("MatMul", "v3"), start=[3], constants=CONSTANTS),
    "matrix times a constant vector": chain(("MatMul", "v3"), ("Relu",), start=[2, 3], constants=CONSTANTS),
    "rank 1 times a stack": chain(("MatMul", "w432"), ("Relu",), start=[3], constants=CONSTANTS),
    "rank 1 times itself": model([NODE("MatMul", ["x", "x"], ["y"])], {"x": [3]}),
    "constant times rank 1": model([NODE("MatMul", ["w", "x"], ["y"])], {"x": [3]}, constants={"w": normal(2, 3)}),
    "constant times no batch": model([NODE("MatMul", ["w", "x"], ["y"])], {"x": [3, 4]}, constants={"w": normal(2, 3)}),
    "constant vector times no batch": model(
        [NODE("MatMul", ["w", "x"], ["y"])], {"x": [3, 4]}, constants={"w": normal(3)}
    ),
    "constant times the batch": model(
        [NODE("MatMul", ["w", "x"], ["y"])], {"x": [1, 4]}, constants={"w": normal(2, 1)}
    ),
    "rank 1 broadcast": chain(("Add", "w23"), ("Relu",), start=[3], constants=CONSTANTS),
    "rank 0": chain(("Mul", "v3"), ("Relu",), start=[], constants=CONSTANTS),
    "no batch: Expand": chain(("Expand", "shape423"), start=[2, 3], constants=CONSTANTS),
    "no batch: Tile": chain(("Tile", "twice"), start=[2, 3], constants=CONSTANTS),
    "no batch: Gather": chain(("Gather", "index", {"axis": 0}), start=[2, 3], constants=CONSTANTS),
    "Gather of the batch": chain(("Gather", "scalar_index", {"axis": 1}), start=[1, 2, 3], constants=CONSTANTS),
    "no batch: Split": model([NODE("Split", ["x"], ["a", "b"], axis=0), NODE("Sub", ["a", "b"], ["y"])], {"x": [4, 3]}),
    "no batch: ReduceSum": chain(("ReduceSum", "axis0", {"keepdims": 0}), start=[2, 3], constants=CONSTANTS),
    "ReduceMean to a scalar": chain(("ReduceMean", {"keepdims": 0}), start=[1, 2, 3], constants=CONSTANTS),
    "ReduceMax of all": chain(("ReduceMax",), start=[1, 2, 3], constants=CONSTANTS),
    "no batch: Cast": chain(("Cast", {"to": TensorProto.FLOAT}), ("Relu",), start=[2, 3], constants=CONSTANTS),
}


def registered() -> set[str]:
    return {reading.type for record in operators().values() for reading in record.reads}


@pytest.mark.parametrize("name", PLACES)
def test_the_batch_is_found_wherever_it_is(name):
    proto = PLACES[name]
    graph = graph_from_onnx(proto, name)
    assert all(graph.node(output).shape[0] == BATCH for output in graph.outputs)
    expect_same_function(proto, graph)


def shape_chain(batch: int | str) -> onnx.ModelProto:
    """Return x → Reshape(x, Concat(Gather(Shape(x), 0), −1)) → Gemm, as torch writes x.view(x.size(0), −1)."""
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "zero"], ["n"], axis=0),
        NODE("Unsqueeze", ["n", "axis"], ["u"]),
        NODE("Concat", ["u", "rest"], ["target"], axis=0),
        NODE("Reshape", ["x", "target"], ["f"]),
        NODE("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    constants = {
        "zero": np.array(0),
        "axis": np.array([0]),
        "rest": np.array([-1]),
        "w": normal(4, 6),
        "b": normal(4),
    }
    return model(nodes, {"x": [batch, 2, 3]}, constants=constants)


@pytest.mark.parametrize("batch", [1, "N"])
def test_shape_chains_fold_into_the_reshape(batch):
    graph = graph_from_onnx(shape_chain(batch), "m")
    assert [node.operator for node in graph.order()] == ["Input", "Reshape", "Gemm"]
    assert graph.node("y").shape == (BATCH, 4) and graph.hints == {"classes": 4}
    expect_same_function(shape_chain(batch), graph)


def test_inputs_of_several_forms_meet():
    nodes = [
        NODE("MatMul", ["a", "w"], ["ab"]),
        NODE("Add", ["ab", "b"], ["sum"]),
        NODE("MatMul", ["sum", "c"], ["y"]),
        NODE("Relu", ["b"], ["z"]),
    ]
    inputs = {"a": [1, 3], "b": [2, 4], "c": [4]}
    proto = model(nodes, inputs, ["y", "z", "a"], {"w": normal(3, 4)})
    graph = graph_from_onnx(proto, "m")
    assert [graph.node(name).shape for name in graph.inputs] == [(BATCH, 3), (BATCH, 2, 4), (BATCH, 4)]
    assert len(graph.outputs) == 3
    expect_same_function(proto, graph)


def test_a_constant_output_has_a_batch():
    nodes = [NODE("Constant", [], ["y"], value=numpy_helper.from_array(normal(2, 2))), NODE("Relu", ["x"], ["z"])]
    proto = model(nodes, {"x": [1, 2, 3]}, ["y", "z", "y"])
    graph = graph_from_onnx(proto, "m")
    assert graph.node(graph.outputs[0]).shape == (BATCH, 2, 2)
    expect_same_function(proto, graph)


def test_one_initializer_is_one_parameter_and_equal_ones_are_two():
    nodes = [
        NODE("Gemm", ["x", "w", "b1"], ["h"], transB=1),
        NODE("Gemm", ["h", "w", "b2"], ["g"], transB=1),
        NODE("MatMul", ["g", "w"], ["y"]),
    ]
    zeros = np.zeros(3, np.float32)
    proto = model(nodes, {"x": ["N", 3]}, constants={"w": normal(3, 3), "b1": zeros, "b2": zeros})
    graph = graph_from_onnx(proto, "m")
    weights = {graph.source_of(f"{name}.weight") for name in ("h", "g")}
    assert len(weights) == 1
    assert graph.source_of("h.bias") != graph.source_of("g.bias")
    expect_same_function(proto, graph)


def test_a_constant_that_several_nodes_read_is_one_node():
    nodes = [NODE("Add", ["x", "c"], ["h"]), NODE("Mul", ["h", "c"], ["y"])]
    graph = graph_from_onnx(model(nodes, {"x": ["N", 3]}, constants={"c": normal(3)}), "m")
    assert [node.operator for node in graph.order()].count("Constant") == 1


# ── files in the wild ───────────────────────────────────────────────────────────────────────────────────────────
def base() -> onnx.ModelProto:
    """Return a valid model: Conv → Relu → Flatten → Gemm."""
    nodes = [
        NODE("Conv", ["x", "k"], ["c"], "conv", pads=[1, 1, 1, 1]),
        NODE("Relu", ["c"], ["r"], "relu"),
        NODE("Flatten", ["r"], ["f"], "flatten"),
        NODE("Gemm", ["f", "w", "b"], ["y"], "fc", transB=1),
    ]
    constants = {"k": normal(2, 1, 3, 3), "w": normal(3, 32), "b": normal(3)}
    return model(nodes, {"x": ["N", 1, 4, 4]}, constants=constants)


def unsorted_nodes(proto: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def initializers_as_inputs(proto: onnx.ModelProto) -> None:
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))


def repeated_opsets(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("", 17))


def spelled_out_domain(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 17))


def no_names(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = ""


def one_name(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = "node"


def reserved_names(proto: onnx.ModelProto) -> None:
    for node, name in zip(proto.graph.node, ("class", "training", "forward", "lambda"), strict=True):
        node.name = name


def awkward_names(proto: onnx.ModelProto) -> None:
    for node, name in zip(proto.graph.node, ("0", "a/b:0", "é\n", "_parameters"), strict=True):
        node.name = name


def dead_nodes(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(NODE("Softsign", ["c"], ["unused"], "dead"))


def stale_value_info(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.DOUBLE, [7, 7]))


def wrong_outputs(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [9, 9, 9]))


def declared_double(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def weight_from_identity(proto: onnx.ModelProto) -> None:
    proto.graph.node.insert(0, NODE("Identity", ["w"], ["w2"], "same"))
    proto.graph.node[-1].input[1] = "w2"


def weight_from_constant(proto: onnx.ModelProto) -> None:
    proto.graph.node.insert(0, NODE("Constant", [], ["w2"], "made", value=proto.graph.initializer[1]))
    proto.graph.node[-1].input[1] = "w2"


def bias_left_out(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input.append("")
    proto.graph.node[-1].input[2] = ""


def function_call(proto: onnx.ModelProto) -> None:
    body = [NODE("Relu", ["a"], ["b"]), NODE("Flatten", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("local", "head", ["a"], ["c"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    del proto.graph.node[1:3]
    proto.graph.node.insert(1, NODE("head", ["c"], ["f"], domain="local"))


def unused_mask(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].CopyFrom(NODE("MaxPool", ["c"], ["r", "where"], "pool", kernel_shape=[1, 1]))


DEFECTS = {
    unsorted_nodes: "topological order",
    initializers_as_inputs: "listed as inputs",
    repeated_opsets: "opset imports",
    spelled_out_domain: "opset imports",
    no_names: "",
    one_name: "name of another",
    reserved_names: "",
    awkward_names: "",
    dead_nodes: "no output needs",
    stale_value_info: "",
    wrong_outputs: "output y was declared wrongly",
    declared_double: "double over float",
    weight_from_identity: "",
    weight_from_constant: "",
    bias_left_out: "",
    function_call: "inlined",
    unused_mask: "",
}


@pytest.mark.parametrize("spoil", DEFECTS, ids=lambda spoil: spoil.__name__)
def test_harmless_defects_are_mended_and_reported(spoil):
    proto = base()
    spoil(proto)
    before = proto.SerializeToString()
    found = import_model(proto, "m")
    assert proto.SerializeToString() == before, "the caller's model was changed"
    assert any(DEFECTS[spoil] in note for note in found.notes) or not DEFECTS[spoil]
    clean = base()
    if spoil in (bias_left_out, unused_mask):
        spoil(clean)
    expect_same_function(clean, found.graph)


def test_a_network_in_double_precision_says_that_it_is_rounded():
    proto = base()
    declared_double(proto)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    found = import_model(proto, "m")
    assert any("double" in note for note in found.notes)
    expect_same_function(base(), found.graph)


def test_gzipped_files_are_read_as_they_are(tmp_path):
    path = tmp_path / "net.onnx.gz"
    path.write_bytes(gzip.compress(base().SerializeToString()))
    graph = import_onnx(path).graph
    assert graph.name == "net"
    expect_same_function(base(), graph)


def save_with_external_data(folder: Path, location: str) -> Path:
    proto = base()
    weight = proto.graph.initializer[1]
    (folder / "weights.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_model_are_read(tmp_path):
    expect_same_function(base(), import_onnx(save_with_external_data(tmp_path, "weights.bin")).graph)


def test_versions_of_an_operator_decide_its_meaning():
    flat, last = (chain(("Softmax", {"axis": 1}), start=["N", 2, 3], constants={}, opset=opset) for opset in (12, 13))
    for proto in (flat, last):
        expect_same_function(proto, graph_from_onnx(proto, "m"))


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────
def refusal(proto: onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        graph_from_onnx(proto, "m.onnx")
    return str(caught.value)


def with_input(shape: list[object], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    proto = base()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))
    return proto


def with_weight(array: np.ndarray) -> onnx.ModelProto:
    proto = base()
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(array, "w"))
    return proto


def spoiled(index: int, value: float) -> onnx.ModelProto:
    weight = normal(3, 32)
    weight[0, index] = value
    return with_weight(weight)


def with_node(node: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """Return the base model whose Relu is replaced by a node r = f(c)."""
    proto = base()
    proto.graph.node[1].CopyFrom(node)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return proto


def edited(edit) -> onnx.ModelProto:
    proto = base()
    edit(proto)
    return proto


def cyclic(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "r"


def missing_initializer(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[1]


def defined_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].output[0] = "c"


def recursive(proto: onnx.ModelProto) -> None:
    body = [NODE("head", ["a"], ["c"], domain="local")]
    proto.functions.append(helper.make_function("local", "head", ["a"], ["c"], body, [helper.make_opsetid("local", 1)]))
    proto.opset_import.append(helper.make_opsetid("local", 1))


def laughing(proto: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(40):
        inner = NODE("Relu", ["a"], ["b"]) if level == 0 else NODE(f"f{level - 1}", ["a"], ["b"], domain="local")
        again = NODE("Relu", ["b"], ["c"]) if level == 0 else NODE(f"f{level - 1}", ["b"], ["c"], domain="local")
        proto.functions.append(helper.make_function("local", f"f{level}", ["a"], ["c"], [inner, again], opsets))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node[1].CopyFrom(NODE("f39", ["c"], ["r"], domain="local"))


def huge_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[1].dims[:] = [3, 2**40]


def negative_dimension(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[1].dims[:] = [-3, 32]


def no_inputs(proto: onnx.ModelProto) -> None:
    del proto.graph.input[:]
    proto.graph.initializer.append(numpy_helper.from_array(normal(1, 1, 4, 4), "x"))


def no_outputs(proto: onnx.ModelProto) -> None:
    del proto.graph.output[:]


def old_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 6


def future_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999


def two_opsets(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))


def no_opset(proto: onnx.ModelProto) -> None:
    del proto.opset_import[:]


def sparse_weight(proto: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 32]))
    del proto.graph.initializer[1]


def external(proto: onnx.ModelProto) -> None:
    weight = proto.graph.initializer[1]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")


def bomb(kind: str) -> onnx.ModelProto:
    """Return a model of a hundred bytes that asks for an exabyte."""
    shape = np.array([2**20, 2**20, 2**20])
    if kind == "Expand":
        nodes, constants = [NODE("Expand", ["x", "s"], ["y"])], {"s": shape}
    elif kind == "Tile":
        nodes, constants = [NODE("Tile", ["x", "s"], ["y"])], {"s": shape}
    elif kind == "Pad":
        nodes, constants = [NODE("Pad", ["x", "s"], ["y"])], {"s": np.array([0, 0, 0, 0, 2**40, 2**40])}
    elif kind == "Range":
        nodes = [NODE("Range", ["a", "s", "d"], ["r"]), NODE("Add", ["x", "r"], ["y"])]
        constants = {"a": np.float32(0), "s": np.float32(1e15), "d": np.float32(1)}
    else:
        nodes = [NODE("ConstantOfShape", ["s"], ["r"]), NODE("Add", ["x", "r"], ["y"])]
        constants = {"s": shape}
    return model(nodes, {"x": [1, 1, 1]}, constants=constants)


REFUSALS = {
    "cycle": (edited(cyclic), "m.onnx: a cycle through conv → relu"),
    "missing initializer": (edited(missing_initializer), "value 'w', read by node fc, is missing"),
    "defined twice": (edited(defined_twice), "value 'c' is defined 2 times"),
    "NaN": (spoiled(3, np.nan), "initializer w: it holds NaN"),
    "infinity": (spoiled(3, np.inf), "initializer w: it holds infinity"),
    "beyond float32": (with_weight(np.full((3, 32), 1e300)), "m.onnx"),
    "wrong shape": (with_weight(normal(3, 31)), "node fc (Gemm-13): shape inference refuses it"),
    "wrong type": (with_weight(normal(3, 32).astype(np.float64)), "node fc (Gemm-13): shape inference refuses it"),
    "huge tensor": (edited(huge_initializer), "m.onnx"),
    "negative dimension": (edited(negative_dimension), "m.onnx"),
    "no input": (edited(no_inputs), "it has no input"),
    "no output": (edited(no_outputs), "it has no output"),
    "old opset": (edited(old_opset), "opset 6; expected opset 7 to"),
    "future opset": (edited(future_opset), "opset 999; expected opset 7 to"),
    "two opsets": (edited(two_opsets), "opsets [13, 17]"),
    "no opset": (edited(no_opset), "no opset"),
    "sparse": (edited(sparse_weight), "initializer w: it is sparse"),
    "external data in memory": (edited(external), "tensor w: its data is not in the model"),
    "recursion": (edited(recursive), "function head calls itself"),
    "functions without end": (edited(laughing), "unfold to 1,099,511,627,779 nodes"),
    "integer input": (with_input(["N", 1, 4, 4], TensorProto.INT64), "input x: its type is INT64"),
    "free size": (with_input(["N", 1, "H", 4]), "input x: its dimension 2 is free 'H'"),
    "unknown operator": (
        with_node(NODE("Reluu", ["c"], ["r"], "act")),
        "node act (Reluu): opset 17 has no such operator; did you mean 'Relu'?",
    ),
    "unknown domain": (
        with_node(NODE("Gelu", ["c"], ["r"], "act", domain="com.microsoft")),
        "node act (com.microsoft.Gelu): operators of the domain 'com.microsoft' are not supported",
    ),
    "random constant": (
        with_node(NODE("Dropout", ["q", "", "on"], ["r"], "act"), q=normal(1, 2, 4, 4), on=np.array(True)),
        "node act (Dropout-13)",
    ),
    "random": (with_node(NODE("RandomNormalLike", ["c"], ["r"], "act")), "node act (RandomNormalLike-1)"),
    "unknown attribute": (with_node(NODE("Relu", ["c"], ["r"], "act", slope=2)), "Unrecognized attribute"),
    "perturbed kernel": (
        model([NODE("Conv", ["x", "x"], ["y"], "conv")], {"x": [1, 1, 3, 3]}),
        "node conv (Conv-11): input 1 of Conv depends on the network's input; expected a constant",
    ),
    "computes in half": (
        model(
            [NODE("Cast", ["x"], ["h"], "half", to=TensorProto.FLOAT16), NODE("Cast", ["h"], ["y"], to=1)],
            {"x": [1, 3]},
        ),
        "(Cast-13)",
    ),
    "ConstantOfShape": (bomb("ConstantOfShape"), "expected at most 1,073,741,824"),
    "Range": (bomb("Range"), "expected at most 1,073,741,824"),
    "Expand": (bomb("Expand"), "m.onnx"),
    "Tile": (bomb("Tile"), "m.onnx"),
    "Pad": (bomb("Pad"), "expected at most 1,073,741,824"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_imported_is_refused_with_a_reason(name):
    proto, reason = REFUSALS[name]
    start = time.monotonic()
    assert reason in refusal(proto)
    assert time.monotonic() - start < 5


def test_all_nodes_that_cannot_be_imported_are_reported_together():
    nodes = [
        NODE("Bernoulli", ["x"], ["a"], "first"),
        NODE("Shape", ["a"], ["s"], "shape"),
        NODE("Reshape", ["a", "s"], ["b"], "same"),
        NODE("NonMaxSuppressions", ["b"], ["c"], "second"),
        NODE("Det", ["q"], ["d"], "third"),
        NODE("Conv", ["q", "q"], ["e"], "fourth"),
        NODE("Det", ["q"], ["f"], "fifth"),
    ]
    inputs = {"x": [1, 3], "q": [1, 1, 3, 3]}
    text = refusal(model(nodes, inputs, ["c", "d", "e", "f"]))
    assert len(text.splitlines()) == 4
    for part in (
        "node first (Bernoulli-15)",
        "node second (NonMaxSuppressions)",
        "nodes third, fifth (Det-11)",
        "node fourth (Conv-11)",
    ):
        assert part in text


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_external_data_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(384))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_onnx(save_with_external_data(folder, location))


@pytest.mark.parametrize(("location", "reason"), [("other.bin", "missing"), (".", "missing")])
def test_external_data_that_are_not_there_are_refused(tmp_path, location, reason):
    with pytest.raises(ModelError, match=reason):
        import_onnx(save_with_external_data(tmp_path, location))


def test_external_data_beyond_the_end_of_the_file_are_refused(tmp_path):
    path = save_with_external_data(tmp_path, "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[1].external_data.add(key="length", value=str(2**40))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="spans"):
        import_onnx(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError):
            import_onnx(path)


def test_truncated_files_are_refused(tmp_path):
    whole = base().SerializeToString()
    packed = gzip.compress(whole)
    path = tmp_path / "net.onnx"
    for data in (b"", whole[: len(whole) // 2], packed[: len(packed) // 2], packed[:-4] + b"oops", b"\x1f\x8bnonsense"):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            import_onnx(path)


def test_two_gigabytes_of_zeros_in_a_small_file_are_refused_quickly(tmp_path):
    path = tmp_path / "zeros.onnx.gz"
    path.write_bytes(gzip.compress(bytes(2**24)) * 128)
    start = time.monotonic()
    with pytest.raises(ModelError, match="unpack to more than"):
        import_onnx(path)
    assert time.monotonic() - start < 20


FUZZED = base().SerializeToString()


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(FUZZED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_give_a_network_or_a_model_error(changes):
    data = bytearray(FUZZED)
    for place, value in changes:
        data[place] = value
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(data)
        try:
            translate(read_model(path), "m")
        except ModelError as error:
            assert all(problem.found for problem in error.problems)
