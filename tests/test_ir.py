"""The graph: building, asking, verifying, writing; and the margins of a classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Graph, Node, Operand, format_shape
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.ops import operators


def entry(graph: Graph, features: int = 4, name: str = "x") -> str:
    return graph.add(Node(name, "Input", {"shape": [features], "range": None}, (BATCH, features)))


def linear(graph: Graph, name: str, source: str, rows: int = 4, columns: int = 4) -> str:
    node = Node(name, "Gemm", {}, (BATCH, rows))
    return graph.add(node, [source], {"weight": torch.zeros(rows, columns), "bias": torch.zeros(rows)})


def relu(graph: Graph, name: str, source: str) -> str:
    return graph.add(Node(name, "Relu", {}, graph.node(source).shape), [source])


def add(graph: Graph, name: str, sources: Sequence[str]) -> str:
    return graph.add(Node(name, "Add", {}, graph.node(sources[0]).shape), sources)


def chain() -> Graph:
    """x → first → active → second."""
    graph = Graph("chain")
    entry(graph)
    linear(graph, "first", "x")
    relu(graph, "active", "first")
    linear(graph, "second", "active", rows=2)
    graph.outputs = ("second",)
    return graph


def residual() -> Graph:
    """stem → (branch → inner) + stem → joined → head, with a second block behind."""
    graph = Graph("residual")
    entry(graph)
    linear(graph, "stem", "x")
    linear(graph, "branch", "stem")
    relu(graph, "inner", "branch")
    add(graph, "joined", ["inner", "stem"])
    linear(graph, "left", "joined")
    linear(graph, "right", "joined")
    add(graph, "sum", ["left", "right"])
    linear(graph, "head", "sum", rows=2)
    graph.outputs = ("head",)
    return graph


def problems(graph: Graph) -> list[str]:
    with pytest.raises(GraphError) as caught:
        graph.verify(operators())
    return [str(problem) for problem in caught.value.problems]


class TestBuilding:
    def test_a_sound_graph_verifies(self) -> None:
        chain().verify(operators())
        residual().verify(operators())

    def test_one_value_in_two_slots_has_two_edges(self) -> None:
        graph = Graph("twice")
        entry(graph)
        add(graph, "double", ["x", "x"])
        graph.outputs = ("double",)
        graph.verify(operators())
        assert graph.operands("double") == ("x", "x")
        assert graph.consumers("x") == (Operand("double", 0), Operand("double", 1))

    def test_slots_keep_their_order(self) -> None:
        graph = Graph("order")
        for name in ("x", "y"):
            entry(graph, name=name)
        add(graph, "z", ["y", "x"])
        assert graph.operands("z") == ("y", "x")
        graph.set_operands("z", ["x", "y"])
        assert graph.operands("z") == ("x", "y")

    @pytest.mark.parametrize(
        ("name", "found"), [("x", "taken"), ("1st", "malformed"), ("a.b", "malformed"), ("", "malformed")]
    )
    def test_names_are_unique_and_well_formed(self, name: str, found: str) -> None:
        graph = chain()
        with pytest.raises(GraphError, match=found):
            relu_at = Node(name, "Relu", {}, (BATCH, 4))
            graph.add(relu_at, ["first"])

    def test_an_operand_must_exist(self) -> None:
        with pytest.raises(GraphError, match="unknown operand 'nowhere'"):
            chain().add(Node("late", "Relu", {}, (BATCH, 4)), ["nowhere"])

    @pytest.mark.parametrize(
        ("wish", "name"),
        [("y", "y"), ("x", "x_2"), ("conv.1/weight", "conv_1_weight"), ("3", "n3"), ("", "value"), ("é", "value")],
    )
    def test_fresh_names(self, wish: str, name: str) -> None:
        assert chain().fresh_name(wish) == name

    def test_attributes_cannot_be_changed_behind_the_graph(self) -> None:
        given = {"epsilon": 1e-5, "momentum": 0.9}
        node = Node("bn", "BatchNormalization", given)
        given["epsilon"] = 1.0
        assert node.attributes["epsilon"] == 1e-5
        with pytest.raises(TypeError):
            node.attributes["epsilon"] = 1.0

    def test_a_copy_is_independent_but_shares_arrays(self) -> None:
        graph = chain()
        other = graph.copy()
        other.rewire("active", "first")
        other.remove("active")
        other.outputs = ("first",)
        assert graph.operands("second") == ("active",)
        assert graph.outputs == ("second",)
        assert other.state["first.weight"] is graph.state["first.weight"]


class TestChanging:
    def test_rewire_moves_every_slot_and_the_outputs(self) -> None:
        graph = Graph("g")
        entry(graph)
        relu(graph, "a", "x")
        relu(graph, "b", "x")
        add(graph, "sum", ["a", "a"])
        graph.outputs = ("a", "sum")
        graph.rewire("a", "b")
        assert graph.operands("sum") == ("b", "b")
        assert graph.outputs == ("b", "sum")
        assert graph.consumers("a") == ()
        graph.remove("a")
        graph.verify(operators())

    def test_remove_takes_the_state_along(self) -> None:
        graph = chain()
        graph.rewire("second", "active")
        graph.remove("second")
        assert set(graph.state) == {"first.weight", "first.bias"}
        graph.verify(operators())

    def test_remove_refuses_a_value_that_is_read(self) -> None:
        with pytest.raises(GraphError, match="still read"):
            chain().remove("first")
        with pytest.raises(GraphError, match="still read"):
            chain().remove("second")

    def test_replace_keeps_the_name_and_the_edges(self) -> None:
        graph = chain()
        graph.replace("first", constraints=("spectral",))
        assert graph.node("first").constraints == ("spectral",)
        assert graph.operands("first") == ("x",)

    def test_an_unknown_node_comes_with_the_nearest_name(self) -> None:
        with pytest.raises(GraphError, match="did you mean 'second'"):
            chain().node("secnd")


class TestTies:
    def tied(self) -> Graph:
        graph = chain()
        linear(graph, "third", "second", rows=4, columns=2)
        linear(graph, "fourth", "third")
        linear(graph, "fifth", "fourth")
        graph.outputs = ("fifth",)
        graph.tie("fourth.weight", "first.weight")
        graph.tie("fifth.weight", "fourth.weight")
        return graph

    def test_the_structure_tells_what_is_tied_to_what(self) -> None:
        graph, other = self.tied(), self.tied()
        assert graph.structure() == other.structure()
        graph.state["second.weight"] = graph.state["first.weight"]
        other.state["second.weight"] = other.state["first.weight"]
        other.ties["fifth.weight"] = "second.weight"
        assert graph.to_text() == other.to_text()
        assert graph.structure() != other.structure()

    def test_tied_entries_stand_for_one_array(self) -> None:
        graph = self.tied()
        graph.verify(operators())
        assert "fourth.weight" not in graph.state
        assert graph.source_of("fifth.weight") == "first.weight"
        assert graph.source_of("first.weight") == "first.weight"
        assert graph.parameters_of("fifth")["weight"] is graph.state["first.weight"]

    def test_the_first_heir_inherits_from_a_removed_owner(self) -> None:
        graph = self.tied()
        array = graph.state["first.weight"]
        graph.rewire("first", "x")
        graph.remove("first")
        graph.verify(operators())
        assert graph.state["fourth.weight"] is array
        assert graph.ties == {"fifth.weight": "fourth.weight"}

    def test_removing_a_tied_node_leaves_the_owner_alone(self) -> None:
        graph = self.tied()
        graph.rewire("fourth", "third")
        graph.remove("fourth")
        graph.verify(operators())
        assert graph.ties == {"fifth.weight": "first.weight"}
        assert "first.weight" in graph.state

    def test_tying_an_owner_takes_its_heirs_along(self) -> None:
        graph = chain()
        linear(graph, "third", "active")
        linear(graph, "fourth", "third")
        graph.outputs = ("fourth", "second")
        graph.tie("fourth.weight", "third.weight")
        graph.tie("third.weight", "first.weight")
        graph.verify(operators())
        assert graph.ties == {"fourth.weight": "first.weight", "third.weight": "first.weight"}

    def test_tying_an_entry_to_itself_changes_nothing(self) -> None:
        graph = chain()
        array = graph.state["first.weight"]
        graph.tie("first.weight", "first.weight")
        assert graph.state["first.weight"] is array
        assert graph.ties == {}
        graph = self.tied()
        graph.tie("first.weight", "fifth.weight")
        graph.verify(operators())
        assert set(graph.ties) == {"fourth.weight", "fifth.weight"}

    def test_a_tie_to_nothing_is_a_problem(self) -> None:
        graph = chain()
        graph.ties["second.weight"] = "nowhere.weight"
        assert problems(graph) == ["state second.weight: it is tied to 'nowhere.weight', which does not exist"]


class TestAsking:
    def test_order_is_topological_and_follows_insertion(self) -> None:
        graph = residual()
        names = [node.name for node in graph.order()]
        assert names == ["x", "stem", "branch", "inner", "joined", "left", "right", "sum", "head"]
        graph = chain()
        relu(graph, "inserted", "first")
        graph.set_operands("active", ["inserted"])
        assert [node.name for node in graph.order()] == ["x", "first", "inserted", "active", "second"]

    def test_a_cycle_is_named(self) -> None:
        graph = chain()
        graph.set_operands("first", ["active"])
        with pytest.raises(GraphError, match="cycle") as caught:
            graph.order()
        (problem,) = caught.value.problems
        assert "first → active → first" in problem.found or "active → first → active" in problem.found
        assert problem.expected == "an acyclic graph"
        with pytest.raises(GraphError, match="cycle"):
            graph.verify(operators())

    def test_cuts_of_a_chain_are_all_its_nodes(self) -> None:
        assert chain().cuts("second") == ("x", "first", "active", "second")

    def test_cuts_of_a_residual_graph_lie_between_the_blocks(self) -> None:
        assert residual().cuts("head") == ("x", "stem", "joined", "sum", "head")
        assert residual().cuts("inner") == ("x", "stem", "branch", "inner")

    def test_two_inputs_meet_in_the_first_cut(self) -> None:
        graph = Graph("two")
        for name in ("x", "y"):
            entry(graph, name=name)
        add(graph, "sum", ["x", "y"])
        relu(graph, "out", "sum")
        graph.outputs = ("out",)
        assert graph.cuts("out") == ("sum", "out")

    def test_constants_are_no_cuts(self) -> None:
        graph = Graph("constant")
        entry(graph)
        graph.add(Node("c", "Constant", {}, (4,)), state={"value": torch.zeros(4)})
        add(graph, "sum", ["x", "c"])
        graph.outputs = ("sum",)
        assert graph.cuts("sum") == ("x", "sum")
        assert graph.cuts("c") == ()

    def test_ancestors_and_descendants_include_the_start(self) -> None:
        graph = residual()
        assert graph.ancestors(["inner"]) == {"x", "stem", "branch", "inner"}
        assert graph.descendants(["sum"]) == {"sum", "head"}

    def test_inputs_in_the_order_they_were_added(self) -> None:
        graph = Graph("two")
        for name in ("second", "first"):
            entry(graph, name=name)
        assert graph.inputs == ("second", "first")

    def test_sizes_and_membership(self) -> None:
        graph = chain()
        assert len(graph) == 4
        assert "first" in graph
        assert "nothing" not in graph
        assert graph.shapes_of(["x", "second"]) == ((BATCH, 4), (BATCH, 2))


class TestVerifying:
    def test_all_problems_come_together(self) -> None:
        graph = chain()
        graph.replace("active", shape=(BATCH, 5))
        graph.replace("second", operator="Gem")
        graph.state["nobody.weight"] = torch.zeros(1)
        graph.outputs = ("second", "third")
        found = problems(graph)
        assert len(found) == 4
        assert "node active: shape N×5 where the operator gives N×4" in found
        assert "node second: unknown operator 'Gem'; did you mean 'Gemm'?" in found
        assert "state nobody.weight: no node uses it" in found
        assert "output third: no such node" in found

    def test_no_output(self) -> None:
        graph = chain()
        graph.outputs = ()
        assert problems(graph) == ["graph chain: it has no output"]

    def test_a_missing_a_surplus_and_a_malformed_attribute(self) -> None:
        graph = Graph("g")
        entry(graph)
        parameters = {role: torch.ones(4) for role in ("weight", "bias", "running_mean", "running_var")}
        node = Node("bn", "BatchNormalization", {"epsilon": -1.0, "size": 3}, (BATCH, 4))
        graph.add(node, ["x"], parameters)
        graph.outputs = ("bn",)
        found = "\n".join(problems(graph))
        assert "no attribute 'size'" in found
        assert "attribute 'momentum' of BatchNormalization is missing" in found
        assert "attribute 'epsilon' of BatchNormalization: -1.0" in found

    def test_a_missing_and_a_surplus_parameter(self) -> None:
        graph = chain()
        del graph.state["first.weight"]
        graph.state["first.weigth"] = torch.zeros(1)
        found = problems(graph)
        assert "node first: Gemm lacks its parameter 'weight'" in found
        assert "node first: Gemm has no parameter 'weigth'" in found

    def test_too_many_operands(self) -> None:
        graph = chain()
        graph.set_operands("active", ["first", "first"])
        assert problems(graph) == ["node active: Relu has 2 operands, expected 1"]

    def test_parameters_that_do_not_fit(self) -> None:
        graph = chain()
        graph.state["first.weight"] = torch.zeros(4, 3)
        (problem,) = problems(graph)
        assert problem.startswith("node first: ")
        assert "4×3" in problem


TEXT = """\
graph residual (x) -> (out) {
  x    = Input[range=null, shape=[4]]()        : N×4
  stem = Gemm(x; weight 4×4, bias 4) @spectral : N×4
  sum  = Add(stem, x)                          : N×4
  out  = Relu(sum)                             : N×4
}
"""


class TestWriting:
    def small(self) -> Graph:
        graph = Graph("residual")
        entry(graph)
        linear(graph, "stem", "x")
        graph.replace("stem", constraints=("spectral",))
        add(graph, "sum", ["stem", "x"])
        relu(graph, "out", "sum")
        graph.outputs = ("out",)
        graph.hints = {"dataset": "digits"}
        return graph

    def test_text(self) -> None:
        assert self.small().to_text() == TEXT

    def test_text_does_not_depend_on_the_history_of_edges(self) -> None:
        graph = self.small()
        graph.set_operands("sum", ["x", "stem"])
        graph.set_operands("sum", ["stem", "x"])
        assert graph.to_text() == TEXT

    @pytest.mark.parametrize(("shape", "text"), [((BATCH, 3, 32), "N×3×32"), ((10,), "10"), ((), "scalar")])
    def test_shapes(self, shape: tuple[int, ...], text: str) -> None:
        assert format_shape(shape) == text

    def test_json_round_trip(self) -> None:
        graph = self.small()
        linear(graph, "head", "out")
        graph.tie("head.weight", "stem.weight")
        graph.outputs = ("head", "out")
        data = json.loads(json.dumps(graph.to_json()))
        again = Graph.from_json(data, graph.state)
        again.verify(operators())
        assert again.to_text() == graph.to_text()
        assert again.to_json() == graph.to_json()
        assert again.ties == {"head.weight": "stem.weight"}
        assert again.hints == {"dataset": "digits"}
        assert again.operands("sum") == ("stem", "x")

    def test_json_keeps_both_slots_of_one_value(self) -> None:
        graph = Graph("twice")
        entry(graph)
        add(graph, "double", ["x", "x"])
        graph.outputs = ("double",)
        again = Graph.from_json(json.loads(json.dumps(graph.to_json())), {})
        assert again.operands("double") == ("x", "x")

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            {},
            {"format": 2},
            {"format": 1},
            {"format": 1, "name": "g", "hints": {}, "outputs": [], "ties": {}, "nodes": [{}]},
            {"format": 1, "name": "g", "hints": {}, "outputs": [], "ties": {}, "nodes": 3},
            {"format": 1, "name": "g", "hints": {}, "outputs": [], "ties": [], "nodes": []},
        ],
        ids=str,
    )
    def test_malformed_json_is_an_error_of_ours(self, data: object) -> None:
        with pytest.raises(GraphError):
            Graph.from_json(data, {})


class TestMargins:
    """Three classes by hand: z₀ − z₁, z₀ − z₂, z₁ − z₂."""

    def test_differences(self) -> None:
        expected = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
        assert torch.equal(class_differences(3), expected)

    def test_index(self) -> None:
        expected = torch.tensor([[6, 0, 1], [3, 6, 2], [4, 5, 6]])
        assert torch.equal(margin_index(3), expected)

    def test_margins_take_the_right_side_with_the_right_sign(self) -> None:
        lower = torch.tensor([[1.0, 2.0, 3.0]]).repeat(3, 1)
        upper = torch.tensor([[10.0, 20.0, 30.0]]).repeat(3, 1)
        found = margins_of(lower, upper, torch.tensor([0, 1, 2]), margin_index(3))
        expected = torch.tensor([[0.0, 1.0, 2.0], [-10.0, 0.0, 3.0], [-20.0, -30.0, 0.0]])
        assert torch.equal(found, expected)

    def test_exact_logits_give_exact_margins(self) -> None:
        logits = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
        differences = logits @ class_differences(4).T
        for label in range(4):
            found = margins_of(differences, differences, torch.tensor([label]), margin_index(4))
            assert torch.equal(found, logits[:, label : label + 1] - logits)

    def test_two_classes(self) -> None:
        found = margins_of(
            torch.tensor([[-1.0], [-1.0]]), torch.tensor([[2.0], [2.0]]), torch.tensor([0, 1]), margin_index(2)
        )
        assert torch.equal(found, torch.tensor([[0.0, -1.0], [-2.0, 0.0]]))
