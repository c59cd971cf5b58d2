"""Shapes are recomputed from the rules, and everything that does not fit is reported together."""

from __future__ import annotations

import pytest
import torch

from ibpc.errors import GraphError
from ibpc.ir import Graph
from ibpc.passes import InferShapes
from tests.passes.building import Net


def network() -> Graph:
    net = Net(2, 8, 8)
    net.conv("conv", "x", torch.zeros(3, 2, 3, 3))
    net.add("relu", "Relu", "conv")
    net.add("flat", "Flatten", "relu")
    net.add("logits", "Gemm", "flat", weight=torch.zeros(10, 108))
    return net.finish("logits")


def test_lost_shapes_come_back() -> None:
    graph, truth = network(), network().to_text()
    for name in ("conv", "relu", "flat", "logits"):
        graph.replace(name, shape=())
    result = InferShapes().run(graph)
    assert result.graph.to_text() == truth
    assert result.changes == (
        "conv: shape scalar → N×3×6×6",
        "relu: shape scalar → N×3×6×6",
        "flat: shape scalar → N×108",
        "logits: shape scalar → N×10",
    )


def test_right_shapes_stay() -> None:
    assert InferShapes().run(network()).changes == ()


def test_all_misfits_are_reported_and_nothing_that_follows_from_them() -> None:
    net = Net(2, 8, 8)
    net.conv("conv", "x", torch.zeros(3, 2, 3, 3))
    net.add("relu", "Relu", "conv")
    net.constant("three", torch.ones(3))
    net.add("flat", "Flatten", "x")
    net.add("sum", "Add", ["flat", net.constant("offset", torch.ones(128))])
    graph = net.finish("relu", "sum")
    graph.state["conv.weight"] = torch.zeros(3, 5, 3, 3)
    graph.set_operands("sum", ["flat", "three"])
    with pytest.raises(GraphError) as caught:
        InferShapes().run(graph)
    assert [problem.where for problem in caught.value.problems] == ["node conv (Conv)", "node sum (Add)"]


def test_malformed_nodes_are_reported_before_any_rule_runs() -> None:
    graph = network()
    graph.replace("conv", attributes={"strides": [1, 1]})
    graph.replace("relu", operator="Rleu")
    with pytest.raises(GraphError) as caught:
        InferShapes().run(graph)
    assert {problem.where for problem in caught.value.problems} == {"node conv", "node relu"}
    assert "did you mean 'Relu'?" in str(caught.value)
