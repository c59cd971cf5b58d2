"""Lowering: the emitted graphs, what they share, what they leave out, and whole networks against torch itself."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import ibpc.lowering as lowering
from ibpc.interval import Interval, Paired
from ibpc.ir import BATCH, Graph, Node
from ibpc.lowering import Phase, freeze, lower_interval, lower_nominal, lower_paired, parameter_tree
from ibpc.ops import operators
from ibpc.ops.base import Operator
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic

Tensor = torch.Tensor
Function = Callable[[Tensor], Tensor]


@dataclass
class Net:
    """A network under construction, beside the same function written with torch alone."""

    graph: Graph
    generator: torch.Generator
    functions: dict[str, Function] = field(default_factory=dict)

    @classmethod
    def over(cls, *shape: int, seed: int = 0) -> Net:
        """Start a network over one input `x`."""
        net = cls(Graph("net"), torch.Generator().manual_seed(seed), {"x": lambda x: x})
        net.graph.add(Node("x", "Input", {"shape": list(shape), "range": None}, (BATCH, *shape)))
        return net

    def draw(self, *shape: int) -> Tensor:
        """Return values in [−1, 1] that binary32 has."""
        return (2 * torch.rand(shape, generator=self.generator) - 1).double()

    def _place(
        self,
        operator: str,
        sources: list[str],
        function: Callable[..., Tensor],
        attributes: dict[str, Any] | None = None,
        **state: Tensor,
    ) -> str:
        record, graph = operators()[operator], self.graph
        complete = record.complete(attributes or {})
        shapes = {role: tuple(value.shape) for role, value in state.items()}
        shape = record.infer_shape(complete, graph.shapes_of(sources), shapes)
        name = graph.add(Node(graph.fresh_name(operator.lower()), operator, complete, shape), sources, state)
        befores = [self.functions[source] for source in sources]
        self.functions[name] = lambda x: function(*(before(x) for before in befores))
        graph.outputs = (name,)
        return name

    def gemm(self, source: str, rows: int) -> str:
        """Append a Gemm."""
        weight, bias = self.draw(rows, self.graph.node(source).shape[-1]), self.draw(rows)
        return self._place("Gemm", [source], lambda x: F.linear(x, weight.to(x), bias.to(x)), weight=weight, bias=bias)

    def conv(self, source: str, channels: int) -> str:
        """Append a Conv that keeps the size."""
        weight, bias = self.draw(channels, self.graph.node(source).shape[1], 3, 3), self.draw(channels)
        attributes = {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}

        def function(x: Tensor) -> Tensor:
            return F.conv2d(x, weight.to(x), bias.to(x), padding=1)

        return self._place("Conv", [source], function, attributes, weight=weight, bias=bias)

    def normalization(self, source: str) -> str:
        """Append a BatchNormalization."""
        channels = self.graph.node(source).shape[1]
        state = {role: self.draw(channels) for role in ("weight", "bias", "running_mean")}
        state["running_var"] = self.draw(channels).abs() + 0.5

        def function(x: Tensor) -> Tensor:
            weight, bias, mean, variance = (value.to(x) for value in state.values())
            return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

        return self._place("BatchNormalization", [source], function, None, **state)

    def relu(self, source: str) -> str:
        """Append a Relu."""
        return self._place("Relu", [source], torch.relu)

    def add(self, first: str, second: str) -> str:
        """Append an Add."""
        return self._place("Add", [first, second], operator.add)

    def flatten(self, source: str) -> str:
        """Append a Flatten."""
        return self._place("Flatten", [source], lambda x: x.flatten(1))

    @property
    def function(self) -> Function:
        """The output, in torch alone."""
        return self.functions[self.graph.outputs[0]]


def small_residual() -> Net:
    """A convolution, a normalized residual block, and a head."""
    net = Net.over(2, 4, 4)
    stem = net.conv("x", 3)
    normal = net.normalization(stem)
    joined = net.add(normal, stem)
    net.gemm(net.flatten(net.relu(joined)), 3)
    return net


def box_around(x: Tensor, radius: float = 0.1) -> tuple[Tensor, Tensor]:
    return x - radius, x + radius


def calls(module: torch.fx.GraphModule) -> Counter[str]:
    """Return how often each function is called in a graph."""
    return Counter(
        getattr(node.target, "__name__", str(node.target))
        for node in module.graph.nodes
        if node.op in ("call_function", "call_method")
    )


# ── one network, several graphs ─────────────────────────────────────────────────────────────────────────────────
class TestSharing:
    def test_all_graphs_hold_the_same_parameters(self) -> None:
        net = small_residual()
        tree = parameter_tree(net.graph)
        expected = {name: id(value) for name, value in (*tree.named_parameters(), *tree.named_buffers())}
        for module in (
            lower_nominal(net.graph, tree),
            lower_nominal(net.graph, tree, Phase.TRAINING),
            lower_interval(net.graph, tree),
            lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs),
        ):
            found = {name: id(value) for name, value in (*module.named_parameters(), *module.named_buffers())}
            assert found == expected

    def test_training_the_pair_trains_the_network(self) -> None:
        net = small_residual()
        tree = parameter_tree(net.graph)
        nominal = lower_nominal(net.graph, tree)
        paired = lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs)
        x = net.draw(5, 2, 4, 4)
        before = nominal(x)
        sum(output.sum() for output in paired(x, *box_around(x))).backward()
        with torch.no_grad():
            for parameter in paired.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.1 * parameter.grad)
        assert not torch.equal(nominal(x), before)
        assert {name for name, _ in tree.named_parameters()} == {
            f"{name}.{role}" for name in ("conv", "batchnormalization", "gemm") for role in ("weight", "bias")
        }

    def test_tied_entries_are_one_parameter(self) -> None:
        net = Net.over(4)
        first = net.gemm("x", 4)
        second = net.gemm(net.relu(first), 4)
        net.graph.tie(f"{second}.weight", f"{first}.weight")
        net.graph.verify(operators())
        tree = parameter_tree(net.graph)
        assert {name for name, _ in tree.named_parameters()} == {f"{first}.weight", f"{first}.bias", f"{second}.bias"}
        x = net.draw(3, 4)
        weight, biases = net.graph.state[f"{first}.weight"], [net.graph.state[f"{n}.bias"] for n in (first, second)]
        expected = F.linear(torch.relu(F.linear(x, weight, biases[0])), weight, biases[1])
        assert torch.allclose(lower_nominal(net.graph, tree)(x), expected, atol=1e-12)

    def test_the_tree_copies_the_state(self) -> None:
        net = small_residual()
        before = net.graph.state["gemm.weight"].clone()
        with torch.no_grad():
            for parameter in parameter_tree(net.graph).parameters():
                parameter.zero_()
        assert torch.equal(net.graph.state["gemm.weight"], before)


class TestEmission:
    def run_of(self, blocks: int) -> torch.fx.GraphModule:
        net = Net.over(2, 4, 4)
        last = net.conv("x", 2)
        for _ in range(blocks):
            last = net.add(net.normalization(last), last)
        return lower_interval(net.graph, parameter_tree(net.graph))

    def test_an_affine_run_converts_once_at_each_end(self) -> None:
        found = calls(self.run_of(1))
        assert found["lerp"] == 1
        assert found["sub"] == 2
        assert found["add"] == 2 + 1 + 1  # centers, radii, the variance with epsilon, and the upper bound

    def test_a_longer_run_converts_no_more_often(self) -> None:
        short, long = calls(self.run_of(1)), calls(self.run_of(4))
        assert long["lerp"] == short["lerp"]
        assert long["sub"] == short["sub"]
        assert long["conv2d"] == short["conv2d"] == 2

    def test_relu_in_bounds_costs_one_conversion_each_way(self) -> None:
        net = Net.over(4)
        net.gemm(net.relu(net.relu(net.gemm("x", 4))), 2)
        found = calls(lower_interval(net.graph, parameter_tree(net.graph)))
        assert found["lerp"] == 2
        assert found["relu"] == 4
        assert found["linear"] == 4

    def test_the_pair_runs_nominal_and_center_in_one_call(self) -> None:
        net = small_residual()
        found = calls(lower_paired(net.graph, parameter_tree(net.graph), net.graph.outputs, net.graph.outputs))
        assert found["conv2d"] == 2
        assert found["linear"] == 2
        assert found["batch_norm"] == 0

    @pytest.mark.parametrize("word", [".item(", ".tolist(", ".cpu(", ".numpy(", "if ", "while ", "bool("])
    def test_no_graph_waits_for_the_host(self, word: str) -> None:
        net = small_residual()
        tree = parameter_tree(net.graph)
        for module in (
            lower_nominal(net.graph, tree, Phase.TRAINING),
            lower_interval(net.graph, tree, Arithmetic.FLOAT32),
            lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs),
        ):
            assert word not in module.code

    def test_what_no_output_needs_is_left_out(self) -> None:
        net = Net.over(4)
        used = net.gemm("x", 4)
        net.relu(net.gemm(used, 4))
        net.graph.outputs = (used,)
        module = lower_interval(net.graph, parameter_tree(net.graph))
        assert calls(module)["relu"] == 0
        assert {name for name, _ in module.named_parameters()} == {"gemm.weight", "gemm.bias"}

    def test_each_side_is_emitted_only_where_it_is_needed(self) -> None:
        net = Net.over(4)
        trunk = net.gemm("x", 4)
        left, right = net.relu(net.gemm(trunk, 3)), net.relu(net.gemm(trunk, 2))
        found = calls(lower_paired(net.graph, parameter_tree(net.graph), [left], [right]))
        assert found["relu"] == 1 + 2
        assert found["linear"] == 2 + 1 + 2

    def test_several_inputs_and_outputs(self) -> None:
        net = Net.over(3)
        net.graph.add(Node("y", "Input", {"shape": [3], "range": None}, (BATCH, 3)))
        net.functions["y"] = lambda x: x
        total = net.add("x", "y")
        active = net.relu(total)
        net.graph.outputs = (active, total)
        tree = parameter_tree(net.graph)
        x, y = net.draw(2, 3), net.draw(2, 3)
        values = lower_nominal(net.graph, tree)(x, y)
        assert torch.equal(values[0], torch.relu(x + y))
        assert torch.equal(values[1], x + y)
        bounds = lower_interval(net.graph, tree)(*box_around(x), *box_around(y))
        expected = (torch.relu(x + y - 0.2), torch.relu(x + y + 0.2), x + y - 0.2, x + y + 0.2)
        for bound, wanted in zip(bounds, expected, strict=True):
            assert torch.allclose(bound, wanted, atol=1e-14)

    def test_a_constant_output_is_a_point(self) -> None:
        graph = Graph("constant")
        graph.add(Node("x", "Input", {"shape": [2], "range": None}, (BATCH, 2)))
        graph.add(Node("c", "Constant", {}, (2,)), state={"value": torch.ones(2)})
        graph.outputs = ("c",)
        zeros = torch.zeros(1, 2)
        for bound in lower_interval(graph, parameter_tree(graph))(zeros, zeros):
            assert torch.equal(bound, torch.ones(2))


class TestCutting:
    def test_two_halves_make_the_whole(self) -> None:
        net = small_residual()
        tree = parameter_tree(net.graph)
        middle = ("add",)
        x = net.draw(3, 2, 4, 4)
        whole = lower_nominal(net.graph, tree)(x)
        first = lower_nominal(net.graph, tree, outputs=middle)
        second = lower_nominal(net.graph, tree, inputs=middle)
        assert torch.equal(second(first(x)), whole)
        box = lower_interval(net.graph, tree)(*box_around(x))
        halfway = lower_interval(net.graph, tree, outputs=middle)(*box_around(x))
        paired = lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs, inputs=middle)
        for value, wanted in zip(paired(first(x), *halfway), [whole, *box], strict=True):
            assert torch.allclose(value, wanted, atol=1e-12)


class TestFreezing:
    def test_what_depends_on_parameters_alone_is_gone(self) -> None:
        net = small_residual()
        module = lower_interval(net.graph, parameter_tree(net.graph))
        frozen = freeze(module)
        assert calls(module)["abs"] == 3
        assert calls(frozen)["abs"] == calls(frozen)["rsqrt"] == 0
        assert list(frozen.parameters()) == []
        x = net.draw(3, 2, 4, 4)
        for bound, wanted in zip(frozen(*box_around(x)), module(*box_around(x)), strict=True):
            assert torch.equal(bound, wanted)

    def test_the_copy_does_not_follow_the_parameters(self) -> None:
        net = small_residual()
        tree = parameter_tree(net.graph)
        x = net.draw(3, 2, 4, 4)
        frozen = freeze(lower_nominal(net.graph, tree))
        before = frozen(x)
        with torch.no_grad():
            for parameter in tree.parameters():
                parameter.add_(1.0)
        assert torch.equal(frozen(x), before)


# ── training through BatchNormalization ─────────────────────────────────────────────────────────────────────────
CHANNELS = 3
ROLES = ("weight", "bias", "running_mean", "running_var")


def check_normalization(record: Operator) -> None:
    """The paired rule normalizes nominal value and box by the nominal batch, gradients included, and counts once."""
    generator = torch.Generator().manual_seed(3)
    call = Call(
        {"epsilon": 1e-3, "momentum": 0.8},
        ((BATCH, CHANNELS, 4),),
        dict.fromkeys(ROLES, (CHANNELS,)),
        (BATCH, CHANNELS, 4),
    )
    x, radius, *weights = (torch.rand(5, CHANNELS, 4, generator=generator, dtype=torch.float64) for _ in range(5))
    shift = 0.3 * torch.rand(5, CHANNELS, 4, generator=generator, dtype=torch.float64)
    parameters = {role: 2 * torch.rand(CHANNELS, generator=generator, dtype=torch.float64) - 0.7 for role in ROLES}
    parameters["running_var"] = parameters["running_var"].abs()
    expected = _reference(x, shift, radius, parameters)
    for stacked in (False, True):
        leaves = [value.clone().requires_grad_() for value in (x, x + shift, radius)]
        point, center, half = leaves
        pair = (
            Paired.stacked(torch.cat([point, center]), half)
            if stacked
            else Paired.separate(point, Interval.around(center, half))
        )
        state = {role: value.clone().requires_grad_(role in ("weight", "bias")) for role, value in parameters.items()}
        result = record.rules.paired(call, pair, **state)
        outputs = (result.nominal, result.interval.lower, result.interval.upper)
        leaves.extend((state["weight"], state["bias"]))
        _assert_matches(outputs, leaves, weights, expected)
        batch = x.transpose(0, 1).flatten(1)
        assert torch.allclose(state["running_mean"], 0.8 * parameters["running_mean"] + 0.2 * batch.mean(1))
        assert torch.allclose(state["running_var"], 0.8 * parameters["running_var"] + 0.2 * batch.var(1))


def _reference(
    x: Tensor, shift: Tensor, radius: Tensor, parameters: dict[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs and leaves of the same normalization written out with explicit batch statistics."""
    point, center, half = (value.clone().requires_grad_() for value in (x, x + shift, radius))
    weight, bias = (parameters[role].clone().requires_grad_() for role in ("weight", "bias"))
    count = x.shape[0] * x.shape[2]
    mean = point.sum((0, 2)) / count
    variance = ((point - mean[:, None]) ** 2).sum((0, 2)) / count
    scale = (weight / (variance + 1e-3).sqrt())[:, None]

    def normalized(value: Tensor) -> Tensor:
        return (value - mean[:, None]) * scale + bias[:, None]

    ends = normalized(center - half), normalized(center + half)
    outputs = [normalized(point), torch.minimum(*ends), torch.maximum(*ends)]
    return outputs, [point, center, half, weight, bias]


