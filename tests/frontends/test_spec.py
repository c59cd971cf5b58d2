"""JSON specs: the graph they become, their initialization, and every kind of mistake."""

import json
import math
import re
from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ibpc.errors import SpecError, UsageError
from ibpc.frontends.initialization import initialize
from ibpc.frontends.schema import common_options, layer_types, spec_schema
from ibpc.frontends.spec import graph_from_spec, load_spec
from ibpc.frontends.spec_page import spec_page
from ibpc.ir import BATCH
from ibpc.lowering import lower_nominal, parameter_tree
from ibpc.ops import operators
from tests import ROOT

DOCS = ROOT / "docs" / "spec.md"

CHAIN = {
    "ibpc": 1,
    "name": "small",
    "input": {"shape": [2, 6, 6]},
    "classes": 3,
    "layers": [
        {"type": "Conv2d", "out_channels": 4, "kernel_size": 3},
        {"type": "ReLU"},
        {"type": "Flatten"},
        {"type": "Linear", "out_features": 3},
    ],
}

RESIDUAL = {
    "ibpc": 1,
    "name": "residual",
    "input": {"shape": [2, 4, 4], "range": None},
    "classes": 3,
    "dataset": "cifar10",
    "graph": {
        "nodes": {
            "logits": {"type": "Linear", "inputs": ["flat"], "out_features": 3},
            "conv": {"type": "Conv2d", "inputs": ["input"], "out_channels": 2, "kernel_size": 3, "padding": "same"},
            "sum": {"type": "Add", "inputs": ["input", "conv"]},
            "flat": {"type": "Flatten", "inputs": ["sum"]},
        },
        "output": "logits",
    },
}


CONV = ("layers", 0)
NODES = ("graph", "nodes")


def changed(spec, *path, to):
    """Return a copy of `spec` with the value at `path` replaced (or, for the end of a list, appended)."""
    copy = deepcopy(spec)
    place = copy
    for step in path[:-1]:
        place = place[step]
    if isinstance(place, list) and path[-1] == len(place):
        place.append(to)
    else:
        place[path[-1]] = to
    return copy


def without(spec, *path):
    copy = deepcopy(spec)
    place = copy
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return copy


def messages(spec):
    with pytest.raises(SpecError) as caught:
        graph_from_spec(spec, "s.json")
    return str(caught.value).splitlines()


# ── what a spec becomes ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_chain_becomes_a_graph():
    graph = graph_from_spec(changed(CHAIN, "dataset", to="digits"), "s.json")
    assert [(node.name, node.operator, node.shape) for node in graph.order()] == [
        ("input", "Input", (BATCH, 2, 6, 6)),
        ("conv1", "Conv", (BATCH, 4, 4, 4)),
        ("relu1", "Relu", (BATCH, 4, 4, 4)),
        ("flatten1", "Flatten", (BATCH, 64)),
        ("linear1", "Gemm", (BATCH, 3)),
    ]
    assert [graph.operands(node.name) for node in graph.order()] == [
        (),
        ("input",),
        ("conv1",),
        ("relu1",),
        ("flatten1",),
    ]
    assert graph.name == "small"
    assert graph.outputs == ("linear1",)
    assert graph.hints == {"classes": 3, "dataset": "digits", "weights": "fresh"}
    assert dict(graph.node("input").attributes) == {"shape": [2, 6, 6], "range": [0, 1]}
    assert {key: tuple(value.shape) for key, value in graph.state.items()} == {
        "conv1.weight": (4, 2, 3, 3),
        "conv1.bias": (4,),
        "linear1.weight": (3, 64),
        "linear1.bias": (3,),
    }


def test_a_graph_in_any_order_becomes_a_graph():
    graph = graph_from_spec(RESIDUAL, "s.json")
    assert [node.name for node in graph.order()] == ["input", "conv", "sum", "flat", "logits"]
    assert graph.operands("sum") == ("input", "conv")
    assert graph.outputs == ("logits",)
    assert graph.hints == {"classes": 3, "dataset": "cifar10", "weights": "fresh"}
    assert graph.node("input").attributes["range"] is None


def test_names_count_up_and_leave_room_for_given_ones():
    spec = deepcopy(CHAIN)
    spec["layers"][1:2] = [
        {"type": "ReLU"},
        {"type": "ReLU", "name": "relu2"},
        {"type": "ReLU"},
        {"type": "BatchNorm2d"},
        {"type": "Conv2d", "out_channels": 1, "kernel_size": 1},
    ]
    graph = graph_from_spec(spec, "s.json")
    assert [node.name for node in graph.order()][1:7] == ["conv1", "relu1", "relu2", "relu3", "batchnorm1", "conv2"]


