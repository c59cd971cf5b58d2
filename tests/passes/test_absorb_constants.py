"""Constant factors and addends become weights and biases, exactly."""

from __future__ import annotations

import pytest
import torch

from ibpc.interval import Interval
from ibpc.lowering import parameter_tree
from ibpc.passes import AbsorbConstants
from ibpc.rounding import Arithmetic
from tests.passes.building import Net, bounds, listing, nominal, seeded


def test_matmul_and_add_are_a_gemm() -> None:
    draw = seeded()
    net = Net(4)
    net.constant("matrix", torch.randn(4, 3, generator=draw))
    net.add("product", "MatMul", ["x", "matrix"])
    net.add("sum", "Add", [net.constant("offset", torch.randn(3, generator=draw)), "product"])
    net.add("y", "Relu", "sum")
    graph = net.finish("y")
    result = AbsorbConstants().run(graph)
    assert listing(result.graph) == (
        "graph net (x) -> (y) {\n"
        "x = Input[range=null, shape=[4]]() : N×4\n"
        "matrix = Constant(value 4×3) : 4×3\n"
        "product = Gemm(x; weight 3×4, bias 3) : N×3\n"
        "offset = Constant(value 3) : 3\n"
        "y = Relu(product) : N×3\n"
        "}"
    )
    assert result.changes == (
        "product: MatMul by a constant matrix is a Gemm",
        "sum: Add absorbed as the bias of product",
    )
    x = torch.randn(5, 4, generator=draw)
    torch.testing.assert_close(nominal(result.graph, x)[0], nominal(graph, x)[0], rtol=1e-14, atol=1e-14)
    assert {name for name, _ in parameter_tree(result.graph).named_parameters()} == {"product.weight", "product.bias"}


def test_sub_is_a_negative_bias_of_a_convolution() -> None:
    draw = seeded()
    net = Net(2, 5, 5)
    net.conv("conv", "x", torch.randn(3, 2, 3, 3, generator=draw), pads=1)
    offset = torch.randn(3, 1, 1, generator=draw)
    net.add("y", "Sub", ["conv", net.constant("offset", offset)])
    graph = net.finish("y")
    result = AbsorbConstants().run(graph)
    assert torch.equal(result.graph.state["conv.bias"], -offset.flatten())
    x = torch.randn(2, 2, 5, 5, generator=draw)
    torch.testing.assert_close(nominal(result.graph, x)[0], nominal(graph, x)[0], rtol=1e-14, atol=1e-14)


def test_bounds_stay() -> None:
    draw = seeded()
    net = Net(4)
    net.constant("matrix", torch.randn(4, 3, generator=draw))
    net.add("product", "MatMul", ["x", "matrix"])
    net.add("y", "Add", ["product", net.constant("offset", torch.randn(3, generator=draw))])
    graph = net.finish("y")
    box = Interval.ball(torch.randn(5, 4, generator=draw), 0.3)
    before, after = (
        bounds(each, box, Arithmetic.REAL, torch.float64)[0] for each in (graph, AbsorbConstants().run(graph).graph)
    )
    torch.testing.assert_close(after.lower, before.lower, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(after.upper, before.upper, rtol=1e-13, atol=1e-13)


def _refusals(net: Net, *outputs: str) -> tuple[str, ...]:
    graph = net.finish(*outputs)
    result = AbsorbConstants().run(graph)
    assert result.graph.to_text() == graph.to_text()
    return result.refusals


def test_a_second_bias_is_refused() -> None:
    net = Net(2)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 2), bias=torch.ones(2))
    net.add("sum", "Add", ["gemm", net.constant("offset", torch.ones(2))])
    assert _refusals(net, "sum") == ("sum: not absorbed, gemm has a bias already",)


def test_a_value_with_other_readers_is_refused() -> None:
    net = Net(2)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 2))
    net.add("sum", "Add", ["gemm", net.constant("offset", torch.ones(2))])
    net.add("relu", "Relu", "gemm")
    assert _refusals(net, "sum", "relu", "gemm") == (
        "sum: not absorbed, the value of gemm is also read by relu and the caller",
    )


def test_a_constant_that_differs_within_a_channel_is_refused() -> None:
    net = Net(1, 2, 2)
    net.conv("conv", "x", torch.ones(3, 1, 1, 1))
    net.add("sum", "Add", ["conv", net.constant("offset", torch.arange(4.0).reshape(2, 2))])
    assert _refusals(net, "sum") == ("sum: not absorbed, it treats the positions of one channel of conv differently",)


def test_a_constant_of_higher_precision_is_refused() -> None:
    net = Net(2)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 2))
    net.add("sum", "Add", ["gemm", net.constant("offset", torch.tensor([0.1, 0.2], dtype=torch.float64))])
    assert _refusals(net, "sum") == ("sum: not absorbed, the constant has more digits than the weights of gemm",)


@pytest.mark.parametrize("operands", [("offset", "gemm"), ("gemm", "other")], ids=["negated", "no constant"])
def test_what_is_no_addend_is_left_without_a_word(operands: tuple[str, str]) -> None:
    net = Net(2)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 2))
    net.add("other", "Relu", "x")
    net.constant("offset", torch.ones(2))
    net.add("difference", "Sub", operands)
    assert _refusals(net, "difference", "other") == ()


def test_a_matrix_on_the_left_stays() -> None:
    net = Net(2, 3)
    net.add("product", "MatMul", [net.constant("matrix", torch.ones(4, 2)), "x"])
    assert _refusals(net, "product") == ()