def _assert_matches(
    outputs: tuple[Tensor, ...],
    leaves: list[Tensor],
    weights: list[Tensor],
    expected: tuple[list[Tensor], list[Tensor]],
) -> None:
    for output, wanted in zip(outputs, expected[0], strict=True):
        assert torch.allclose(output, wanted, atol=1e-12)
    goals = [
        torch.stack([(output * weight).sum() for output, weight in zip(side, weights, strict=True)]).sum()
        for side in (outputs, expected[0])
    ]
    found = torch.autograd.grad(goals[0], leaves)
    true = torch.autograd.grad(goals[1], expected[1], retain_graph=True)
    for gradient, true_gradient in zip(found, true, strict=True):
        assert torch.allclose(gradient, true_gradient, atol=1e-10)


def _detached(record: Operator) -> Operator:
    """Normalize by statistics that pass no gradient on."""

    def paired(call: Call, x: Paired, **state: Tensor) -> Paired:
        detached = record.rules.paired(call, Paired.separate(x.nominal.detach(), x.interval), **state)
        mean, variance = x.nominal.detach().mean((0, 2)), x.nominal.detach().var((0, 2), unbiased=False)
        scale = (state["weight"] * torch.rsqrt(variance + call["epsilon"]))[:, None]
        nominal = (x.nominal - mean[:, None]) * scale + state["bias"][:, None]
        return Paired.separate(nominal, detached.interval)

    return replace(record, rules=replace(record.rules, paired=paired))


