"""Nodes that no output needs are removed with their parameters; inputs and shared arrays stay."""

from __future__ import annotations

import torch

from ibpc.ir import BATCH, INPUT, Node
from ibpc.passes import EliminateDeadCode, merge_specification
from ibpc.passes._roundings import HINT, add_fused_roundings
from tests.passes.building import Net, listing, nominal, seeded


def test_dead_branches_go_with_their_parameters() -> None:
    net = Net(3)
    net.add("live", "Gemm", "x", weight=torch.ones(2, 3))
    net.add("dead", "Gemm", "x", weight=torch.ones(4, 3), bias=torch.ones(4))
    net.add("deader", "Relu", "dead")
    net.constant("unread", 1.0)
    net.graph.add(Node("other", INPUT, {"shape": [1], "range": None}, (BATCH, 1)))
    graph = net.finish("live")
    result = EliminateDeadCode().run(graph)
    assert listing(result.graph) == (
        "graph net (x, other) -> (live) {\n"
        "x = Input[range=null, shape=[3]]() : N×3\n"
        "live = Gemm(x; weight 2×3) : N×2\n"
        "other = Input[range=null, shape=[1]]() : N×1\n"
        "}"
    )
    assert set(result.graph.state) == {"live.weight"}
    assert set(result.changes) == {
        "dead: Gemm removed, no output needs it",
        "deader: Relu removed, no output needs it",
        "unread: Constant removed, no output needs it",
    }


def test_a_shared_array_goes_to_its_heir() -> None:
    net = Net(3)
    net.add("logits", "Gemm", "x", weight=torch.randn(4, 3, generator=seeded()))
    merged = merge_specification(net.finish("logits"), torch.ones(1, 4)).graph
    merged.outputs = ("margins",)
    alone = EliminateDeadCode().run(merged).graph
    assert set(alone.state) == {"margins.specification", "margins.weight"}
    assert alone.ties == {}


def test_notes_about_removed_nodes_go() -> None:
    net = Net(3)
    net.add("live", "Relu", "x")
    net.add("dead", "Gemm", "x", weight=torch.ones(4, 3))
    graph = net.finish("live")
    add_fused_roundings(graph, "dead", 4)
    assert HINT not in EliminateDeadCode().run(graph).graph.hints
    assert graph.hints == {HINT: {"dead": 4}}


def test_values_stay() -> None:
    net = Net(3)
    net.add("dead", "Gemm", "x", weight=torch.ones(4, 3))
    net.add("live", "Relu", "x")
    graph, x = net.finish("live"), torch.randn(2, 3, generator=seeded())
    assert torch.equal(nominal(EliminateDeadCode().run(graph).graph, x)[0], nominal(graph, x)[0])
