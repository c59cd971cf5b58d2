"""The conventions of all passes: they copy, verify, check what they promise, and report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch

from ibpc.errors import GraphError, Problem
from ibpc.ir import Graph
from ibpc.passes import (
    COMPILE,
    EVALUATION,
    AbsorbConstants,
    DropIdentities,
    EliminateDeadCode,
    FoldBatchNormalization,
    FoldConstants,
    FuseAffine,
    InferShapes,
    Log,
    MergeSpecification,
    Pass,
    PassResult,
    Pipeline,
)
from ibpc.passes.base import listed
from tests.passes.building import Net, nominal, seeded, values_of

ALL = (
    AbsorbConstants(),
    DropIdentities(also=("Dropout",)),
    EliminateDeadCode(),
    FoldBatchNormalization(),
    FoldConstants(),
    FuseAffine(),
    InferShapes(),
    MergeSpecification(torch.ones(2, 3)),
)


def everything() -> Graph:
    """A network in which every pass finds something to do."""
    draw = seeded(3)
    net = Net(2, 4, 4)
    net.constant("mean", torch.randn(2, 1, 1, generator=draw))
    net.constant("two", 2.0)
    net.add("std", "Add", ["two", net.constant("one", 1.0)])
    net.add("shifted", "Sub", ["x", "mean"])
    net.add("scaled", "Div", ["shifted", "std"])
    net.conv("conv", "scaled", torch.randn(3, 2, 3, 3, generator=draw))
    net.normalization("bn", "conv", draw)
    net.add("relu", "Relu", "bn")
    net.add("unread", "Relu", "conv")
    net.add("flat", "Flatten", "relu")
    net.add("dropout", "Dropout", "flat")
    net.constant("matrix", torch.randn(12, 3, generator=draw))
    net.add("product", "MatMul", ["dropout", "matrix"])
    net.add("sum", "Add", ["product", net.constant("offset", torch.randn(3, generator=draw))])
    return net.finish("sum")


@pytest.mark.parametrize("step", ALL, ids=lambda step: step.name)
def test_passes_leave_their_input_alone(step: Pass) -> None:
    graph = everything()
    text, state, hints = graph.to_text(), values_of(graph), dict(graph.hints)
    step.run(graph)
    assert graph.to_text() == text
    assert graph.hints == hints
    assert graph.ties == {}
    assert graph.state.keys() == state.keys()
    assert all(torch.equal(graph.state[key], value) for key, value in state.items())


@pytest.mark.parametrize("step", [step for step in ALL if step.name != "infer_shapes"], ids=lambda step: step.name)
def test_every_pass_finds_something_in_that_network(step: Pass) -> None:
    graph = everything()
    if isinstance(step, FuseAffine | FoldBatchNormalization):
        graph, _ = Pipeline((EliminateDeadCode(), FoldConstants())).run(graph)
    result = step.run(graph)
    assert result.changes or result.refusals


@pytest.mark.parametrize("pipeline", [COMPILE, EVALUATION], ids=["compile", "evaluation"])
def test_pipelines_keep_the_nominal_values(pipeline: Pipeline) -> None:
    graph = everything()
    x = torch.randn(3, 2, 4, 4, generator=seeded(1))
    (before,), (after,) = nominal(graph, x), nominal(pipeline.run(graph)[0], x)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_compile_keeps_what_training_needs() -> None:
    graph, _ = COMPILE.run(everything())
    assert {"bn", "dropout", "shifted"} <= {node.name for node in graph.order()}
    assert graph.node("product").operator == "Gemm"
    assert "product.bias" in graph.state


def test_evaluation_of_its_own_result_changes_nothing() -> None:
    once, _ = EVALUATION.run(everything())
    twice, reports = EVALUATION.run(once)
    assert twice.to_text() == once.to_text()
    assert not any(report.changes for report in reports)


def test_reports_print() -> None:
    graph, changes, refusals = everything(), ("bn1: folded into conv1 before it",), ("bn2: not folded, no reason",)
    assert str(PassResult("fold", graph, changes, refusals)) == (
        "fold: 1 change, 1 refused\n  bn1: folded into conv1 before it\n  refused: bn2: not folded, no reason"
    )
    assert str(PassResult("fold", graph, (), ())) == "fold: 0 changes"


def test_only_the_last_run_of_a_pass_refuses() -> None:
    net = Net(2, 4, 4)
    net.add("shift", "Sub", ["x", net.constant("mean", 0.5)])
    net.conv("conv", "shift", torch.ones(1, 2, 3, 3), pads=1)
    _, reports = Pipeline((FuseAffine(), InferShapes(), FuseAffine())).run(net.finish("conv"))
    assert [len(report.refusals) for report in reports] == [0, 0, 1]


def test_options_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DropIdentities().also = ("Relu",)


def test_lists_of_names() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "a"]) == "a and b"
    assert listed("abc") == "a, b and c"


# ── passes that misbehave ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class BreaksShapes(Pass):
    """Leaves a shape that contradicts the operator's rule."""

    name: ClassVar[str] = "breaks_shapes"

    def apply(self, graph: Graph, log: Log) -> None:
        graph.replace("relu", shape=(-1, 7))
        log.changed("relu", "broken")


@dataclass(frozen=True)
class Particular(Pass):
    """Requires a node and promises another one."""

    name: ClassVar[str] = "particular"

    wanted: str = "relu"
    promised: str = "relu"

    def requires(self, graph: Graph) -> Iterator[Problem]:
        if self.wanted not in graph:
            yield Problem(f"node {self.wanted}", "it is missing")

    def apply(self, graph: Graph, log: Log) -> None:
        log.changed(graph.node("relu").name, "admired")

    def ensures(self, graph: Graph) -> Iterator[Problem]:
        if self.promised not in graph:
            yield Problem(f"node {self.promised}", "it was promised")


def test_a_broken_invariant_stops_the_pipeline() -> None:
    with pytest.raises(GraphError, match=r"node relu: shape N×7 where the operator gives N×3×2×2"):
        Pipeline((BreaksShapes(), InferShapes())).run(everything())


def test_requires_and_ensures_are_checked() -> None:
    assert Particular().run(everything()).changes == ("relu: admired",)
    with pytest.raises(GraphError, match="node nothing: it is missing"):
        Particular(wanted="nothing").run(everything())
    with pytest.raises(GraphError, match="node nothing: it was promised"):
        Particular(promised="nothing").run(everything())
