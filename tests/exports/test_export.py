"""Exported files are clean ONNX that ONNX Runtime and onnx2torch run, with the values of the network."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from ibpc.errors import ArtifactError, GraphError
from ibpc.exports import OPSET, export_nominal, nominal_model
from ibpc.frontends.onnx import graph_from_onnx, import_onnx
from ibpc.frontends.spec import load_spec
from ibpc.ir import BATCH, Graph
from ibpc.network import Network
from tests.onnx_models import chain, model, normal, runtime

NODE = helper.make_node
SPECS = ("digits_small", "mlp_mnist", "mnist_small", "resnet_cifar", "cnn7_mnist")


def branches() -> Graph:
    """Return a network with a residual branch, a shared weight, a constant, a stack product and three outputs."""
    nodes = [
        NODE("Gemm", ["x", "w", "b"], ["h"], "first", transB=1),
        NODE("Relu", ["h"], ["r"], "relu"),
        NODE("Gemm", ["r", "w"], ["g"], "second", transB=1),
        NODE("Add", ["g", "x"], ["s"], "sum"),
        NODE("Mul", ["s", "c"], ["y"], "scaled"),
    ]
    constants = {"w": normal(4, 4), "b": normal(4), "c": normal(4, seed=1)}
    return graph_from_onnx(model(nodes, {"x": ["N", 4]}, ["y", "x", "y"], constants), "m")


def unbatched() -> Graph:
    """Return a network that was imported without a batch axis."""
    constants = {"w": normal(3, 4), "v": normal(4, 2, 4)}
    return graph_from_onnx(chain(("MatMul", "w"), ("Add", "v"), ("Relu",), start=[2, 3], constants=constants), "m")


def convolutional() -> Graph:
    steps = (
        ("Conv", "k", "b", {"pads": [1, 0, 0, 1], "strides": [2, 1]}),
        ("BatchNormalization", "s", "b", "m", "v"),
        ("LeakyRelu", {"alpha": 0.2}),
        ("AveragePool", {"kernel_shape": [2, 2]}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("Flatten",),
        ("Softmax", {"axis": 1}),
    )
    constants = {
        **{"k": normal(2, 3, 3, 2), "b": normal(2), "s": normal(2, seed=1), "m": normal(2, seed=2)},
        "v": np.abs(normal(2, seed=3)) + 0.5,
    }
    return graph_from_onnx(chain(*steps, start=["N", 3, 6, 5], constants=constants), "m")


GRAPHS = {"branches": branches, "unbatched": unbatched, "convolutional": convolutional}
for _name in SPECS:
    GRAPHS[_name] = lambda name=_name: load_spec(Path("specs") / f"{name}.json", 0)


@pytest.mark.parametrize("name", GRAPHS)
def test_an_exported_file_computes_the_network(tmp_path, name):
    graph = GRAPHS[name]()
    path = tmp_path / "net.onnx"
    export_nominal(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    session = runtime(onnx.load(path))
    network = Network(graph)
    for count in (1, 5):
        inputs = [normal(count, *graph.node(each).shape[1:]) for each in graph.inputs]
        with torch.no_grad():
            ours = network.nominal(*map(torch.from_numpy, inputs))
        ours = (ours,) if isinstance(ours, torch.Tensor) else ours
        theirs = session.run(None, dict(zip(graph.inputs, inputs, strict=True)))
        for mine, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.numpy(), their, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_onnx2torch_takes_an_exported_file(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import onnx2torch

        graph = GRAPHS[name]()
        module = onnx2torch.convert(nominal_model(graph)).eval()
    x = torch.from_numpy(normal(3, *graph.node(graph.inputs[0]).shape[1:]))
    with torch.no_grad():
        theirs, ours = module(x), Network(graph).nominal(x)
    first = [values if isinstance(values, torch.Tensor) else values[0] for values in (ours, theirs)]
    torch.testing.assert_close(*first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["branches", "unbatched", "convolutional", "digits_small"])
def test_an_exported_file_comes_back_as_it_was(tmp_path, name):
    graph = GRAPHS[name]()
    export_nominal(graph, tmp_path / "net.onnx")
    back = import_onnx(tmp_path / "net.onnx").graph
    operators = [[node.operator for node in each.order() if node.operator != "Identity"] for each in (graph, back)]
    assert sorted(operators[0]) == sorted(operators[1])
    x = torch.from_numpy(normal(3, *graph.node(graph.inputs[0]).shape[1:]))
    ours, theirs = (Network(each).nominal(x) for each in (graph, back))
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=0)


def test_what_the_file_says_of_itself():
    graph = branches()
    proto = nominal_model(graph)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    assert proto.producer_name == "ibpc"
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(properties["ibpc.hints"]) == {"classes": 4}
    assert [value.name for value in proto.graph.input] == list(graph.inputs)
    for value in (*proto.graph.input, *proto.graph.output):
        assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == ["batch", 4]
    assert proto.graph.output[0].name == graph.outputs[0]
    assert len({value.name for value in proto.graph.output}) == 3


def test_weights_keep_their_names_and_shared_ones_are_written_once():
    proto = nominal_model(branches())
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert sorted(held) == ["c.value", "first.bias", "first.weight"]
    np.testing.assert_array_equal(held["first.weight"], normal(4, 4))


def test_the_batch_is_free_in_every_declared_shape():
    proto = nominal_model(unbatched())
    assert [dim.dim_param or dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim] == [
        *("batch", 4, 2, 4)
    ]


def test_a_broken_graph_is_not_written(tmp_path):
    graph = branches()
    graph.replace("relu", shape=(BATCH, 5))
    with pytest.raises(GraphError):
        export_nominal(graph, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be written"):
        export_nominal(branches(), tmp_path / "file" / "net.onnx")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ibpc.artifact.os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        export_nominal(branches(), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