def test_normalization_is_part_of_the_network():
    spec = changed(RESIDUAL, "input", to={"shape": [2, 4, 4], "mean": [0.25, 0.5], "std": [0.5, 2.0]})
    spec["graph"]["nodes"] = {
        "sum": {"type": "Add", "inputs": ["input", "input"]},
        "flat": {"type": "Flatten", "inputs": ["sum"]},
    }
    spec["graph"]["output"], spec["classes"] = "flat", 32
    graph = graph_from_spec(spec, "s.json")
    assert [(node.name, node.operator) for node in graph.order()] == [
        ("input", "Input"),
        ("normalize_mean", "Constant"),
        ("normalize_sub", "Sub"),
        ("normalize_std", "Constant"),
        ("normalize_div", "Div"),
        ("sum", "Add"),
        ("flat", "Flatten"),
    ]
    assert graph.node("normalize_std").shape == (2, 1, 1)
    x = torch.rand(3, 2, 4, 4)
    expected = torch.stack([2 * (x[:, 0] - 0.25) / 0.5, 2 * (x[:, 1] - 0.5) / 2.0], dim=1).flatten(1)
    torch.testing.assert_close(lower_nominal(graph, parameter_tree(graph))(x), expected)


def test_one_number_normalizes_every_channel():
    spec = changed(CHAIN, "input", "std", to=4.0)
    graph = graph_from_spec(spec, "s.json")
    assert graph.state["normalize_std.value"].flatten().tolist() == [4.0, 4.0]
    assert graph.operands("conv1") == ("normalize_div",)
    assert "normalize_mean" not in graph


def test_constraints_go_to_the_node_in_order():
    spec = changed(CHAIN, "layers", 0, "norm", to="spectral")
    spec = changed(spec, "layers", 0, "constraint", to="nonnegative")
    graph = graph_from_spec(spec, "s.json")
    assert graph.node("conv1").constraints == ("nonnegative", "spectral")
    assert graph.node("linear1").constraints == ()
    assert (graph.state["conv1.weight"] >= 0).all()
    assert (graph.state["linear1.weight"] < 0).any()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "before", "after"),
    [
        (28, 3, 2, 1, 0, 1),  # (14 − 1)·2 + 3 − 28 = 1
        (27, 3, 2, 1, 1, 1),  # (14 − 1)·2 + 3 − 27 = 2
        (8, 4, 1, 1, 1, 2),  # (8 − 1)·1 + 4 − 8 = 3
        (9, 3, 3, 1, 0, 0),  # (3 − 1)·3 + 3 − 9 = 0
        (10, 3, 1, 2, 2, 2),  # (10 − 1)·1 + 5 − 10 = 4
        (9, 2, 4, 1, 0, 1),  # (3 − 1)·4 + 2 − 9 = 1
        (7, 1, 2, 1, 0, 0),  # (4 − 1)·2 + 1 − 7 = 0
    ],
)
def test_same_padding_is_as_documented(size, kernel, stride, dilation, before, after):
    spec = changed(CHAIN, "input", "shape", to=[1, size, size])
    layer = {"type": "Conv2d", "out_channels": 1, "kernel_size": kernel, "stride": stride, "dilation": dilation}
    spec["layers"] = [{**layer, "padding": "same"}, {"type": "Flatten"}, {"type": "Linear", "out_features": 3}]
    node = graph_from_spec(spec, "s.json").node("conv1")
    assert node.attributes["pads"] == [before, before, after, after]
    assert node.shape[2:] == (math.ceil(size / stride),) * 2


def test_valid_padding_is_none():
    graph = graph_from_spec(changed(CHAIN, "layers", 0, "padding", to="valid"), "s.json")
    assert graph.node("conv1").attributes["pads"] == [0, 0, 0, 0]


# ── initialization ──────────────────────────────────────────────────────────────────────────────────────────────
def test_the_default_initialization_is_that_of_torch():
    graph = graph_from_spec(CHAIN, "s.json", seed=7)
    torch.manual_seed(7)
    conv, linear = torch.nn.Conv2d(2, 4, 3), torch.nn.Linear(64, 3)
    for name, module in (("conv1", conv), ("linear1", linear)):
        torch.testing.assert_close(graph.state[f"{name}.weight"], module.weight.detach())
        torch.testing.assert_close(graph.state[f"{name}.bias"], module.bias.detach())


