"""Elision: the margin node, its parameters, its bounds, and what happens where it cannot be merged."""

from __future__ import annotations

import pytest
import torch

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.lowering import parameter_tree
from ibpc.margins import class_differences
from ibpc.passes import EVALUATION, EliminateDeadCode, merge_specification
from ibpc.rounding import Arithmetic
from tests.passes.building import Net, bounds, listing, nominal, seeded, sound_bounds


def network(seed: int = 0) -> Graph:
    draw = seeded(seed)
    net = Net(5)
    net.add("hidden", "Gemm", "x", weight=torch.randn(6, 5, generator=draw), bias=torch.randn(6, generator=draw))
    net.add("relu", "Relu", "hidden")
    net.add("logits", "Gemm", "relu", weight=torch.randn(3, 6, generator=draw), bias=torch.randn(3, generator=draw))
    return net.finish("logits")


def ball(shape: tuple[int, ...], radius: float, seed: int = 1) -> Interval:
    return Interval.ball(torch.randn(shape, generator=seeded(seed), dtype=torch.float64), radius)


def test_text() -> None:
    result = merge_specification(network(), class_differences(3)[:2])
    assert listing(result.graph) == (
        "graph net (x) -> (logits, margins) {\n"
        "x = Input[range=null, shape=[5]]() : N×5\n"
        "hidden = Gemm(x; weight 6×5, bias 6) : N×6\n"
        "relu = Relu(hidden) : N×6\n"
        "logits = Gemm(relu; weight 3×6, bias 3) : N×3\n"
        "margins = Gemm(relu; specification 2×3, weight 3×6, bias 3) : N×2\n"
        "}"
    )
    assert result.changes == ("margins: 2×3 specification merged into logits",)
    assert result.refusals == ()


def test_values_are_those_of_the_product() -> None:
    matrix = torch.randn(4, 3, generator=seeded(2))
    x = torch.randn(7, 5, generator=seeded(3))
    logits, margins = nominal(merge_specification(network(), matrix).graph, x)
    torch.testing.assert_close(margins, logits @ matrix.double().T, rtol=1e-12, atol=1e-12)


def test_bounds_are_those_of_the_merged_rows() -> None:
    graph, matrix, box = network(), class_differences(3), ball((4, 5), 0.2)
    hidden, margins = bounds(
        _with_outputs(merge_specification(graph, matrix).graph, "relu", "margins"), box, Arithmetic.REAL, torch.float64
    )
    rows = matrix.double() @ graph.state["logits.weight"].double()
    radius = hidden.radius @ rows.abs().T
    center = hidden.center @ rows.T + matrix.double() @ graph.state["logits.bias"].double()
    torch.testing.assert_close(margins.lower, center - radius, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(margins.upper, center + radius, rtol=1e-12, atol=1e-12)


def test_bounds_are_no_looser_than_those_of_the_logits_and_mostly_tighter() -> None:
    merged = merge_specification(network(), class_differences(3)).graph
    logits, margins = bounds(merged, ball((50, 5), 0.2), Arithmetic.REAL, torch.float64)
    first, second = torch.triu_indices(3, 3, offset=1)
    naive = logits.lower[:, first] - logits.upper[:, second]
    assert bool((margins.lower >= naive - 1e-12).all())
    assert ((margins.lower - naive) > 1e-3).double().mean() > 0.9


def test_parameters_are_shared_with_the_logits() -> None:
    merged = merge_specification(network(), class_differences(3)).graph
    assert merged.ties == {"margins.weight": "logits.weight", "margins.bias": "logits.bias"}
    tree = parameter_tree(merged)
    assert {name for name, _ in tree.named_parameters()} == {
        f"{node}.{role}" for node in ("hidden", "logits") for role in ("weight", "bias")
    }


def test_the_margins_outlive_the_logits() -> None:
    merged = merge_specification(network(), class_differences(3)).graph
    x = torch.randn(3, 5, generator=seeded(4))
    alone = EliminateDeadCode().run(_with_outputs(merged, "margins")).graph
    assert "logits" not in alone
    assert torch.equal(nominal(alone, x)[0], nominal(merged, x)[1])


def test_a_specification_is_composed() -> None:
    first, second = class_differences(3), torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, -1.0]])
    graph = _with_outputs(merge_specification(network(), first).graph, "margins")
    result = merge_specification(graph, second, name="sums")
    assert torch.equal(result.graph.state["sums.specification"], second @ first)
    assert result.changes == ("sums: 2×3 specification merged into margins",)
    x = torch.randn(3, 5, generator=seeded(4))
    margins, sums = nominal(result.graph, x)
    torch.testing.assert_close(sums, margins @ second.double().T, rtol=1e-12, atol=1e-12)


def test_identity_and_dropout_are_looked_through() -> None:
    net = Net(4)
    net.add("logits", "Gemm", "x", weight=torch.randn(3, 4, generator=seeded()))
    net.add("dropout", "Dropout", "logits")
    net.add("copy", "Identity", "dropout")
    result = merge_specification(net.finish("copy"), torch.ones(1, 3))
    assert result.changes == ("margins: 1×3 specification merged into logits",)
    assert result.graph.operands("margins") == ("x",)


