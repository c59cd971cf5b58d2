"""Exported bounding graphs say in ONNX Runtime, or as programs, what the pair says in PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.errors import IbpcError
from ibpc.exports import Claimed, bounding_module, export_bounds, export_program
from ibpc.exports.bounds import _compare, _keep_guards
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.frontends.spec import load_spec
from ibpc.interval import Interval
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.network import Network
from ibpc.rounding import Arithmetic
from tests.onnx_models import model, normal

NODE = helper.make_node
EPS = 0.02


def session(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ball(network: Network, batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.rand(batch, *network.input_shape, generator=torch.Generator().manual_seed(seed))
    return x, (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)


@pytest.fixture(scope="module", params=["digits_small", "resnet_cifar"])
def network(request) -> Network:
    return Network(load_spec(f"specs/{request.param}.json"))


@pytest.mark.parametrize("batch", [1, 4])
def test_the_interval_graph_gives_the_bounds_of_the_pair(network, batch, tmp_path):
    export_bounds(network.snapshot(), tmp_path / "i.onnx", Claimed.OUTPUTS, Arithmetic.REAL)
    onnx.checker.check_model(str(tmp_path / "i.onnx"), full_check=True)
    _, lower, upper = ball(network, batch)
    found = session(tmp_path / "i.onnx").run(
        ["output_lower", "output_upper"], {"lower": lower.numpy(), "upper": upper.numpy()}
    )
    expected = network.interval(Interval.bounds(lower, upper))
    for value, wanted in zip(found, (expected.lower, expected.upper), strict=True):
        np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_in_float32_arithmetic_it_contains_what_the_nominal_file_computes(network, tmp_path):
    ibpc.export(network, tmp_path / "n.onnx")
    ibpc.export(network, tmp_path / "i.onnx", "interval")
    x, lower, upper = ball(network, 1)
    low, high = session(tmp_path / "i.onnx").run(None, {"lower": lower.numpy(), "upper": upper.numpy()})
    nominal = session(tmp_path / "n.onnx")
    name = nominal.get_inputs()[0].name
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        point = lower + (upper - lower) * torch.rand(x.shape, generator=generator).round()
        (y,) = nominal.run(None, {name: point.numpy()})
        assert ((low <= y) & (y <= high)).all()
    real = bounding_module(network.snapshot(), Claimed.OUTPUTS, Arithmetic.REAL)(lower, upper)
    assert (torch.tensor(low) <= real[0]).all() and (torch.tensor(high) >= real[1]).all()


def test_the_margin_graph_gives_the_margins_that_certification_uses(network, tmp_path):
    export_bounds(network.snapshot(), tmp_path / "m.onnx", Claimed.MARGINS)
    _, lower, upper = ball(network, 3)
    (found,) = session(tmp_path / "m.onnx").run(None, {"lower": lower.numpy(), "upper": upper.numpy()})
    classes = network.classes
    bound = METHODS["ibp"].bounder(walk_of(network.snapshot()), class_differences(classes), Arithmetic.FLOAT32)
    box = bound(Interval.bounds(lower, upper))
    index = margin_index(classes)
    for label in range(classes):
        wanted = margins_of(box.lower, box.upper, torch.full((3,), label), index)
        np.testing.assert_allclose(found[:, label], wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("claimed", [None, *Claimed], ids=str)
def test_programs_give_the_same(claimed, tmp_path):
    network = Network(load_spec("specs/digits_small.json"))
    export_program(network.snapshot(), tmp_path / "p.pt2", claimed, Arithmetic.FLOAT32)
    program = torch.export.load(tmp_path / "p.pt2").module()
    x, lower, upper = ball(network, 5)
    with torch.no_grad():
        if claimed is None:
            torch.testing.assert_close(program(x), network.nominal(x))
            return
        found = program(lower, upper)
        wanted = bounding_module(network.snapshot(), claimed, Arithmetic.FLOAT32)(lower, upper)
    for value, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, expected)


def test_several_inputs_and_outputs_are_named(tmp_path):
    nodes = [NODE("MatMul", ["a", "w"], ["h"]), NODE("Add", ["h", "b"], ["s"]), NODE("Relu", ["s"], ["r"])]
    graph = graph_from_onnx(model(nodes, {"a": ["N", 4], "b": ["N", 3]}, ["s", "r"], {"w": normal(4, 3)}), "m")
    export_bounds(graph, tmp_path / "i.onnx", Claimed.OUTPUTS)
    loaded = session(tmp_path / "i.onnx")
    first, second = graph.inputs
    assert [value.name for value in loaded.get_inputs()] == [
        f"{name}_{side}" for name in (first, second) for side in ("lower", "upper")
    ]
    assert len(loaded.get_outputs()) == 4
    with pytest.raises(IbpcError, match="margins"):
        export_bounds(graph, tmp_path / "m.onnx", Claimed.MARGINS)
    assert not (tmp_path / "m.onnx").exists()


def test_sums_that_overflow_bound_nothing_in_the_exported_graph_either(tmp_path):
    """The exporter may not simplify away the products with powers of two that guard against overflow."""
    layer = torch.nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[1e30, -1e30]]), torch.zeros(1)
    network = ibpc.compile(torch.nn.Sequential(layer).eval(), torch.zeros(1, 2))
    export_bounds(network.snapshot(), tmp_path / "i.onnx", Claimed.OUTPUTS)
    low, high = session(tmp_path / "i.onnx").run(
        None, {"lower": np.full((1, 2), 1e7, np.float32), "upper": np.full((1, 2), 2e7, np.float32)}
    )
    assert low[0, 0] == -np.inf and high[0, 0] == np.inf


def test_no_runtime_folds_away_what_makes_a_convolution_overflow_early(tmp_path):
    """ONNX Runtime multiplies a factor behind a convolution into its weights, which had been raised for that factor."""
    layer = torch.nn.Conv2d(4, 1, 1, bias=False)
    layer.weight.data = torch.tensor([3e20, -3e20, 3e20, -3e20]).reshape(1, 4, 1, 1)
    network = ibpc.compile(torch.nn.Sequential(layer, torch.nn.Flatten()).eval(), torch.zeros(1, 4, 1, 1))
    export_bounds(network.snapshot(), tmp_path / "i.onnx", Claimed.OUTPUTS)
    ends = {"lower": np.full((1, 4, 1, 1), 0.9e18, np.float32), "upper": np.full((1, 4, 1, 1), 1.1e18, np.float32)}
    low, high = session(tmp_path / "i.onnx").run(None, ends)
    assert low[0, 0] == -np.inf and high[0, 0] == np.inf


def test_what_pays_for_rounding_is_in_the_exported_graph(tmp_path):
    """Optimizers take a factor 1 + 4e-6 for 1: at a radius of 0.5 that is more than all differences of order."""
    layer = torch.nn.Linear(3, 2)
    affine = ibpc.compile(torch.nn.Sequential(layer).eval(), torch.zeros(1, 3))
    export_bounds(affine.snapshot(), tmp_path / "i.onnx", Claimed.OUTPUTS)
    lower, upper = torch.full((1, 3), -0.5), torch.full((1, 3), 0.5)
    low, high = session(tmp_path / "i.onnx").run(None, {"lower": lower.numpy(), "upper": upper.numpy()})
    radius = layer.weight.abs().sum(1).mul(0.5).detach().numpy()
    width = 0.5 * (high.astype(np.float64) - low)[0]
    assert (width >= radius * (1 + 16 * 4 * 2.0**-24)).all()


def test_a_graph_that_computes_something_else_is_not_written(tmp_path):
    network = Network(load_spec("specs/digits_small.json"))
    export_bounds(network.snapshot(), tmp_path / "i.onnx", Claimed.OUTPUTS)
    other = bounding_module(
        Network(load_spec("specs/digits_small.json", seed=1)).snapshot(), Claimed.OUTPUTS, Arithmetic.REAL
    )
    _, lower, upper = ball(network, 2)
    with pytest.raises(IbpcError, match="other bounds"):
        _compare((tmp_path / "i.onnx").read_bytes(), other, (lower, upper))


@pytest.mark.parametrize(("suffix", "graph"), [(".txt", "nominal"), (".onnx", "dual"), (".pt2", "dual")])
def test_unknown_forms_are_refused(suffix, graph, tmp_path):
    network = Network(load_spec("specs/digits_small.json"))
    with pytest.raises(IbpcError):
        ibpc.export(network, tmp_path / f"x{suffix}", graph)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", [2.0**-24, -(2.0**-24) * 1.0001, 3e-7, 1.1e-9])
def test_what_a_guard_divides_by_never_makes_a_radius_smaller(factor):
    factor = float(np.float32(factor))
    made = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.array(factor, np.float32))),
            helper.make_node("Mul", ["c", "x"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    proto = helper.make_model(made)
    _keep_guards(proto)
    assert [node.op_type for node in proto.graph.node] == ["Constant", "Div"]
    divisor = float(onnx.numpy_helper.to_array(proto.graph.initializer[0]))
    assert proto.graph.node[1].input[0] == "x" and divisor * factor > 0
    assert abs(1.0 / divisor) >= abs(factor) >= abs(1.0 / divisor) * (1.0 - 2.0**-22)