def test_ibp_initialization_has_its_deviation():
    spec = changed(CHAIN, "layers", 3, "out_features", to=1000)
    graph = graph_from_spec(changed(changed(spec, "classes", to=1000), "init", to="ibp"), "s.json")
    weight = graph.state["linear1.weight"]
    assert weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / 64, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=5 * math.sqrt(2 * math.pi) / 64 / math.sqrt(64000))
    assert (graph.state["linear1.bias"] == 0).all()


def test_orthogonal_initialization_is_orthogonal():
    graph = graph_from_spec(changed(CHAIN, "init", to="orthogonal"), "s.json")
    for name in ("conv1", "linear1"):
        matrix = graph.state[f"{name}.weight"].flatten(1)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)
        assert (graph.state[f"{name}.bias"] == 0).all()


def test_a_layer_may_state_its_own_initialization():
    graph = graph_from_spec(changed(CHAIN, "layers", 0, "init", to="ibp"), "s.json")
    assert (graph.state["conv1.bias"] == 0).all()
    assert (graph.state["linear1.bias"] != 0).any()


@pytest.mark.parametrize("path", [("init",), ("layers", 0, "init")])
def test_a_stated_initialization_is_not_left_to_training(path):
    assert "weights" not in graph_from_spec(changed(CHAIN, *path, to="pytorch"), "s.json").hints


