"""Nodes that do not depend on an input are computed once."""

from __future__ import annotations

import torch

from ibpc.passes import FoldConstants
from tests.passes.building import Net, listing, nominal, seeded


def test_a_chain_of_constants() -> None:
    net = Net(3)
    net.constant("one", torch.tensor([1.0, 2.0, 3.0]))
    net.constant("two", torch.tensor([0.5, 0.25, 2.0]))
    net.add("sum", "Add", ["one", "two"])
    net.add("scale", "Mul", ["sum", "two"])
    net.add("y", "Add", ["x", "scale"])
    graph = net.finish("y")
    result = FoldConstants().run(graph)
    assert listing(result.graph) == (
        "graph net (x) -> (y) {\n"
        "x = Input[range=null, shape=[3]]() : N×3\n"
        "one = Constant(value 3) : 3\n"
        "two = Constant(value 3) : 3\n"
        "sum = Constant(value 3) : 3\n"
        "scale = Constant(value 3) : 3\n"
        "y = Add(x, scale) : N×3\n"
        "}"
    )
    assert result.changes == ("sum: Add of constants computed, 3", "scale: Mul of constants computed, 3")
    assert result.graph.state["scale.value"].tolist() == [0.75, 0.5625, 10.0]
    x = torch.randn(2, 3, generator=seeded())
    assert torch.equal(nominal(result.graph, x)[0], nominal(graph, x)[0])


def test_integers_stay_integers() -> None:
    net = Net(2)
    net.constant("first", torch.tensor([2, 3]))
    net.add("both", "Add", ["first", net.constant("second", torch.tensor([4]))])
    folded = FoldConstants().run(net.finish("x", "both")).graph
    assert folded.state["both.value"].tolist() == [6, 7]
    assert folded.state["both.value"].dtype == torch.int64


def test_parameters_and_what_reads_them_stay() -> None:
    net = Net(3)
    net.constant("token", torch.ones(1, 2))
    net.add("embedded", "Gemm", "token", weight=torch.ones(3, 2))
    net.add("clipped", "Relu", "embedded")
    net.add("y", "Add", ["x", "clipped"])
    result = FoldConstants().run(net.finish("y"))
    assert result.changes == ()
    assert result.refusals == (
        "embedded: not folded, it has parameters, which training may move",
        "clipped: not folded, embedded was not",
    )


def test_what_acts_differently_in_training_stays() -> None:
    net = Net(3)
    net.add("mask", "Dropout", net.constant("ones", torch.ones(1, 3)))
    net.add("y", "Mul", ["x", "mask"])
    result = FoldConstants().run(net.finish("y"))
    assert result.refusals == ("mask: not folded, Dropout acts differently while training",)
