"""Runs of affine elementwise operators are fused into the linear operator beside them exactly, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ibpc.entries import Entries
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.passes import FuseAffine
from ibpc.passes._roundings import HINT, MOST_ROUNDINGS
from ibpc.rounding import Arithmetic
from tests.passes.building import Net, bounds, listing, nominal, seeded

Draw = torch.Generator


def run_of_all(net: Net, value: str, shape: tuple[int, ...], draw: Draw) -> str:
    """Append 1.5 − (−(value · c) / d + e) + f with constants of the given shape."""
    for name in ("c", "d", "e", "f"):
        net.constant(name, torch.rand(shape, generator=draw) + 0.5)
    net.add("mul", "Mul", ["c", value])
    net.add("neg", "Neg", "mul")
    net.add("div", "Div", ["neg", "d"])
    net.add("plus", "Add", ["div", "e"])
    net.add("minus", "Sub", [net.constant("k", 1.5), "plus"])
    return net.add("last", "Add", ["minus", "f"])


def behind_gemm(draw: Draw) -> Graph:
    net = Net(4)
    net.add("linear", "Gemm", "x", weight=torch.randn(3, 4, generator=draw), bias=torch.randn(3, generator=draw))
    return net.finish(net.add("y", "Relu", run_of_all(net, "linear", (3,), draw)))


def behind_gemm_of_rows(draw: Draw) -> Graph:
    net = Net(2, 4)
    net.add("linear", "Gemm", "x", weight=torch.randn(3, 4, generator=draw))
    return net.finish(net.add("y", "Relu", run_of_all(net, "linear", (1, 1, 3), draw)))


def behind_padded_conv(draw: Draw) -> Graph:
    net = Net(2, 4, 4)
    net.conv("linear", "x", torch.randn(6, 1, 3, 3, generator=draw), pads=1, group=2)
    return net.finish(net.add("y", "Relu", run_of_all(net, "linear", (6, 1, 1), draw)))


def behind_transposed_conv(draw: Draw) -> Graph:
    net = Net(4, 3)
    weight = torch.randn(4, 3, 2, generator=draw)
    net.conv_transpose("linear", "x", weight, group=2, bias=torch.randn(6, generator=draw))
    return net.finish(net.add("y", "Relu", run_of_all(net, "linear", (1, 6, 1), draw)))


def before_conv(draw: Draw) -> Graph:
    net = Net(4, 4, 4)
    weight = torch.randn(6, 2, 3, 3, generator=draw)
    net.conv("linear", run_of_all(net, "x", (4, 1, 1), draw), weight, group=2, bias=torch.randn(6, generator=draw))
    return net.finish(net.add("y", "Relu", "linear"))


def before_gemm_of_pixels(draw: Draw) -> Graph:
    """One constant per pixel, and views in between."""
    net = Net(2, 3, 3)
    net.add("row", "Reshape", run_of_all(net, "x", (1, 2, 3, 3), draw), {"shape": [6, 3]})
    net.add("flat", "Flatten", "row")
    net.add("linear", "Gemm", "flat", weight=torch.randn(5, 18, generator=draw))
    return net.finish(net.add("y", "Relu", "linear"))


def behind_gemm_and_views(draw: Draw) -> Graph:
    """As in a generator: features become an image before channels are scaled."""
    net = Net(4)
    net.add("linear", "Gemm", "x", weight=torch.randn(12, 4, generator=draw), bias=torch.randn(12, generator=draw))
    net.add("row", "Reshape", "linear", {"shape": [3, 4]})
    net.add("image", "Reshape", "row", {"shape": [3, 2, 2]})
    return net.finish(net.add("y", "Relu", run_of_all(net, "image", (3, 1, 1), draw)))


FUSED = (
    behind_gemm_and_views,
    behind_gemm,
    behind_gemm_of_rows,
    behind_padded_conv,
    behind_transposed_conv,
    before_conv,
    before_gemm_of_pixels,
)


@pytest.mark.parametrize("make", FUSED, ids=lambda make: make.__name__)
def test_values_and_bounds_stay(make: Callable[[Draw], Graph]) -> None:
    draw = seeded(len(make.__name__))
    graph = make(draw)
    graph.state = Entries({key: value.double() for key, value in graph.state.items()})
    result = FuseAffine().run(graph)
    left = {node.operator for node in result.graph.order()} - {"Constant", "Flatten", "Reshape", "Input", "Relu"}
    assert left <= {"Conv", "ConvTranspose", "Gemm"}
    assert len(result.changes) == 6
    assert result.graph.hints == {HINT: {"linear": 10}}
    x = torch.randn(3, *graph.node("x").shape[1:], generator=draw, dtype=torch.float64)
    torch.testing.assert_close(nominal(result.graph, x)[0], nominal(graph, x)[0], rtol=1e-12, atol=1e-12)
    box = Interval.ball(x, torch.rand(x.shape, generator=draw, dtype=torch.float64))
    before, after = (bounds(each, box, Arithmetic.REAL, torch.float64)[0] for each in (graph, result.graph))
    torch.testing.assert_close(after.lower, before.lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.upper, before.upper, rtol=1e-12, atol=1e-12)


def test_text() -> None:
    net = Net(1, 2, 2)
    net.constant("mean", 0.5)
    net.constant("std", 0.25)
    net.add("sub", "Sub", ["x", "mean"])
    net.add("div", "Div", ["sub", "std"])
    net.add("flat", "Flatten", "div")
    net.add("gemm", "Gemm", "flat", weight=torch.tensor([[1.0, 2.0, 3.0, 4.0]]), bias=torch.tensor([1.0]))
    net.constant("three", 3.0)
    net.add("mul", "Mul", ["gemm", "three"])
    result = FuseAffine().run(net.finish("mul"))
    assert listing(result.graph) == (
        "graph net (x) -> (gemm) {\n"
        "x = Input[range=null, shape=[1, 2, 2]]() : N×1×2×2\n"
        "mean = Constant(value scalar) : scalar\n"
        "std = Constant(value scalar) : scalar\n"
        "flat = Flatten(x) : N×4\n"
        "gemm = Gemm(flat; weight 1×4, bias 1, bias_magnitude 1) : N×1\n"
        "three = Constant(value scalar) : scalar\n"
        "}"
    )
    assert result.changes == (
        "mul: Mul fused into gemm before it",
        "div: Div fused into gemm behind it",
        "sub: Sub fused into gemm behind it",
    )
    assert result.graph.state["gemm.weight"].tolist() == [[12.0, 24.0, 36.0, 48.0]]
    assert result.graph.state["gemm.bias"].tolist() == [3.0 - 0.5 * 120.0]
    magnitude = result.graph.state["gemm.bias_magnitude"].item()
    assert 63.0 <= magnitude < 63.0001


def test_negation_rounds_nothing_and_needs_no_magnitude() -> None:
    net = Net(2)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 2), bias=torch.ones(2))
    graph = FuseAffine().run(net.finish(net.add("neg", "Neg", "gemm"))).graph
    assert graph.hints == {}
    assert set(graph.state) == {"gemm.weight", "gemm.bias"}
    assert graph.state["gemm.bias"].tolist() == [-1.0, -1.0]


def test_a_scale_passes_padding_and_a_shift_does_not() -> None:
    draw = seeded()
    net = Net(2, 4, 4)
    net.add("shift", "Sub", ["x", net.constant("mean", torch.rand(2, 1, 1, generator=draw))])
    net.add("scale", "Div", ["shift", net.constant("std", torch.rand(2, 1, 1, generator=draw))])
    net.conv("conv", "scale", torch.randn(3, 2, 3, 3, generator=draw), pads=1)
    graph = net.finish("conv")
    result = FuseAffine().run(graph)
    assert result.changes == ("scale: Div fused into conv behind it",)
    assert result.refusals == (
        "shift: not fused backward, x is an Input; not fused forward, it adds to the elements and not to the zeros "
        "that conv has at its borders",
    )
    x = torch.randn(2, 2, 4, 4, generator=draw)
    torch.testing.assert_close(nominal(result.graph, x)[0], nominal(graph, x)[0], rtol=1e-5, atol=1e-5)


def test_a_scale_goes_into_a_transposed_convolution() -> None:
    draw = seeded()
    net = Net(4, 3)
    net.add("scale", "Mul", ["x", net.constant("c", torch.rand(4, 1, generator=draw).double())])
    net.conv_transpose("conv", "scale", torch.randn(4, 3, 2, generator=draw).double(), group=2)
    graph = net.finish("conv")
    result = FuseAffine().run(graph)
    assert "scale" not in result.graph
    x = torch.randn(2, 4, 3, generator=draw)
    torch.testing.assert_close(nominal(result.graph, x)[0], nominal(graph, x)[0], rtol=1e-12, atol=1e-12)


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────
def refusals(net: Net, *outputs: str) -> tuple[str, ...]:
    graph = net.finish(*outputs)
    result = FuseAffine().run(graph)
    assert result.changes == ()
    assert result.graph.to_text() == graph.to_text()
    return result.refusals


def test_several_readers() -> None:
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 3))
    net.add("mul", "Mul", ["gemm", net.constant("c", 3.0)])
    net.add("y", "Add", ["mul", "gemm"])
    assert refusals(net, "y") == (
        "mul: not fused backward, the value of gemm is also read by y; not fused forward, y is an Add",
    )


def test_a_view_with_several_readers() -> None:
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 3))
    net.add("view", "Reshape", "gemm", {"shape": [1, 2]})
    net.add("mul", "Mul", ["view", net.constant("c", 3.0)])
    net.add("relu", "Relu", "view")
    net.add("y", "Add", ["mul", "relu"])
    assert refusals(net, "y") == ()


def test_a_constant_that_differs_within_a_channel() -> None:
    net = Net(2, 2, 2)
    net.conv("conv", "x", torch.ones(1, 2, 1, 1))
    net.add("mul", "Mul", ["conv", net.constant("c", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))])
    assert refusals(net, "mul") == (
        "mul: not fused backward, it treats the positions of one channel of conv differently; "
        "not fused forward, its value is read by the caller",
    )


@pytest.mark.parametrize("make", ["reciprocal", "zero", "wider", "two boxes"])
def test_what_is_no_scaling_is_left_without_a_word(make: str) -> None:
    net = Net(1)
    net.add("gemm", "Gemm", "x", weight=torch.ones(1, 1))
    net.add("relu", "Relu", "x")
    operator, operands = {
        "reciprocal": ("Div", [net.constant("one", 1.0), "gemm"]),
        "zero": ("Div", ["gemm", net.constant("zero", torch.zeros(1))]),
        "wider": ("Mul", ["gemm", net.constant("row", torch.ones(4))]),
        "two boxes": ("Mul", ["gemm", "relu"]),
    }[make]
    net.add("node", operator, operands)
    assert refusals(net, "node", "relu") == ()


def test_what_has_no_linear_neighbour_is_left_without_a_word() -> None:
    net = Net(3)
    net.add("relu", "Relu", "x")
    net.add("mul", "Mul", ["relu", net.constant("c", 2.0)])
    net.add("y", "Relu", "mul")
    assert refusals(net, "y") == ()


def test_values_without_a_batch_are_left_alone() -> None:
    """The rows of an exact value are not samples: each has its own constant."""
    net = Net(2)
    net.add("token", "Gemm", net.constant("c", torch.ones(1, 2)), weight=torch.ones(2, 2))
    net.add("mul", "Mul", ["token", net.constant("d", torch.tensor([[1.0, 2.0]]))])
    net.add("y", "Add", ["x", "mul"])
    assert refusals(net, "y") == ()


def test_no_more_than_the_bound_can_bear() -> None:
    net = Net(2)
    value = net.add("gemm", "Gemm", "x", weight=torch.ones(2, 2))
    net.constant("c", 3.0)
    for index in range(MOST_ROUNDINGS // 2 + 1):
        value = net.add(f"mul{index}", "Mul", [value, "c"])
    result = FuseAffine().run(net.finish(value))
    assert len(result.changes) == MOST_ROUNDINGS // 2
    assert result.graph.hints == {HINT: {"gemm": MOST_ROUNDINGS}}
    (line,) = result.refusals
    assert line.startswith("mul20: not fused backward, gemm has taken in 40 roundings a term and 2 more would be too")
    again = FuseAffine().run(result.graph)
    assert again.changes == ()