def _counted_twice(record: Operator) -> Operator:
    """Let the interval side move the running statistics as well."""

    def paired(call: Call, x: Paired, **state: Tensor) -> Paired:
        record.rules.paired(call, x, **state)
        return record.rules.paired(call, x, **state)

    return replace(record, rules=replace(record.rules, paired=paired))


def _statistics_of_the_center(record: Operator) -> Operator:
    """Normalize by the statistics of the box."""

    def paired(call: Call, x: Paired, **state: Tensor) -> Paired:
        return record.rules.paired(call, Paired.separate(x.interval.center, x.interval), **state)

    return replace(record, rules=replace(record.rules, paired=paired))


class TestNormalization:
    def test_against_explicit_statistics(self) -> None:
        check_normalization(operators()["BatchNormalization"])

    @pytest.mark.parametrize("fault", [_detached, _counted_twice, _statistics_of_the_center])
    def test_a_wrong_rule_is_noticed(self, fault: Callable[[Operator], Operator]) -> None:
        with pytest.raises(AssertionError):
            check_normalization(fault(operators()["BatchNormalization"]))

    def test_the_emitted_pair_counts_each_step_once(self) -> None:
        net = Net.over(2, 3, 3)
        net.relu(net.normalization("x"))
        tree = parameter_tree(net.graph)
        module = lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs)
        reference = nn.BatchNorm2d(2, momentum=0.1, dtype=torch.float64)
        reference.load_state_dict({role: net.graph.state[f"batchnormalization.{role}"] for role in ROLES}, strict=False)
        for _ in range(3):
            x = net.draw(4, 2, 3, 3)
            nominal, lower, upper = module(x, *box_around(x))
            assert torch.allclose(nominal, torch.relu(reference(x)), atol=1e-12)
            assert (lower <= nominal).all()
            assert (nominal <= upper).all()
        for role in ("running_mean", "running_var"):
            moved = tree.get_buffer(f"batchnormalization.{role}")
            assert torch.allclose(moved, reference.get_buffer(role))

    def test_the_nominal_training_graph_does_as_torch_does(self) -> None:
        net = Net.over(2, 3, 3)
        net.normalization("x")
        tree = parameter_tree(net.graph)
        x = net.draw(4, 2, 3, 3)
        state = {role: net.graph.state[f"batchnormalization.{role}"].clone() for role in ROLES}
        expected = F.batch_norm(x, **state, training=True, momentum=0.1, eps=1e-5)
        assert torch.allclose(lower_nominal(net.graph, tree, Phase.TRAINING)(x), expected, atol=1e-12)
        assert torch.allclose(tree.get_buffer("batchnormalization.running_mean"), state["running_mean"])

    def test_a_box_alone_is_normalized_by_the_nominal_batch_all_the_same(self) -> None:
        net = Net.over(2, 3, 3)
        first = net.conv("x", 2)
        net.conv(net.relu(net.normalization(first)), 1)
        x = net.draw(4, 2, 3, 3)
        both = lower_paired(net.graph, parameter_tree(net.graph), net.graph.outputs, net.graph.outputs)
        alone = lower_paired(net.graph, parameter_tree(net.graph), [], net.graph.outputs)
        for bound, wanted in zip(alone(x, *box_around(x)), both(x, *box_around(x))[1:], strict=True):
            assert torch.allclose(bound, wanted, atol=1e-12)


