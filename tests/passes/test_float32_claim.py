"""The claim of folding and fusing: binary32 bounds of the result hold for every binary32 execution of the original.

The networks are nasty: huge means, tiny variances, shifts that cancel. Each is executed in binary32 in several orders
and forms, and in binary64 for the real value. Without `bias_magnitude` the same test must fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from ibpc.entries import Entries
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.ops import operators
from ibpc.ops.rules import Call, call_of
from ibpc.passes import EVALUATION
from tests.ops.rows_core import (
    conv_bias_last,
    conv_tap_by_tap,
    gemm_flipped,
    gemm_reversed,
    normalization_folded,
    normalization_written_out,
)
from tests.passes.building import Net, nominal, seeded, sound_bounds

Rule = Callable[..., Tensor]


def normalization_centered(
    call: Call, x: Tensor, *, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> Tensor:
    """Subtract the mean, multiply by one scale, add."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = (weight * torch.rsqrt(running_var + call["epsilon"])).reshape(shape)
    return (x - running_mean.reshape(shape)) * scale + bias.reshape(shape)


WAYS: tuple[Mapping[str, Rule], ...] = (
    {},
    {"BatchNormalization": normalization_centered},
    {"Gemm": gemm_reversed, "Conv": conv_tap_by_tap, "BatchNormalization": normalization_written_out},
    {"Gemm": gemm_flipped, "Conv": conv_bias_last, "BatchNormalization": normalization_folded},
)


def execute(graph: Graph, x: Tensor, way: Mapping[str, Rule]) -> Tensor:
    """Run the graph node by node in binary32, with some operators computed by other functions."""
    values = {"x": x}
    for node in graph.order():
        if node.name in values:
            continue
        rule = way.get(node.operator, operators()[node.operator].rules.nominal)
        operands = [values[name] for name in graph.operands(node.name)]
        values[node.name] = rule(call_of(graph, node), *operands, **graph.parameters_of(node.name))
    return values[graph.outputs[0]]


def executions(graph: Graph, x: Tensor) -> list[Tensor]:
    """Return the network's values at x, computed in binary32 in several ways and in binary64."""
    return [*(execute(graph, x, way).double() for way in WAYS), nominal(graph, x)[0]]


def escapes(graph: Graph, bounded: Graph, x: Tensor, box: Interval) -> int:
    """Return how many executions of `graph` at x lie outside the bounds of `bounded` over the box."""
    bound = sound_bounds(bounded, box)
    return sum(int((~bound.contains(y)).sum()) for y in executions(graph, x))


# ── nasty networks ──────────────────────────────────────────────────────────────────────────────────────────────
def normalized(net: Net, operand: str, draw: torch.Generator, mean: float) -> str:
    """Append a BatchNormalization with means around `mean`, variances around 1e-8 and a bias that cancels them."""
    channels = net.graph.node(operand).shape[1]
    means = mean * (1.0 + 0.1 * torch.rand(channels, generator=draw))
    variance = 1e-8 * (1.0 + torch.rand(channels, generator=draw))
    weight = torch.randn(channels, generator=draw)
    bias = means * weight / torch.sqrt(variance + 1e-10) * (1.0 + 1e-4 * torch.randn(channels, generator=draw))
    state = {"weight": weight, "bias": bias, "running_mean": means, "running_var": variance}
    return net.add("bn", "BatchNormalization", operand, {"epsilon": 1e-10}, **state)


def huge_means_behind_conv(draw: torch.Generator) -> Graph:
    net = Net(2, 4, 4)
    mean = 1e6 * (1.0 + torch.rand(3, generator=draw))
    weight, bias = torch.randn(3, 2, 3, 3, generator=draw), mean + torch.randn(3, generator=draw)
    net.conv("conv", "x", weight, pads=1, bias=bias)
    variance = 1e-8 * (1.0 + torch.rand(3, generator=draw))
    state = {"weight": torch.randn(3, generator=draw), "bias": torch.randn(3, generator=draw)}
    state |= {"running_mean": mean, "running_var": variance}
    return net.finish(net.add("bn", "BatchNormalization", "conv", {"epsilon": 1e-10}, **state))


def bias_and_mean_cancel_behind_gemm(draw: torch.Generator) -> Graph:
    net = Net(6)
    bias = torch.full((4,), 3e5) + torch.randn(4, generator=draw)
    net.add("gemm", "Gemm", "x", weight=torch.randn(4, 6, generator=draw), bias=bias)
    variance = torch.full((4,), 1e-12)
    state = {"weight": torch.ones(4), "bias": torch.zeros(4), "running_mean": bias.clone(), "running_var": variance}
    return net.finish(net.add("bn", "BatchNormalization", "gemm", {"epsilon": 1e-12}, **state))


def huge_means_before_gemm(draw: torch.Generator) -> Graph:
    net = Net(6)
    normalized(net, "x", draw, 1e5)
    return net.finish(net.add("gemm", "Gemm", "bn", weight=torch.randn(4, 6, generator=draw)))


def cancelling_shifts_behind_gemm(draw: torch.Generator) -> Graph:
    net = Net(6)
    net.add("gemm", "Gemm", "x", weight=torch.randn(4, 6, generator=draw), bias=torch.randn(4, generator=draw))
    net.constant("large", 1e7 * (1.0 + torch.rand(4, generator=draw)))
    net.add("up", "Add", ["gemm", "large"])
    net.add("scaled", "Mul", ["up", net.constant("third", 1.0 / 3.0)])
    net.add("rescaled", "Div", ["scaled", "third"])
    return net.finish(net.add("down", "Sub", ["rescaled", "large"]))


