"""BatchNormalization in evaluation is folded into its neighbour exactly, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ibpc.entries import Entries
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.passes import FoldBatchNormalization, merge_specification
from ibpc.passes._roundings import HINT, add_fused_roundings
from ibpc.rounding import Arithmetic
from tests.passes.building import Net, bounds, listing, nominal, seeded

Draw = torch.Generator


def double(graph: Graph) -> Graph:
    """Return the graph with binary64 parameters, so that folding is exact to binary64 rounding."""
    copy = graph.copy()
    copy.state = Entries({key: value.double() for key, value in graph.state.items()})
    return copy


def behind_conv(draw: Draw) -> Graph:
    net = Net(2, 5, 5)
    net.conv("conv", "x", torch.randn(4, 2, 3, 3, generator=draw), pads=1, bias=torch.randn(4, generator=draw))
    net.normalization("bn", "conv", draw)
    return net.finish(net.add("y", "Relu", "bn"))


def behind_grouped_conv(draw: Draw) -> Graph:
    net = Net(4, 5, 5)
    net.conv("conv", "x", torch.randn(6, 2, 3, 3, generator=draw), pads=1, group=2)
    net.normalization("bn", "conv", draw)
    return net.finish(net.add("y", "Relu", "bn"))


def behind_grouped_transposed_conv(draw: Draw) -> Graph:
    net = Net(4, 3, 3)
    weight = torch.randn(4, 3, 2, 2, generator=draw)
    net.conv_transpose("conv", "x", weight, group=2, bias=torch.randn(6, generator=draw))
    net.normalization("bn", "conv", draw)
    return net.finish(net.add("y", "Relu", "bn"))


def behind_gemm(draw: Draw) -> Graph:
    net = Net(5)
    net.add("gemm", "Gemm", "x", weight=torch.randn(3, 5, generator=draw), bias=torch.randn(3, generator=draw))
    net.normalization("bn", "gemm", draw)
    return net.finish(net.add("y", "Relu", "bn"))


def before_conv(draw: Draw) -> Graph:
    net = Net(4, 5, 5)
    net.normalization("bn", "x", draw)
    net.conv("conv", "bn", torch.randn(6, 2, 3, 3, generator=draw), group=2, bias=torch.randn(6, generator=draw))
    return net.finish(net.add("y", "Relu", "conv"))


def before_flat_gemm(draw: Draw) -> Graph:
    net = Net(2, 3, 3)
    net.add("relu", "Relu", "x")
    net.normalization("bn", "relu", draw)
    net.add("flat", "Flatten", "bn")
    net.add("gemm", "Gemm", "flat", weight=torch.randn(5, 18, generator=draw))
    return net.finish(net.add("y", "Relu", "gemm"))


FOLDED = (
    behind_conv,
    behind_grouped_conv,
    behind_grouped_transposed_conv,
    behind_gemm,
    before_conv,
    before_flat_gemm,
)


@pytest.mark.parametrize("make", FOLDED, ids=lambda make: make.__name__)
def test_values_and_bounds_stay(make: Callable[[Draw], Graph]) -> None:
    draw = seeded(len(make.__name__))
    graph = double(make(draw))
    result = FoldBatchNormalization().run(graph)
    assert "bn" not in result.graph
    x = torch.randn(3, *graph.node("x").shape[1:], generator=draw, dtype=torch.float64)
    torch.testing.assert_close(nominal(result.graph, x)[0], nominal(graph, x)[0], rtol=1e-12, atol=1e-12)
    box = Interval.ball(x, torch.rand(x.shape, generator=draw, dtype=torch.float64))
    before, after = (bounds(each, box, Arithmetic.REAL, torch.float64)[0] for each in (graph, result.graph))
    torch.testing.assert_close(after.lower, before.lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.upper, before.upper, rtol=1e-12, atol=1e-12)


def test_text_backward() -> None:
    result = FoldBatchNormalization().run(behind_conv(seeded()))
    assert listing(result.graph) == (
        "graph net (x) -> (y) {\n"
        "x = Input[range=null, shape=[2, 5, 5]]() : N×2×5×5\n"
        "conv = Conv(x; weight 4×2×3×3, bias 4, bias_magnitude 4) : N×4×5×5\n"
        "y = Relu(conv) : N×4×5×5\n"
        "}"
    )
    assert result.changes == ("bn: folded into conv before it",)
    assert result.graph.hints == {HINT: {"conv": 14}}


def test_text_forward() -> None:
    result = FoldBatchNormalization().run(before_flat_gemm(seeded()))
    assert listing(result.graph) == (
        "graph net (x) -> (y) {\n"
        "x = Input[range=null, shape=[2, 3, 3]]() : N×2×3×3\n"
        "relu = Relu(x) : N×2×3×3\n"
        "flat = Flatten(relu) : N×18\n"
        "gemm = Gemm(flat; weight 5×18, bias 5, bias_magnitude 5) : N×5\n"
        "y = Relu(gemm) : N×5\n"
        "}"
    )
    assert result.changes == ("bn: folded into gemm behind it",)


def test_the_formulas() -> None:
    """One channel, numbers that are exact: s = 2 / √(3.75 + 0.25) = 1."""
    net = Net(1)
    net.add("gemm", "Gemm", "x", weight=torch.tensor([[3.0]]), bias=torch.tensor([5.0]))
    state = {"weight": [2.0], "bias": [1.0], "running_mean": [7.0], "running_var": [3.75]}
    tensors = {role: torch.tensor(value) for role, value in state.items()}
    net.add("bn", "BatchNormalization", "gemm", {"epsilon": 0.25}, **tensors)
    folded = FoldBatchNormalization().run(net.finish("bn")).graph
    assert folded.state["gemm.weight"].tolist() == [[3.0]]
    assert folded.state["gemm.bias"].tolist() == [5.0 - 7.0 + 1.0]
    assert folded.state["gemm.bias_magnitude"].tolist() == pytest.approx([5.0 + 7.0 + 1.0], rel=1e-6)
    assert folded.state["gemm.bias_magnitude"].item() >= 13.0


def test_the_magnitude_is_rounded_up() -> None:
    graph = behind_gemm(seeded(9))
    state = {key: value.double() for key, value in graph.state.items()}
    scale = state["bn.weight"] / torch.sqrt(state["bn.running_var"] + graph.node("bn").attributes["epsilon"])
    parts = (state["gemm.bias"] * scale, state["bn.running_mean"] * scale, state["bn.bias"])
    exact = sum(part.abs() for part in parts)
    folded = FoldBatchNormalization().run(graph).graph.state["gemm.bias_magnitude"].double()
    assert bool((folded >= exact).all())
    assert bool((folded <= exact * (1.0 + 2.0**-22)).all())
    assert bool((exact.float().double() < exact).any()), "plain rounding would do as well"


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────
def refusal(graph: Graph) -> str:
    result = FoldBatchNormalization().run(graph)
    assert result.changes == ()
    assert result.graph.to_text() == graph.to_text()
    (line,) = result.refusals
    return line


def test_several_readers() -> None:
    draw = seeded()
    net = Net(2, 5, 5)
    net.conv("conv", "x", torch.randn(4, 2, 3, 3, generator=draw))
    net.normalization("bn", "conv", draw)
    net.add("relu", "Relu", "conv")
    net.add("y", "Add", ["bn", "relu"])
    assert refusal(net.finish("y")) == (
        "bn: not folded backward, the value of conv is also read by relu; not folded forward, y is an Add"
    )


def test_an_output_is_read_by_the_caller() -> None:
    draw = seeded()
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 3))
    net.normalization("bn", "gemm", draw)
    assert refusal(net.finish("bn", "gemm")) == (
        "bn: not folded backward, the value of gemm is also read by the caller; "
        "not folded forward, its value is read by the caller"
    )


def test_padding_stands_in_the_way_of_a_shift() -> None:
    draw = seeded()
    net = Net(2, 5, 5)
    net.normalization("bn", "x", draw)
    net.conv("conv", "bn", torch.randn(4, 2, 3, 3, generator=draw), pads=1)
    assert refusal(net.finish("conv")) == (
        "bn: not folded backward, x is an Input; not folded forward, it adds to the elements and not to the zeros "
        "that conv has at its borders"
    )


def test_overlapping_windows_stand_in_the_way_of_a_shift() -> None:
    draw = seeded()
    net = Net(2, 5, 5)
    net.normalization("bn", "x", draw)
    net.conv_transpose("conv", "bn", torch.randn(2, 4, 3, 3, generator=draw))
    assert "at its borders" in refusal(net.finish("conv"))


def test_shared_weights_stay() -> None:
    draw = seeded()
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 3))
    net.normalization("bn", "gemm", draw)
    net.add("twin", "Gemm", "x", weight=torch.ones(2, 3))
    graph = net.finish("bn", "twin")
    graph.tie("twin.weight", "gemm.weight")
    assert "the weights of gemm are shared: twin.weight" in refusal(graph)


def test_constrained_weights_stay() -> None:
    draw = seeded()
    net = Net(3)
    net.add("gemm", "Gemm", "x", constraints=["nonnegative"], weight=torch.ones(2, 3))
    net.normalization("bn", "gemm", draw)
    assert "the weights of gemm are constrained to be nonnegative" in refusal(net.finish("bn"))


def test_a_specification_stays() -> None:
    draw = seeded()
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 3))
    graph = merge_specification(net.finish("gemm"), torch.ones(2, 2)).graph
    graph.outputs = ("margins",)
    graph.remove("gemm")
    again = Net(3)
    again.graph = graph
    again.normalization("bn", "margins", draw)
    assert "margins carries a specification" in refusal(again.finish("bn"))


@pytest.mark.parametrize("other", [None, 1.0, -1.0])
@pytest.mark.parametrize(
    ("role", "value"),
    [
        *(("weight", value) for value in (1e-44, -1e-44, float("nan"), 1e38, -1e38)),
        *(("running_mean", value) for value in (1e38, -1e38, float("nan"))),
        ("running_var", -1.0),
    ],
)
def test_values_outside_the_normal_range_stay(role: str, value: float, other: float | None) -> None:
    """Of all channels, or of one of them."""
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.ones(2, 3))
    net.normalization("bn", "gemm", seeded())
    graph = net.finish("bn")
    graph.state["bn.running_var"] = torch.full((2,), 1e-6)
    graph.state[f"bn.{role}"] = torch.tensor([value, value if other is None else other])
    assert "the weights of gemm would leave the normal range" in refusal(graph)


def test_too_many_roundings() -> None:
    graph = behind_gemm(seeded())
    add_fused_roundings(graph, "gemm", 27)
    line = refusal(graph)
    assert "gemm has taken in 27 roundings a term and 14 more would be too many" in line
    graph = behind_gemm(seeded())
    add_fused_roundings(graph, "gemm", 26)
    assert FoldBatchNormalization().run(graph).graph.hints == {HINT: {"gemm": 40}}
