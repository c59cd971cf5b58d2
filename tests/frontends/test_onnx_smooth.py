"""Elementary functions and activations in ONNX files, in the operator versions of old and new opsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

import ibpc
from ibpc.frontends.onnx import translate
from ibpc.frontends.spec import graph_from_spec
from ibpc.ir import Graph
from ibpc.network import Network
from ibpc.ops import operators
from tests.formulas import SPELLED, spelled
from tests.onnx_models import chain, expect_same_function, model

NODE = helper.make_node
# 1 / 6 and the constants of Selu are those of the standard.
UNARY = [
    ("Exp", 7, {}),
    ("Exp", 13, {}),
    ("Sin", 7, {}),
    ("Cos", 17, {}),
    ("Erf", 9, {}),
    ("Erf", 13, {}),
    ("Selu", 7, {}),
    ("Selu", 17, {"alpha": 0.5, "gamma": 2.0}),
    ("Celu", 12, {}),
    ("Celu", 17, {"alpha": 2.0}),
    ("HardSigmoid", 7, {}),
    ("HardSigmoid", 17, {"alpha": 0.5, "beta": 0.25}),
    ("HardSwish", 14, {}),
    ("Softsign", 7, {}),
    ("ThresholdedRelu", 10, {}),
    ("ThresholdedRelu", 17, {"alpha": -0.5}),
    ("Shrink", 9, {}),
    ("Shrink", 17, {"lambd": 0.25, "bias": 0.5}),
    ("Mish", 18, {}),
    ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}),
]


@pytest.mark.parametrize("start", [[1, 3, 2], [3]], ids=["batch", "no batch"])
@pytest.mark.parametrize(("kind", "opset", "attributes"), UNARY)
def test_functions_of_one_operand(kind: str, opset: int, attributes: dict, start: list[int]) -> None:
    proto = chain((kind, attributes), start=start, constants={}, opset=opset)
    graph = translate(proto, "one").graph
    assert kind in operators_of(graph)
    expect_same_function(proto, graph)


def test_swish_of_opset_24() -> None:
    """ONNX Runtime does not know it yet, torch does."""
    for attributes in ({}, {"alpha": 2.0}, {"alpha": 0.0}):
        proto = chain(("Swish", attributes), start=[1, 5], constants={}, opset=24)
        graph = translate(proto, "swish").graph
        x = torch.randn(4, 5)
        expected = x * torch.sigmoid(attributes.get("alpha", 1.0) * x)
        torch.testing.assert_close(Network(graph).nominal(x), expected)


@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Reciprocal"])
@pytest.mark.parametrize("opset", [7, 13])
def test_functions_of_a_positive_operand(kind: str, opset: int) -> None:
    proto = chain(("Exp",), (kind,), start=[1, 4], constants={}, opset=opset)
    expect_same_function(proto, translate(proto, "positive").graph)


@pytest.mark.parametrize("opset", [7, 12, 13, 15])
@pytest.mark.parametrize(
    "exponent", [np.float32(2.0), np.float32([3.0, 2.0, 1.0, 0.0]), np.float32([[-2.0]])], ids=["two", "row", "inverse"]
)
def test_powers_of_any_base(opset: int, exponent: np.ndarray) -> None:
    proto = chain(("Pow", "p"), start=[1, 4], constants={"p": exponent}, opset=opset)
    expect_same_function(proto, translate(proto, "power").graph)


def test_powers_with_whole_exponents_and_exact_bases() -> None:
    proto = chain(("Pow", "p"), start=[1, 4], constants={"p": np.int64(3)}, opset=13)
    expect_same_function(proto, translate(proto, "whole").graph)
    proto = model([NODE("Pow", ["b", "x"], ["y"])], {"x": [1, 3]}, constants={"b": np.float32([0.5, 1.0, 3.0])})
    expect_same_function(proto, translate(proto, "base").graph)


@pytest.mark.parametrize("kind", ["Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("opset", [8, 13])
@pytest.mark.parametrize("names", [["x"], ["x", "c"], ["x", "z", "c"], ["c", "x", "x"]], ids="-".join)
def test_functions_of_many_operands(kind: str, opset: int, names: list[str]) -> None:
    inputs = {name: [1, 3, 4] for name in ("x", "z") if name in names}
    constants = {"c": np.float32([[0.5], [-0.25], [1.0]])} if "c" in names else {}
    proto = model([NODE(kind, names, ["y"])], inputs, constants=constants, opset=opset)
    expect_same_function(proto, translate(proto, "many").graph)


def test_every_layer_name_makes_its_operator() -> None:
    """The layers of a spec that are named after torch.nn compute what torch.nn computes."""
    modules = {
        "GELU": torch.nn.GELU(),
        "SELU": torch.nn.SELU(),
        "CELU": torch.nn.CELU(),
        "Mish": torch.nn.Mish(),
        "SiLU": torch.nn.SiLU(),
        "Hardswish": torch.nn.Hardswish(),
        "Hardsigmoid": torch.nn.Hardsigmoid(),
        "Softsign": torch.nn.Softsign(),
        "Hardshrink": torch.nn.Hardshrink(),
        "Softshrink": torch.nn.Softshrink(),
    }
    x = torch.linspace(-5.0, 5.0, 64).reshape(8, 8)
    for name, module in modules.items():
        spec = {"ibpc": 1, "name": "one", "classes": 8, "input": {"shape": [8]}, "layers": [{"type": name}]}
        torch.testing.assert_close(Network(graph_from_spec(spec, name)).nominal(x), module(x), rtol=1e-5, atol=1e-6)


def operators_of(graph: Graph) -> set[str]:
    found = {node.operator for node in graph.order()}
    assert found <= set(operators())
    return found


def test_a_formula_that_is_recognized_is_noted(tmp_path) -> None:
    operator, formula = SPELLED["gelu by erf"]
    (tmp_path / "net.onnx").write_bytes(spelled(formula).SerializeToString())
    network = ibpc.compile(tmp_path / "net.onnx")
    assert f"mul4: the formula of {operator} of x" in network.notes
