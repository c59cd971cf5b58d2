"""Nodes that change nothing are dropped, look-alikes are not."""

from __future__ import annotations

import pytest
import torch

from ibpc.passes import DropIdentities
from tests.passes.building import Net, listing, nominal, seeded


def test_text() -> None:
    net = Net(2, 3)
    net.add("copy", "Identity", "x")
    net.add("dropout", "Dropout", "copy")
    net.add("relu", "Relu", "dropout")
    net.add("flat", "Flatten", "relu")
    net.add("again", "Flatten", "flat")
    net.add("y", "Relu", "again")
    graph = net.finish("y")
    result = DropIdentities(also=("Dropout",)).run(graph)
    assert listing(result.graph) == (
        "graph net (x) -> (y) {\n"
        "x = Input[range=null, shape=[2, 3]]() : N×2×3\n"
        "relu = Relu(x) : N×2×3\n"
        "flat = Flatten(relu) : N×6\n"
        "y = Relu(flat) : N×6\n"
        "}"
    )
    assert result.changes == (
        "copy: Identity dropped, its readers read x",
        "dropout: Dropout dropped, its readers read x",
        "again: Flatten dropped, its readers read flat",
    )
    x = torch.randn(4, 2, 3, generator=seeded())
    assert torch.equal(nominal(result.graph, x)[0], nominal(graph, x)[0])


def test_dropout_stays_for_training() -> None:
    net = Net(3)
    net.add("dropout", "Dropout", "x")
    net.add("y", "Relu", "dropout")
    assert "dropout" in DropIdentities().run(net.finish("y")).graph


UNCHANGED = {
    "reshape": ("Reshape", {"shape": [2, 3]}, None),
    "transpose": ("Transpose", {"perm": [0, 1, 2]}, None),
    "plus zero": ("Add", {}, [0.0, -0.0, 0.0]),
    "minus zero": ("Sub", {}, [0.0]),
    "times one": ("Mul", {}, [[1.0], [1.0]]),
    "over one": ("Div", {}, [1.0]),
    "no padding": ("Pad", {"pads": [0] * 6}, None),
}
CHANGED = {
    "transpose": ("Transpose", {"perm": [0, 2, 1]}, None),
    "plus": ("Add", {}, [0.0, 1e-30, 0.0]),
    "times": ("Mul", {}, [1.0, 1.0, 2.0]),
    "shift to the right": ("Pad", {"pads": [0, 0, 1, 0, 0, -1]}, None),
    "shift to the left": ("Pad", {"pads": [0, -1, 0, 0, 1, 0]}, None),
}


@pytest.mark.parametrize("row", UNCHANGED.values(), ids=UNCHANGED)
def test_operators_that_change_nothing_go(row: tuple[str, dict[str, list[int]], list[float] | None]) -> None:
    assert "node" not in DropIdentities().run(_around(*row).finish("y")).graph


@pytest.mark.parametrize("row", CHANGED.values(), ids=CHANGED)
def test_look_alikes_stay(row: tuple[str, dict[str, list[int]], list[float] | None]) -> None:
    assert "node" in DropIdentities().run(_around(*row).finish("y")).graph


def _around(operator: str, attributes: dict[str, list[int]], constant: list[float] | None) -> Net:
    net = Net(2, 3)
    operands = ["x"] if constant is None else ["x", net.constant("c", constant)]
    net.add("node", operator, operands, attributes)
    net.add("y", "Relu", "node")
    return net


def test_a_constant_minus_the_value_is_no_identity() -> None:
    net = Net(3)
    net.add("node", "Sub", [net.constant("zero", 0.0), "x"])
    net.add("y", "Relu", "node")
    assert DropIdentities().run(net.finish("y")).changes == ()


def test_a_product_that_widens_stays() -> None:
    net = Net(1, 3)
    net.add("node", "Mul", ["x", net.constant("ones", torch.ones(2, 1))])
    net.add("y", "Relu", "node")
    assert DropIdentities().run(net.finish("y")).changes == ()


def test_outputs_keep_their_places() -> None:
    net = Net(3)
    net.add("relu", "Relu", "x")
    net.add("copy", "Identity", "relu")
    net.add("input", "Identity", "x")
    graph = net.finish("input", "copy")
    result = DropIdentities().run(graph)
    assert result.graph.outputs == ("input", "relu")
    assert result.refusals == ("input: not dropped, it is an output, and x, its operand, an input",)
    x = torch.randn(2, 3, generator=seeded())
    for before, after in zip(nominal(graph, x), nominal(result.graph, x), strict=True):
        assert torch.equal(before, after)


def test_an_output_beside_its_operand_stays() -> None:
    net = Net(3)
    net.add("relu", "Relu", "x")
    net.add("copy", "Identity", "relu")
    result = DropIdentities().run(net.finish("relu", "copy"))
    assert result.graph.outputs == ("relu", "copy")
    assert result.refusals == ("copy: not dropped, the network returns both it and relu, its operand",)