def test_the_seed_decides():
    first, again, other = (graph_from_spec(CHAIN, "s.json", seed=seed).state for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_an_impossible_seed_is_refused(seed):
    with pytest.raises(UsageError, match=f"seed: found {seed}; expected an integer from 0 to"):
        graph_from_spec(CHAIN, "s.json", seed)


def test_tuples_of_a_python_caller_are_lists():
    spec = changed(changed(CHAIN, *CONV, "kernel_size", to=(3, 3)), "input", to={"shape": (2, 6, 6), "range": (0, 1)})
    assert graph_from_spec(spec, "s.json").to_text() == graph_from_spec(CHAIN, "s.json").to_text()


def test_initialize_draws_weights_and_biases_only():
    spec = deepcopy(CHAIN)
    spec["layers"].insert(1, {"type": "BatchNorm2d"})
    graph = graph_from_spec(spec, "s.json", seed=0)
    graph.state["batchnorm1.running_mean"] += 5
    before = {key: value.clone() for key, value in graph.state.items()}
    renewed = initialize(graph, "pytorch", 1)
    same = {key for key in before if torch.equal(before[key], renewed.state[key])}
    assert same == {f"batchnorm1.{role}" for role in ("weight", "bias", "running_mean", "running_var")}
    assert all(torch.equal(before[key], graph.state[key]) for key in before)
    fresh = graph_from_spec(spec, "s.json", seed=1)
    assert all(torch.equal(renewed.state[key], fresh.state[key]) for key in before if key not in same)


def test_initialize_keeps_nonnegative_weights_nonnegative():
    spec = changed(CHAIN, "layers", 0, "constraint", to="nonnegative")
    renewed = initialize(graph_from_spec(spec, "s.json"), "ibp", 1)
    assert (renewed.state["conv1.weight"] >= 0).all()
    assert (renewed.state["linear1.weight"] < 0).any()


def test_initialize_drops_the_magnitude_of_an_old_bias():
    graph = graph_from_spec(CHAIN, "s.json")
    graph.state["conv1.bias_magnitude"] = torch.zeros(4)
    renewed = initialize(graph, "pytorch", 1)
    renewed.verify(operators())
    assert "conv1.bias_magnitude" not in renewed.state


def test_initialize_keeps_tied_weights_tied():
    spec = deepcopy(CHAIN)
    spec["layers"].insert(1, {"type": "Conv2d", "out_channels": 4, "kernel_size": 1})
    spec["layers"].insert(2, {"type": "Conv2d", "out_channels": 4, "kernel_size": 1})
    graph = graph_from_spec(spec, "s.json")
    graph.tie("conv3.weight", "conv2.weight")
    renewed = initialize(graph, "pytorch", 1)
    renewed.verify(operators())
    assert renewed.ties == {"conv3.weight": "conv2.weight"}
    assert "conv3.weight" not in renewed.state


def test_initialize_refuses_an_unknown_scheme():
    with pytest.raises(UsageError, match="unknown scheme 'ibpp'; did you mean 'ibp'"):
        initialize(graph_from_spec(CHAIN, "s.json"), "ibpp", 0)


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────────────────────
MISTAKES = {
    "version": (changed(CHAIN, "ibpc", to=2), ["$.ibpc: found 2; expected 1"]),
    "no version": (without(CHAIN, "ibpc"), ['$: "ibpc" is missing; expected 1']),
    "unknown property": (changed(CHAIN, "clases", to=3), ["$.clases: unknown option; did you mean 'classes'?"]),
    "not an object": ([], ["$: found []; expected a spec: an object"]),
    "name": (
        changed(CHAIN, "name", to="a/b"),
        ['$.name: found "a/b"; expected a name of letters, digits, dots, dashes and underscores, at most 64'],
    ),
    "name with a newline": (
        changed(CHAIN, "name", to="a\n"),
        ['$.name: found "a\\n"; expected a name of letters, digits, dots, dashes and underscores, at most 64'],
    ),
    "data set": (
        changed(CHAIN, "dataset", to="cifar"),
        ["$.dataset: found \"cifar\"; expected a data set; did you mean 'cifar10'?"],
    ),
    "classes": (changed(CHAIN, "classes", to=1), ["$.classes: found 1; expected an integer ≥ 2"]),
    "classes as a float": (changed(CHAIN, "classes", to=3.0), ["$.classes: found 3.0; expected an integer ≥ 2"]),
    "classes as a word": (changed(CHAIN, "classes", to="3"), ['$.classes: found "3"; expected an integer ≥ 2']),
    "classes as a truth value": (
        changed(CHAIN, "classes", to=True),
        ["$.classes: found true; expected an integer ≥ 2"],
    ),
    "initialization": (
        changed(CHAIN, "init", to="ipb"),
        ["$.init: found \"ipb\"; expected an initialization; did you mean 'ibp'?"],
    ),
    "no shape": (
        without(CHAIN, "input", "shape"),
        ['$.input: "shape" is missing; expected a list of 1 to 8 integers ≥ 1'],
    ),
    "shape": (
        changed(CHAIN, "input", "shape", to=[2, 0, "6"]),
        [
            "$.input.shape[1]: found 0; expected an integer ≥ 1",
            '$.input.shape[2]: found "6"; expected an integer ≥ 1',
        ],
    ),
    "empty shape": (
        changed(CHAIN, "input", "shape", to=[]),
        ["$.input.shape: found []; expected a list of 1 to 8 integers ≥ 1"],
    ),
    "range": (
        changed(CHAIN, "input", "range", to=[1, 0]),
        ["$.input.range: found [1, 0]; expected the least value, then a greater one"],
    ),
    "range of three": (
        changed(CHAIN, "input", "range", to=[0, 1, 2]),
        ["$.input.range: found [0, 1, 2]; expected a list of 2 numbers, or null"],
    ),
    "mean per channel": (
        changed(CHAIN, "input", "mean", to=[0, 0, 0]),
        ["$.input.mean: 3 numbers for 2 channels; expected one number, or 2"],
    ),
    "deviation": (
        changed(CHAIN, "input", "std", to=0),
        ["$.input.std: found 0; expected a number > 0, or a list of 1 or more numbers > 0"],
    ),
    "no layers": (
        changed(CHAIN, "layers", to=[]),
        ["$.layers: found []; expected a list of 1 to 1024 layers"],
    ),
    "neither layers nor graph": (
        without(CHAIN, "layers"),
        ['$: found none of them; expected one of "layers" and "graph"'],
    ),
    "both": (
        {**CHAIN, "graph": RESIDUAL["graph"]},
        ['$: found "layers" and "graph"; expected one of "layers" and "graph"'],
    ),
    "layer type": (
        changed(CHAIN, *CONV, "type", to="Conv2D"),
        ["$.layers[0].type: found \"Conv2D\"; expected a layer type; did you mean 'Conv2d'?"],
    ),
    "layer without a type": (without(CHAIN, *CONV, "type"), ['$.layers[0]: "type" is missing; expected a layer type']),
    "layer that is no object": (
        changed(CHAIN, "layers", 1, to="ReLU"),
        ['$.layers[1]: found "ReLU"; expected a layer: an object'],
    ),
    "unknown option": (
        changed(CHAIN, *CONV, "kernelsize", to=3),
        ["$.layers[0].kernelsize: unknown option; did you mean 'kernel_size'?"],
    ),
    "missing option": (
        without(CHAIN, *CONV, "kernel_size"),
        ['$.layers[0]: "kernel_size" is missing; expected an integer ≥ 1, or a list of 2 integers ≥ 1'],
    ),
    "option too small": (
        changed(CHAIN, *CONV, "kernel_size", to=0),
        ["$.layers[0].kernel_size: found 0; expected an integer ≥ 1, or a list of 2 integers ≥ 1"],
    ),
    "padding": (
        changed(CHAIN, *CONV, "padding", to="sam"),
        [
            '$.layers[0].padding: found "sam"; expected an integer ≥ 0, or a list of 2 integers ≥ 0, '
            'or a list of 4 integers ≥ 0, or "same" or "valid"; did you mean \'same\'?'
        ],
    ),
    "constraint": (
        changed(CHAIN, *CONV, "constraint", to="non-negative"),
        ['$.layers[0].constraint: found "non-negative"; expected "nonnegative"; did you mean \'nonnegative\'?'],
    ),
    "constraint without a weight": (
        changed(CHAIN, "layers", 1, "constraint", to="nonnegative"),
        ['$.layers[1].constraint: found "nonnegative"; expected no constraint: ReLU has no weight'],
    ),
    "norm": (
        changed(CHAIN, "layers", 3, "norm", to=2),
        ['$.layers[3].norm: found 2; expected "spectral"'],
    ),
    "inputs in a chain": (
        changed(CHAIN, "layers", 1, "inputs", to=["conv1"]),
        [
            '$.layers[1].inputs: found ["conv1"]; expected no inputs: '
            'a layer of a chain reads the one before; use "graph"'
        ],
    ),
    "name twice": (
        changed(changed(CHAIN, *CONV, "name", to="a"), "layers", 1, "name", to="a"),
        ["$.layers[1].name: the name a is taken; expected a unique name"],
    ),
    "name of the input": (
        changed(CHAIN, *CONV, "name", to="input"),
        ["$.layers[0].name: the name input is taken; expected a unique name"],
    ),
    "name of a method": (
        changed(CHAIN, *CONV, "name", to="forward"),
        ["$.layers[0].name: the name forward is reserved; expected a name that neither Python nor torch uses"],
    ),
    "name that is a keyword": (
        changed(CHAIN, *CONV, "name", to="lambda"),
        ["$.layers[0].name: the name lambda is reserved; expected a name that neither Python nor torch uses"],
    ),
    "name with a blank": (
        changed(CHAIN, *CONV, "name", to="conv 1"),
        ['$.layers[0].name: found "conv 1"; expected a name of letters, digits and underscores, at most 64'],
    ),
    "window too large": (
        changed(CHAIN, *CONV, "kernel_size", to=7),
        [
            "$.layers[0]: Conv2d cannot read N×2×6×6: a window of 7 over 6 padded elements; "
            "expected a window no larger than the padded input"
        ],
    ),
    "wrong rank": (
        changed(CHAIN, "layers", 2, to={"type": "Linear", "out_features": 5}),
        ["$.layers[3]: the last layer gives N×4×4×3; expected N×3 for 3 classes"],
    ),
    "conv after flatten": (
        changed(CHAIN, "layers", 3, to={"type": "Conv2d", "out_channels": 5, "kernel_size": 1}),
        ["$.layers[3]: Conv2d cannot read N×64: an operand of rank 2; expected rank 4"],
    ),
    "binary layer in a chain": (
        changed(CHAIN, "layers", 1, to={"type": "Add"}),
        ['$.layers[1]: Add reads 1 value; expected 2; use "graph" instead of "layers"'],
    ),
    "classes and last layer": (
        changed(CHAIN, "classes", to=10),
        ["$.layers[3]: the last layer gives N×3; expected N×10 for 10 classes"],
    ),
    "absurd layer": (
        changed(CHAIN, "layers", 3, "out_features", to=2**30),
        [f"$.layers[3]: {65 * 2**30} parameters; expected at most {2**31} in a layer"],
    ),
    "absurd sum of layers": (
        changed(CHAIN, "layers", to=[{"type": "Flatten"}, *[{"type": "Linear", "out_features": 40000}] * 3]),
        [
            f"$.layers[3]: {40000 * (72 + 1) + 2 * 40000 * 40001} parameters up to here; "
            f"expected at most {2**31} in a network"
        ],
    ),
    "absurd input": (
        changed(CHAIN, "input", "shape", to=[2**20, 2**20]),
        [f"$.input.shape: {2**40} elements a sample; expected at most {2**31}"],
    ),
    "absurd value": (
        changed(CHAIN, *CONV, "padding", to=2**20),
        [f"$.layers[0]: {4 * (2**21 + 4) ** 2} elements a sample; expected at most {2**31}"],
    ),
    "absurd number": (
        changed(CHAIN, *CONV, "out_channels", to=10**50),
        [f"$.layers[0].out_channels: found 1{'0' * 50}; expected an integer below {2**31}"],
    ),
    "not a number": (
        changed(CHAIN, "input", "mean", to=[math.nan, math.inf]),
        [
            "$.input.mean[0]: found nan; expected a finite number",
            "$.input.mean[1]: found inf; expected a finite number",
        ],
    ),
    "too small for binary32": (
        changed(CHAIN, "input", "std", to=1e-60),
        ["$.input.std: found 1e-60; expected 0 or a number from 1.2e-38 to 3.4e38, as binary32 holds it"],
    ),
    "key that is no string": (
        {**CHAIN, 5: 6},
        ["$: the key 5; expected a string"],
    ),
    "unknown input": (
        changed(RESIDUAL, *NODES, "sum", "inputs", to=["con", "conv"]),
        ["$.graph.nodes.sum.inputs[0]: unknown node \"con\"; did you mean 'conv'?"],
    ),
    "no inputs": (
        without(RESIDUAL, *NODES, "sum", "inputs"),
        ['$.graph.nodes.sum: "inputs" is missing; expected a list of names of nodes'],
    ),
    "empty inputs": (
        changed(RESIDUAL, *NODES, "sum", "inputs", to=[]),
        ["$.graph.nodes.sum.inputs: found []; expected a list of names of nodes"],
    ),
    "name of a node": (
        changed(RESIDUAL, *NODES, "sum", "name", to="plus"),
        ['$.graph.nodes.sum.name: found "plus"; expected no name: a node\'s key is its name'],
    ),
    "bad name of a node": (
        changed(RESIDUAL, *NODES, "a b", to={"type": "ReLU", "inputs": ["sum"]}),
        ['$.graph.nodes: found "a b"; expected a name of letters, digits and underscores, at most 64'],
    ),
    "unknown output": (
        changed(RESIDUAL, "graph", "output", to="logit"),
        ["$.graph.output: unknown node \"logit\"; did you mean 'logits'?"],
    ),
    "no output": (without(RESIDUAL, "graph", "output"), ['$.graph: "output" is missing; expected the name of a node']),
    "cycle": (
        changed(RESIDUAL, *NODES, "conv", "inputs", to=["flat"]),
        ["$.graph.nodes: a cycle conv → sum → flat → conv; expected an acyclic graph"],
    ),
    "loop": (
        changed(RESIDUAL, *NODES, "sum", "inputs", to=["sum", "conv"]),
        ["$.graph.nodes: a cycle sum → sum; expected an acyclic graph"],
    ),
    "unread node": (
        changed(RESIDUAL, *NODES, "spare", to={"type": "ReLU", "inputs": ["sum"]}),
        ["$.graph.nodes.spare: the output logits does not depend on it; expected only nodes that matter"],
    ),
    "node called input": (
        changed(RESIDUAL, *NODES, "input", to={"type": "ReLU", "inputs": ["sum"]}),
        ["$.graph.nodes.input: the name input is taken; expected another name: this one is the network's input"],
    ),
    "too many inputs": (
        changed(RESIDUAL, *NODES, "sum", "inputs", to=["conv", "conv", "input"]),
        ["$.graph.nodes.sum: Add reads 3 values; expected 2"],
    ),
    "shapes that do not broadcast": (
        changed(RESIDUAL, *NODES, "conv", "out_channels", to=3),
        [
            "$.graph.nodes.sum: Add cannot read N×2×4×4 and N×3×4×4: shapes N×2×4×4 and N×3×4×4 do not broadcast; "
            "expected equal sizes or 1 in each dimension"
        ],
    ),
    "graph output and classes": (
        changed(RESIDUAL, "classes", to=4),
        ["$.graph.output: the last layer gives N×3; expected N×4 for 4 classes"],
    ),
    "many at once": (
        {**changed(CHAIN, *CONV, "strid", to=2), "classes": 0, "dataset": "minst"},
        [
            "$.classes: found 0; expected an integer ≥ 2",
            "$.dataset: found \"minst\"; expected a data set; did you mean 'mnist'?",
            "$.layers[0].strid: unknown option; did you mean 'stride'?",
        ],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_has_its_message(mistake):
    spec, expected = MISTAKES[mistake]
    assert messages(spec) == [f"s.json: {line}" for line in expected]


def test_deep_data_is_refused():
    deep = CHAIN
    for _ in range(100_000):
        deep = {"input": deep}
    assert messages(deep) == ["s.json: $.input.input.input: too deeply nested; expected at most 32 levels"]


def test_data_that_contains_itself_is_refused():
    loop = deepcopy(CHAIN)
    loop["layers"].append(loop)
    assert "too deeply nested" in messages(loop)[0]


# ── mistakes in a file ──────────────────────────────────────────────────────────────────────────────────────────
FILES = {
    "truncated": (
        b'{"ibpc": 1,\n "name"',
        "{path}, line 2, column 8: not JSON: Expecting ':' delimiter; expected valid JSON",
    ),
    "empty": (b"", "{path}, line 1, column 1: not JSON: Expecting value; expected valid JSON"),
    "trailing comma": (
        b'{"ibpc": 1,}',
        "{path}, line 1, column 12: not JSON: Illegal trailing comma before end of object; expected valid JSON",
    ),
    "two documents": (b"{} {}", "{path}, line 1, column 4: not JSON: Extra data; expected valid JSON"),
    "not UTF-8": (b'{"name": "\xff"}', "{path}: not UTF-8 at byte 10; expected JSON in UTF-8"),
    "not a number": (
        b'{"input": {"mean": NaN, "std": [-Infinity]}}',
        "{path}: $.input.mean: found nan; expected a finite number\n"
        "{path}: $.input.std[0]: found -inf; expected a finite number",
    ),
    "overflow": (b'{"classes": 1e999}', "{path}: $.classes: found inf; expected a finite number"),
    "repeated keys": (
        b'{"ibpc": 1, "ibpc": 1, "layers": [{"type": "ReLU", "type": "Add"}]}',
        '{path}: $: the key "ibpc" occurs more than once; expected unique keys\n'
        '{path}: $.layers[0]: the key "type" occurs more than once; expected unique keys',
    ),
    "long number": (
        b'{"classes": ' + b"9" * 5000 + b"}",
        f"{{path}}: a number of thousands of digits; expected integers below {2**31}",
    ),
    "deep": (b"[" * 200_000, "{path}: too deeply nested; expected at most 32 levels"),
    "deep and whole": (b"[" * 500 + b"]" * 500, "{path}: $[0][0][0]: too deeply nested; expected at most 32 levels"),
}


@pytest.mark.parametrize("mistake", FILES)
def test_every_bad_file_has_its_message(mistake, tmp_path):
    content, expected = FILES[mistake]
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    found = str(caught.value)
    if mistake == "trailing comma":  # Python words this differently from version to version
        assert re.match(re.escape(f"{path}, line 1, column 1") + r"\d: not JSON: .*; expected valid JSON", found)
    else:
        assert found == expected.format(path=path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"none\.json: no such file; expected a JSON file"):
        load_spec(tmp_path / "none.json")
    with pytest.raises(SpecError, match="not a file; expected a JSON file"):
        load_spec(tmp_path)
    with pytest.raises(SpecError, match="cannot be read: embedded null byte"):
        load_spec("a\0b.json")
    with pytest.raises(SpecError, match="not a file"):
        load_spec("/dev/zero")
    with pytest.raises(SpecError, match="cannot be read: File name too long"):
        load_spec("a" * 5000)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(SpecError, match=r"huge\.json: a file of 16777217 bytes; expected at most 16777216 bytes"):
        load_spec(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(CHAIN), encoding="utf-8-sig")
    assert load_spec(path).name == "small"


# ── the schema ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_schema_is_a_schema_and_accepts_specs():
    schema = spec_schema()
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)
    assert judge.is_valid(CHAIN)
    assert judge.is_valid(RESIDUAL)


def test_the_schema_knows_every_layer_of_every_operator():
    names = {layer.name for operator in operators().values() for layer in operator.layers}
    definitions = spec_schema()["$defs"]
    assert definitions.keys() == {"layer", *names}
    assert set(definitions["layer"]["properties"]["type"]["enum"]) == names


def test_every_option_says_what_it_is():
    for name, (_, layer) in layer_types().items():
        assert set(layer.required) <= layer.options.keys(), name
        for option, schema in layer.options.items():
            assert schema.get("description"), (name, option)
            assert option not in common_options(), (name, option)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_page_is_the_generated_one():
    command = "from ibpc.frontends.spec_page import write_spec_page; write_spec_page('docs/spec.md')"
    assert DOCS.read_text(encoding="utf-8") == spec_page(), f'run python -c "{command}"'


def test_the_examples_of_the_page_are_specs():
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", spec_page(), re.DOTALL)]
    assert [graph_from_spec(example, "page").name for example in examples] == ["my_first", "residual"]


def test_the_errors_on_the_page_are_real():
    example = json.loads(re.search(r"```json\n(.*?)```", spec_page(), re.DOTALL)[1])
    example["layers"][0]["strides"] = example["layers"][0].pop("stride")
    example["layers"][1]["type"] = "Relu"
    with pytest.raises(SpecError) as caught:
        graph_from_spec(example, "my_first.json")
    assert f"```\n{caught.value}\n```" in spec_page()


# ── whatever comes ──────────────────────────────────────────────────────────────────────────────────────────────
WORDS = st.sampled_from(
    ["input", "conv1", "sum", "conv", "same", "valid", "ibp", "nonnegative", "type", "inputs", "", "a b", "\ud800", "1"]
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, -1, 0.5, 1e-45, 1e300, 2**31 - 1, 2**31, 10**30, math.nan, math.inf])
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.sampled_from(sorted(layer_types())),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(WORDS, children, max_size=3),
    max_leaves=5,
)