class TestCompiling:
    def test_the_pair_is_one_graph_to_torch_compile(self) -> None:
        net = small_residual()
        x = net.draw(4, 2, 4, 4)
        trees = [parameter_tree(net.graph) for _ in range(2)]
        plain, captured = (lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs) for tree in trees)
        compiled = torch.compile(captured, fullgraph=True, backend="eager")
        for output, wanted in zip(compiled(x, *box_around(x)), plain(x, *box_around(x)), strict=True):
            assert torch.allclose(output, wanted, atol=1e-12)
        for (name, value), (_, wanted) in zip(trees[1].named_buffers(), trees[0].named_buffers(), strict=True):
            assert torch.allclose(value, wanted), name
        assert not torch.equal(
            trees[1].get_buffer("batchnormalization.running_mean"),
            net.graph.state["batchnormalization.running_mean"],
        )


# ── whole networks ──────────────────────────────────────────────────────────────────────────────────────────────
@st.composite
def networks(draw: st.DrawFn) -> Net:
    """A random chain with residual connections of the core operators."""
    net = Net.over(*draw(st.sampled_from([(3,), (2, 3, 3)])), seed=draw(st.integers(0, 10_000)))
    last = "x"
    for _ in range(draw(st.integers(1, 6))):
        last = _grow(draw, net, last)
    if draw(st.booleans()):
        last = net.flatten(last)
    net.gemm(last, 2)
    return net


