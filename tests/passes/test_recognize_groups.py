"""The spelling of GroupNormalization becomes one operator, nothing else does, and its bounds hold for the spelling."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import ibpc
from ibpc.frontends.onnx import translate
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.passes import COMPILE, EVALUATION
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import Checker
from tests.onnx_models import chain, expect_same_function, runtime

SHAPE = [1, 6, 2, 3]
CONSTANTS = {
    "merged": np.int64([0, 3, -1]),
    "ones": np.ones(3, np.float32),
    "zeros": np.zeros(3, np.float32),
    "whole": np.int64(SHAPE),
    "w": np.linspace(-1.5, 2.0, 6, dtype=np.float32).reshape(6, 1, 1),
    "b": np.linspace(3.0, -2.0, 6, dtype=np.float32).reshape(6, 1, 1),
}
STEPS = (
    ("Reshape", "merged"),
    ("InstanceNormalization", "ones", "zeros", {"epsilon": 1e-3}),
    ("Reshape", "whole"),
    ("Mul", "w"),
    ("Add", "b"),
)


def spelled(count: int = 5, **changes: object) -> onnx.ModelProto:
    return chain(*STEPS[:count], start=SHAPE, constants={**CONSTANTS, **changes})


def compiled(model: onnx.ModelProto) -> Graph:
    graph, _ = COMPILE.run(translate(model, "groups").graph)
    return graph


def operators_of(graph: Graph) -> list[str]:
    return [node.operator for node in graph.order()]


def test_the_spelling_is_one_operator() -> None:
    graph = compiled(spelled())
    assert operators_of(graph) == ["Input", "GroupNormalization"]
    node = graph.order()[-1]
    assert (node.attributes["num_groups"], node.attributes["epsilon"]) == (3, pytest.approx(1e-3))
    assert set(graph.parameters_of(node.name)) == {"weight", "bias"}
    expect_same_function(spelled(), graph)
    assert operators_of(EVALUATION.run(graph)[0]) == ["Input", "GroupNormalization"]


def test_without_weight_and_bias_it_has_none() -> None:
    graph = compiled(spelled(3))
    assert operators_of(graph) == ["Input", "GroupNormalization"]
    assert not graph.parameters_of(graph.order()[-1].name)
    expect_same_function(spelled(3), graph)
    expect_same_function(spelled(4), compiled(spelled(4)))


@pytest.mark.parametrize(
    "changes",
    [
        {"ones": np.float32([1, 1, 2])},
        {"zeros": np.float32([0, 0, 1])},
        {"merged": np.int64([0, 4, -1])},
        {"merged": np.int64([0, 12, -1])},
        {"merged": np.int64([0, 2, 9, 2])},
        {"whole": np.int64([1, 6, 3, 2])},
    ],
    ids=["a weight", "a bias", "no whole channels", "parts of channels", "in planes", "another shape"],
)
def test_what_only_looks_like_it_stays(changes: dict[str, np.ndarray]) -> None:
    count = int(changes.get("merged", CONSTANTS["merged"])[1])
    sized = {"ones": np.ones(count, np.float32), "zeros": np.zeros(count, np.float32), **changes}
    model = spelled(3, **sized)
    graph = compiled(model)
    assert "GroupNormalization" not in operators_of(graph)
    expect_same_function(model, graph)


def test_factors_of_positions_are_no_weights() -> None:
    for changes in ({"w": np.full((2, 3), 2.0, np.float32)}, {"b": np.full((1, 1, 3), 2.0, np.float32)}):
        graph = compiled(spelled(**changes))
        assert operators_of(graph).count("Mul") == operators_of(graph).count("Add") == 1
        expect_same_function(spelled(**changes), graph)


@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.5, 4.0])
def test_bounds_of_the_operator_hold_for_the_spelling(radius: float) -> None:
    """In binary32, as ONNX Runtime computes the steps, and so do those of the checker."""
    model, rng = spelled(), np.random.default_rng(0)
    graph, run, checker = compiled(model), runtime(model), Checker(model)
    node = graph.order()[-1]
    call = call_of(graph, node, Arithmetic.FLOAT32)
    parameters = {role: torch.as_tensor(value) for role, value in graph.parameters_of(node.name).items()}
    for scale in (1.0, 100.0):
        center = (scale * rng.normal(size=SHAPE) + scale).astype(np.float32)
        low, high = (center + np.float32(sign * radius) for sign in (-1, 1))
        box = operators()["GroupNormalization"].rules.interval(
            call, Interval.bounds(torch.from_numpy(low), torch.from_numpy(high)), **parameters
        )
        wide = [end.astype(np.float64).ravel() for end in (low, high)]
        ends = checker.bound_rows([wide[0]], [wide[1]], np.eye(36), "float32")
        for _ in range(50):
            share = rng.random(SHAPE).round(int(rng.integers(0, 3)))
            x = np.clip((low + share * (high - low)).astype(np.float32), low, high)
            (value,) = run.run(None, {"x": x})
            assert (box.lower.numpy() <= value).all() and (value <= box.upper.numpy()).all()
            assert (ends[0] <= value.ravel()).all() and (value.ravel() <= ends[1]).all()


def test_the_weights_of_a_module_are_trained_and_go_back() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    module, x = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU()).eval(), torch.randn(2, 1, 6, 6)
    network = ibpc.compile(module, x)
    assert not network.notes
    assert operators_of(network.graph) == ["Input", "Conv", "GroupNormalization", "Relu"]
    network.assign({key: torch.as_tensor(value) + 0.1 for key, value in network.graph.state.items()})
    before = norm.weight.clone()
    ibpc.copy_weights(network, module, x)
    assert torch.allclose(norm.weight, before + 0.1)
    torch.testing.assert_close(module(x), network.nominal(x), rtol=1e-4, atol=1e-4)