def places(data, path=()):
    """Yield the path of every value in `data`."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw):
    """Draw a spec with a few values replaced, removed or doubled."""
    normalized = changed(CHAIN, "input", to={"shape": [2, 6, 6], "mean": [0.5, 0.5], "std": 0.5})
    spec = draw(st.sampled_from([CHAIN, RESIDUAL, normalized]))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(spec))[1:]))
        value = draw(JUNK)
        match draw(st.sampled_from(["replace", "remove", "insert"])):
            case "replace":
                spec = changed(spec, *path, to=value)
            case "remove":
                spec = without(spec, *path)
            case "insert" if isinstance(path[-1], str):
                spec = changed(spec, *path[:-1], draw(WORDS), to=value)
            case "insert":
                spec = changed(spec, *path, to={"type": draw(st.sampled_from(sorted(layer_types())))})
        if not isinstance(spec, dict) or len(list(places(spec))) < 2:
            break
    return spec


def compiles_or_refuses(spec):
    try:
        graph = graph_from_spec(spec, "s.json")
    except SpecError as error:
        assert all(problem.where.startswith("s.json: $") for problem in error.problems)
        str(error).encode()
        return None
    parameter_tree(graph)
    return graph


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_a_mutated_spec_is_a_spec_or_an_error(spec):
    compiles_or_refuses(spec)


def values_of(schema):
    """Return a strategy for values that a layer option's schema accepts, small ones."""
    if "anyOf" in schema:
        return st.one_of([values_of(choice) for choice in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if isinstance(schema.get("type"), list):
        return st.one_of([values_of({**schema, "type": kind}) for kind in schema["type"]])
    match schema.get("type"):
        case "integer":
            least = schema.get("minimum", schema.get("exclusiveMinimum", -4) + 1)
            return st.integers(least, max(least, min(5, schema.get("maximum", 5))))
        case "number":
            return st.floats(-2, 2, width=32, allow_subnormal=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(
                values_of(schema.get("items", {})), min_size=least, max_size=schema.get("maxItems", least + 3)
            )
        case _:
            return st.sampled_from([1, "x"])


@st.composite
def single_layers(draw, name):
    """Draw a graph of one layer of type `name` with options that its schema accepts, on inputs of any rank."""
    operator, layer = layer_types()[name]
    options = {
        key: draw(values_of(schema))
        for key, schema in layer.options.items()
        if key in layer.required or draw(st.booleans())
    }
    least, most = operator.operands
    count = draw(st.integers(least, least + 2 if most is None else most))
    node = {"type": name, "inputs": ["input"] * count, **options}
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    graph = {"nodes": {"one": node, "flat": {"type": "Flatten", "inputs": ["one"]}}, "output": "flat"}
    return {"ibpc": 1, "name": "one", "input": {"shape": shape}, "classes": 2, "graph": graph}


@pytest.mark.parametrize("name", sorted(layer_types()))
def test_a_layer_fits_its_input_or_says_why(name):
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(single_layers(name))
    def check(spec):
        compiles_or_refuses(spec)

    check()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, len(json.dumps(CHAIN)) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_a_spec_or_an_error(tmp_path, position, byte, cut):
    content = bytearray(json.dumps(CHAIN).encode())
    content[position] = byte
    path = tmp_path / "s.json"
    path.write_bytes(content[:position] if cut else content)
    try:
        load_spec(path)
    except SpecError as error:
        assert str(path) in str(error)