def cancelling_shifts_before_conv(draw: torch.Generator) -> Graph:
    net = Net(2, 4, 4)
    net.constant("mean", 1e5 * (1.0 + torch.rand(2, 1, 1, generator=draw)))
    net.constant("std", 1e-2 * (1.0 + torch.rand(2, 1, 1, generator=draw)))
    net.add("shifted", "Add", ["x", "mean"])
    net.add("scaled", "Div", ["shifted", "std"])
    net.add("offset", "Div", ["mean", "std"])
    net.add("back", "Sub", ["scaled", "offset"])
    return net.finish(net.conv("conv", "back", torch.randn(3, 2, 3, 3, generator=draw)))


def all_of_it(draw: torch.Generator) -> Graph:
    net = Net(2, 5, 5)
    net.constant("mean", 1e4 * (1.0 + torch.rand(2, 1, 1, generator=draw)))
    net.add("shifted", "Add", ["x", "mean"])
    net.add("negated", "Neg", "shifted")
    net.add("scaled", "Div", ["negated", net.constant("std", 0.3)])
    net.conv("conv", "scaled", torch.randn(3, 2, 3, 3, generator=draw), bias=torch.randn(3, generator=draw))
    net.constant("back", 1e5 * torch.randn(3, 1, 1, generator=draw))
    net.add("moved", "Sub", [net.constant("four", 4.0), net.add("plus", "Add", ["conv", "back"])])
    normalized(net, "moved", draw, 1e4)
    net.add("relu", "Relu", "bn")
    net.add("flat", "Flatten", "relu")
    net.constant("matrix", torch.randn(27, 3, generator=draw))
    net.add("product", "MatMul", ["flat", "matrix"])
    return net.finish(net.add("y", "Add", ["product", net.constant("b", 1e9 * torch.randn(3, generator=draw))]))


CANCELLING = (
    huge_means_behind_conv,
    bias_and_mean_cancel_behind_gemm,
    huge_means_before_gemm,
    cancelling_shifts_behind_gemm,
    cancelling_shifts_before_conv,
)


def evaluated(graph: Graph) -> Graph:
    """Return the graph after the pipeline, which must have left only linear operators and the nodes between them."""
    result, _ = EVALUATION.run(graph)
    left = {node.operator for node in result.order()}
    assert left <= {"Input", "Conv", "Gemm", "Relu", "Flatten"}, left
    return result


@pytest.mark.parametrize("make", [*CANCELLING, all_of_it], ids=lambda make: make.__name__)
def test_bounds_of_the_result_hold_for_the_original(make: Callable[[torch.Generator], Graph]) -> None:
    for seed in range(4):
        draw = seeded(seed)
        graph = make(draw)
        x = 3.0 * torch.randn(16, *graph.node("x").shape[1:], generator=draw)
        result = evaluated(graph)
        assert escapes(graph, result, x, Interval.bounds(x, x)) == 0
        width = 0.1 * torch.rand(x.shape, generator=draw)
        inside = (x + width * (2.0 * torch.rand(x.shape, generator=draw) - 1.0)).clamp(x - width, x + width)
        assert escapes(graph, result, inside, Interval.bounds(x - width, x + width)) == 0


@pytest.mark.parametrize("make", CANCELLING, ids=lambda make: make.__name__)
def test_without_the_magnitude_they_do_not(make: Callable[[torch.Generator], Graph]) -> None:
    draw = seeded(0)
    graph = make(draw)
    x = 3.0 * torch.randn(16, *graph.node("x").shape[1:], generator=draw)
    faulty = evaluated(graph)
    faulty.state = Entries({key: value for key, value in faulty.state.items() if not key.endswith("bias_magnitude")})
    assert escapes(graph, faulty, x, Interval.bounds(x, x)) > 0


def test_the_executions_differ() -> None:
    graph = bias_and_mean_cancel_behind_gemm(seeded(0))
    real, *others = reversed(executions(graph, 3.0 * torch.randn(16, 6, generator=seeded(1))))
    assert max(float((y - real).abs().max()) for y in others) > 1e-4 * float(real.abs().max())


@pytest.mark.parametrize("make", [*CANCELLING, all_of_it], ids=lambda make: make.__name__)
def test_the_result_is_bounded_hardly_wider_than_the_original(make: Callable[[torch.Generator], Graph]) -> None:
    """A separate sum covers rounding relative to its result; a fused one, relative to all that cancels in it."""
    draw = seeded(0)
    graph = make(draw)
    x = 3.0 * torch.randn(16, *graph.node("x").shape[1:], generator=draw)
    box = Interval.ball(x, 0.1)
    assert bool((sound_bounds(evaluated(graph), box).radius <= 2.0 * sound_bounds(graph, box).radius).all())


def test_underflow_in_front_of_a_large_scale() -> None:
    """Products around 1e-44 are flushed or rounded to multiples of 2⁻¹⁴⁹ before a scale makes them visible."""
    net = Net(3)
    net.add("gemm", "Gemm", "x", weight=torch.tensor([[1.3e-22, 0.7e-22, -1.1e-22]]))
    net.add("up", "Mul", ["gemm", net.constant("c", 1e30)])
    graph = net.finish(net.add("y", "Mul", ["up", net.constant("d", 1e6)]))
    result, _ = EVALUATION.run(graph)
    assert {node.operator for node in result.order()} == {"Input", "Gemm"}
    x = 1e-22 * torch.randn(32, 3, generator=seeded(2))
    flushed = torch.zeros(32, 1, dtype=torch.float64)
    bound = sound_bounds(result, Interval.bounds(x, x))
    assert bool(bound.contains(flushed).all())
    assert escapes(graph, result, x, Interval.bounds(x, x)) == 0
    faulty = result.copy()
    faulty.state.pop("gemm.bias_magnitude")
    assert not bool(sound_bounds(faulty, Interval.bounds(x, x)).contains(flushed).all())