def _grow(draw: st.DrawFn, net: Net, last: str) -> str:
    shape = net.graph.node(last).shape
    kind = draw(st.sampled_from(["affine", "relu", "normalization", "add"]))
    if kind == "relu":
        return net.relu(last)
    if kind == "normalization":
        return net.normalization(last)
    if kind == "affine":
        size = draw(st.integers(1, 3))
        return net.conv(last, size) if len(shape) == 4 else net.gemm(last, size)
    partners = [node.name for node in net.graph.order() if node.shape == shape]
    return net.add(last, draw(st.sampled_from(partners)))


class TestNetworks:
    @settings(max_examples=25, deadline=None)
    @given(networks())
    def test_nominal_and_bounds_against_torch(self, net: Net) -> None:
        net.graph.verify(operators())
        tree = parameter_tree(net.graph)
        x = net.draw(2, *net.graph.node("x").shape[1:])
        expected = net.function(x)
        scale = 1 + expected.abs().max()
        assert torch.allclose(lower_nominal(net.graph, tree)(x), expected, atol=1e-9 * float(scale))
        radius = 0.2 * net.draw(*x.shape).abs()
        lower, upper = lower_interval(net.graph, tree)(x - radius, x + radius)
        points = _points(net, x, radius)
        values = net.function(points.flatten(0, 1)).reshape(len(points), *expected.shape)
        slack = 1e-12 * (1 + upper.abs().max() + lower.abs().max()) * 50
        assert (values >= lower - slack).all()
        assert (values <= upper + slack).all()

    @settings(max_examples=25, deadline=None)
    @given(networks())
    def test_bounds_of_binary32_hold_for_both_arithmetics(self, net: Net) -> None:
        tree = parameter_tree(net.graph).float()
        module = lower_interval(net.graph, tree, Arithmetic.FLOAT32)
        x, radius = net.draw(2, *net.graph.node("x").shape[1:]), net.draw(1).abs()
        for half in (torch.zeros(1, dtype=torch.float64), 1e-6 * radius, 0.1 * radius):
            box = [bound.float() for bound in (x - half, x + half)]
            lower, upper = module(*box)
            points = _points(net, x, half.expand_as(x)).float()
            points = torch.minimum(torch.maximum(points, box[0]), box[1]).flatten(0, 1)
            for found in (net.function(points), net.function(points.double())):
                values = found.reshape(-1, *lower.shape).double()
                assert (values >= lower.double()).all()
                assert (values <= upper.double()).all()

    @settings(max_examples=15, deadline=None)
    @given(networks())
    def test_the_pair_without_normalization_is_the_two_graphs_side_by_side(self, net: Net) -> None:
        names = {node.operator for node in net.graph.order()}
        if "BatchNormalization" in names:
            return
        tree = parameter_tree(net.graph)
        x = net.draw(2, *net.graph.node("x").shape[1:])
        nominal, *bounds = lower_paired(net.graph, tree, net.graph.outputs, net.graph.outputs)(x, *box_around(x))
        scale = 1e-12 * (1 + float(bounds[1].detach().abs().max()))
        assert torch.allclose(nominal, lower_nominal(net.graph, tree)(x), atol=scale)
        for bound, wanted in zip(bounds, lower_interval(net.graph, tree)(*box_around(x)), strict=True):
            assert torch.allclose(bound, wanted, atol=scale)


def _points(net: Net, x: Tensor, radius: Tensor) -> Tensor:
    share = torch.rand(200, *x.shape, generator=net.generator, dtype=torch.float64) * 2 - 1
    share[::2] = share[::2].sign()
    return x + share * radius


def test_an_operator_of_the_registry_is_looked_up_when_it_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net.over(2)
    net.relu("x")
    record = operators()["Relu"]
    changed = replace(record, rules=replace(record.rules, nominal=lambda _, x: -x))
    monkeypatch.setattr(lowering, "operators", lambda: {**operators(), "Relu": changed})
    x = net.draw(1, 2)
    assert torch.equal(lower_nominal(net.graph, parameter_tree(net.graph))(x), -x)