def test_a_flatten_of_single_rows_is_looked_through() -> None:
    net = Net(1, 4)
    net.add("logits", "Gemm", "x", weight=torch.randn(3, 4, generator=seeded()), bias=torch.ones(3))
    net.add("flat", "Flatten", "logits")
    matrix = torch.randn(2, 3, generator=seeded(1))
    result = merge_specification(net.finish("flat"), matrix)
    assert listing(result.graph).splitlines()[-3:-1] == [
        "margins_rows = Gemm(x; specification 2×3, weight 3×4, bias 3) : N×1×2",
        "margins = Flatten(margins_rows) : N×2",
    ]
    flat, margins = nominal(result.graph, torch.randn(5, 1, 4, generator=seeded(2)))
    torch.testing.assert_close(margins, flat @ matrix.double().T, rtol=1e-12, atol=1e-12)


def test_a_squeeze_of_single_rows_is_looked_through() -> None:
    net = Net(1, 4)
    net.add("logits", "Gemm", "x", weight=torch.randn(3, 4, generator=seeded()), bias=torch.ones(3))
    net.add("row", "Squeeze", "logits", {"axes": [1]})
    matrix = torch.randn(2, 3, generator=seeded(1))
    result = merge_specification(net.finish("row"), matrix)
    assert result.changes == ("margins: 2×3 specification merged into logits",)
    row, margins = nominal(result.graph, torch.randn(5, 1, 4, generator=seeded(2)))
    torch.testing.assert_close(margins, row @ matrix.double().T, rtol=1e-12, atol=1e-12)


def test_a_flatten_that_merges_rows_is_not() -> None:
    net = Net(2, 4)
    net.add("rows", "Gemm", "x", weight=torch.randn(3, 4, generator=seeded()))
    net.add("flat", "Flatten", "rows")
    matrix = torch.randn(2, 6, generator=seeded(1))
    result = merge_specification(net.finish("flat"), matrix)
    assert result.refusals == (
        "margins: not merged, flat is a Flatten and not a Gemm; bounds of the margins take the outputs for independent",
    )
    flat, margins = nominal(result.graph, torch.randn(5, 2, 4, generator=seeded(2)))
    torch.testing.assert_close(margins, flat @ matrix.double().T, rtol=1e-12, atol=1e-12)


def test_behind_a_nonlinearity_the_matrix_is_a_node_of_its_own() -> None:
    graph = _with_outputs(network(), "relu")
    graph = EliminateDeadCode().run(graph).graph
    matrix = torch.randn(2, 6, generator=seeded(1))
    result = merge_specification(graph, matrix)
    assert listing(result.graph).splitlines()[-3:-1] == [
        "margins_matrix = Constant(value 6×2) : 6×2",
        "margins = MatMul(relu, margins_matrix) : N×2",
    ]
    assert result.changes == ()
    assert "relu is a Relu and not a Gemm" in result.refusals[0]
    relu, margins = nominal(result.graph, torch.randn(5, 5, generator=seeded(2)))
    torch.testing.assert_close(margins, relu @ matrix.double().T, rtol=1e-12, atol=1e-12)
    assert "margins_matrix.value" not in dict(parameter_tree(result.graph).named_parameters())


def test_the_first_output_and_another_name() -> None:
    graph = _with_outputs(network(), "logits", "relu")
    merged = merge_specification(graph, torch.ones(1, 3), name="total").graph
    assert merged.outputs == ("logits", "relu", "total")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(GraphError, match=r"a specification of shape 2×4 for N×3; expected \(rows, 3\)"):
        merge_specification(network(), torch.ones(2, 4))
    with pytest.raises(GraphError, match="a specification of shape 3 for N×3"):
        merge_specification(network(), torch.ones(3))
    with pytest.raises(GraphError, match="node relu: the name is taken"):
        merge_specification(network(), torch.ones(1, 3), name="relu")


def test_float32_bounds_of_margins_that_cancel() -> None:
    """Similar rows: the margin is 1, but the logits are so large that binary32 cannot resolve it."""
    weight = torch.full((2, 40), 1e7)
    net = Net(40)
    net.add("logits", "Gemm", "x", weight=weight, bias=torch.tensor([1.0, 0.0]))
    merged = merge_specification(net.finish("logits"), class_differences(2)).graph
    x = torch.randn(200, 40, generator=seeded(5))
    (logits, _) = nominal(merged, x, dtype=torch.float32)
    computed = logits[:, 0] - logits[:, 1]
    assert float((computed - 1.0).abs().max()) > 0.1, "the network is not nasty enough"
    folded, _ = EVALUATION.run(_with_outputs(merged, "margins"))
    box = sound_bounds(folded, Interval.point(x.double()))
    assert bool(box.contains(computed[:, None]).all())
    assert bool(box.contains(torch.ones_like(computed)[:, None]).all())


def _with_outputs(graph: Graph, *outputs: str) -> Graph:
    copy = graph.copy()
    copy.outputs = outputs
    return copy
