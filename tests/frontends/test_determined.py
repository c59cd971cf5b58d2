"""Constants that a file computes: what every execution shares is a number, of all else nothing is proved."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ibpc
from ibpc.errors import ModelError
from ibpc.frontends import onnx_determined
from ibpc.frontends.onnx_fold import Tracer
from ibpc.hints import INEXACT
from ibpc.report.terminal import show_compiled
from ibpc.verify.checking import Checker, exact
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from ibpc.verify.replay import Replay
from tests.frontends.test_onnx_windows import written
from tests.onnx_models import model, normal, runtime

REAL, FLOAT32 = ibpc.Arithmetic.REAL, ibpc.Arithmetic.FLOAT32


def saved(proto: onnx.ModelProto, folder: Path) -> ibpc.Network:
    onnx.save(proto, folder / "m.onnx")
    return ibpc.compile(folder / "m.onnx")


def at_most(bound: float, inputs: int = 1) -> Property:
    """The unsafe outputs are those at most `bound`, over [0, 1/8]."""
    box = Box((Fraction(0),) * inputs, (Fraction(1, 8),) * inputs)
    row = Row(((0, Fraction(1)),), (), Fraction(bound), False)
    return Property("p", (DeclaredTensor("x", (inputs,)),), (DeclaredTensor("y", (1,)),), (Case(box, ((row,),)),))


A, B = normal(1, 300), normal(300, 1)
DIFFERENT = {
    "a curve": ([helper.make_node("Exp", ["k"], ["c"])], {"k": np.float32([[2.2408931]])}),
    "a sum": ([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": A, "b": B}),
    "a norm": ([helper.make_node("ReduceL2", ["a"], ["c"], axes=[1])], {"a": A}),
    "what such a constant goes into": (
        [helper.make_node("Exp", ["k"], ["e"]), helper.make_node("Neg", ["e"], ["c"])],
        {"k": np.float32([[2.2408931]])},
    ),
}
SHARED = {
    "a sum of two": ([helper.make_node("Add", ["k", "k"], ["c"])], {"k": np.float32([[0.1]])}),
    "a root": ([helper.make_node("Sqrt", ["k"], ["c"])], {"k": np.float32([[0.1]])}),
    "a move": ([helper.make_node("Transpose", ["k"], ["c"])], {"k": np.float32([[0.1]])}),
    "a quotient": ([helper.make_node("Div", ["k", "d"], ["c"])], {"k": np.float32([[1]]), "d": np.float32([[3]])}),
}


def evaluations(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> list[float]:
    """The constant c as several executions compute it: in double precision, and sums of binary32 in many orders."""
    found = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(300) if seed else np.arange(300)
        feed = {
            name: value[..., order] if name == "a" else value[order] if name == "b" else value
            for name, value in constants.items()
        }
        wide = {name: value.astype(np.float64) for name, value in feed.items()}
        for given in (feed, wide):
            kind = TensorProto.FLOAT if given is feed else TensorProto.DOUBLE
            inputs = [helper.make_tensor_value_info(name, kind, value.shape) for name, value in given.items()]
            outputs = [helper.make_tensor_value_info("c", kind, None)]
            graph = helper.make_graph(nodes, "g", inputs, outputs)
            proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            found += [float(each) for each in ReferenceEvaluator(proto).run(None, given)[0].flatten()]
        proto = model([*nodes, helper.make_node("Add", ["c", "x"], ["y"])], {"x": [1, 1]}, constants=feed)
        found.append(float(runtime(proto).run(None, {"x": np.zeros((1, 1), np.float32)})[0].item()))
    return found


@pytest.mark.parametrize("name", DIFFERENT)
def test_constants_that_executions_round_as_they_please_are_bounded(name, tmp_path):
    nodes, constants = DIFFERENT[name]
    network = saved(
        model([*nodes, helper.make_node("Add", ["c", "x"], ["y"])], {"x": [1, 1]}, constants=constants), tmp_path
    )
    assert INEXACT not in network.graph.hints
    assert not any("runtimes may round differently" in note for note in network.notes)
    found = evaluations(nodes, constants)
    bounds = ibpc.bound(network, ibpc.Interval.point(torch.zeros(1, 1)))
    lower, upper = bounds.lower.item(), bounds.upper.item()
    assert lower < min(found) <= max(found) < upper
    assert upper - lower <= 1e-3 * max(1.0, abs(max(found)))


@pytest.mark.parametrize("method", ["ibp", "crown", "crown-ibp", "forward", "alpha-crown", "bab", "mip"])
def test_nothing_is_proved_that_one_execution_may_miss(method, tmp_path):
    """The greatest number that some execution gives is no bound, one a little above what all may give is."""
    nodes, constants = DIFFERENT["a sum"]
    proto = model([*nodes, helper.make_node("Add", ["c", "x"], ["y"])], {"x": [1, 1]}, constants=constants)
    network = saved(proto, tmp_path)
    least, greatest = min(evaluations(nodes, constants)), max(evaluations(nodes, constants))
    width = 300 * 2.0**-21 * (np.abs(A) @ np.abs(B)).item()
    for bound, wanted in ((least, ibpc.Verdict.UNKNOWN), (least - width, ibpc.Verdict.VERIFIED)):
        decision = ibpc.decide(network, at_most(bound), method=method, arithmetic=FLOAT32, timeout=5.0)
        assert decision.verdict is wanted or (wanted is ibpc.Verdict.UNKNOWN and decision.counterexample is not None)
    assert greatest > least


def test_proofs_over_bounded_constants_are_confirmed(tmp_path):
    nodes, constants = DIFFERENT["what such a constant goes into"]
    tail = [
        helper.make_node("Mul", ["x", "c"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["y"]),
    ]
    network = saved(model([*nodes, *tail], {"x": [1, 1]}, constants=constants), tmp_path)
    prop = at_most(-9.41)
    decision = ibpc.decide(network, prop, method="bab")
    assert decision.verdict is ibpc.Verdict.VERIFIED
    ibpc.write_certificate(tmp_path / "c.json", tmp_path / "m.onnx", network, prop, decision)
    assert all(claim.holds for claim in ibpc.check(tmp_path / "c.json"))


NUMBERS = {
    "a kernel": (
        [helper.make_node("Tanh", ["k"], ["c"]), helper.make_node("Conv", ["x", "c"], ["y"])],
        {"k": normal(1, 1, 2, 2)},
    ),
    "scales": (
        [helper.make_node("Exp", ["k"], ["c"]), helper.make_node("Resize", ["x", "", "c"], ["y"])],
        {"k": np.float32([0.0, 0.0, 0.6931472, 0.6931472])},
    ),
    "a shape": (
        [
            helper.make_node("Exp", ["k"], ["e"]),
            helper.make_node("Round", ["e"], ["r"]),
            helper.make_node("Cast", ["r"], ["c"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["x", "c"], ["y"]),
        ],
        {"k": np.float32([0.0, 2.7725887])},
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_where_a_rule_needs_the_number_nothing_is_proved(name, tmp_path):
    nodes, constants = NUMBERS[name]
    network = saved(model(nodes, {"x": [1, 1, 4, 4]}, constants=constants), tmp_path)
    assert network.graph.hints[INEXACT] == "c"
    box = ibpc.Interval.point(torch.zeros(1, 1, 4, 4))
    assert bool(ibpc.bound(network, box).lower.isneginf().all())


THRESHOLD = np.float32([np.exp(np.float32(0.5))])
COUNTS = {
    "of those beyond a number": ("Compress", [helper.make_node("Compress", ["k", "beyond"], ["parts"], axis=0)]),
    "of places": ("NonZero", [helper.make_node("NonZero", ["beyond"], ["parts"])]),
    "of a range": ("Range", [helper.make_node("Range", ["zero", "total", "one"], ["parts"])]),
    "of a given size": ("ConstantOfShape", [helper.make_node("ConstantOfShape", ["size"], ["parts"])]),
    "of copies": ("Tile", [helper.make_node("Tile", ["one1", "size"], ["parts"])]),
    "of an expansion": ("Expand", [helper.make_node("Expand", ["one1", "size"], ["parts"])]),
    "of a slice": ("Slice", [helper.make_node("Slice", ["nine", "zero1", "size"], ["parts"])]),
    "of padding": ("Pad", [helper.make_node("Pad", ["one1", "sizes"], ["parts"])]),
    "of classes": ("OneHot", [helper.make_node("OneHot", ["zero1", "whole", "values"], ["parts"])]),
    "of different ones": ("Unique", [helper.make_node("Unique", ["beyond_or_not"], ["parts"])]),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("asking", ["Size", "Shape"])
def test_a_count_of_what_executions_may_round_differently_is_no_number(name, asking, tmp_path):
    """One more or less of the numbers may be there, so how many there are is not known."""
    _, parting = COUNTS[name]
    nodes = [
        helper.make_node("Exp", ["k"], ["e"]),
        helper.make_node("Greater", ["e", "t"], ["beyond"]),
        helper.make_node("ReduceSum", ["e"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["whole", "zero1"], ["size"]),
        helper.make_node("Concat", ["size", "size"], ["sizes"], axis=0),
        helper.make_node("Cast", ["beyond"], ["beyond_or_not"], to=TensorProto.FLOAT),
        *parting,
        helper.make_node("Identity", ["parts"], ["again"]),
        helper.make_node(asking, ["again"], ["count"]),
        helper.make_node("ReduceMax", ["count"], ["c"], keepdims=0),
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    constants = {"k": np.float32([0.1, 0.5, 1.0]), "t": THRESHOLD, "zero": np.float32(0), "one": np.float32(1)}
    constants |= {"zero1": np.int64([0]), "one1": np.float32([1]), "nine": normal(9), "values": np.float32([0, 1])}
    proto = model(nodes, {"x": [1, 1]}, constants=constants)
    assert saved(proto, tmp_path).graph.hints[INEXACT] == "f"


def test_the_end_of_a_window_that_executions_may_round_differently_is_no_number(tmp_path):
    """One row more or less may be written, although no node that is left reads the number."""
    proto = written(2, 3, "d", "v")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([0.6931472]), "k"))
    kept = [node for node in proto.graph.node if node.output[0] not in ("a_last", "a_end")]
    del proto.graph.node[:]
    end = helper.make_node("Cast", ["e"], ["a_end"], to=TensorProto.INT64)
    proto.graph.node.extend([helper.make_node("Exp", ["k"], ["e"]), end, *kept])
    assert saved(proto, tmp_path).graph.hints[INEXACT] == "a_end"


def test_a_shape_of_what_is_bounded_is_a_number(tmp_path):
    nodes = [
        helper.make_node("Exp", ["k"], ["e"]),
        helper.make_node("Shape", ["e"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    network = saved(model(nodes, {"x": [1, 4]}, constants={"k": normal(2, 2)}), tmp_path)
    assert INEXACT not in network.graph.hints


@pytest.mark.parametrize("shape", [(1, 2), (2,), (3, 1, 2)])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_output_may_be_a_constant_of_any_shape(shape, is_first, tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["k"], ["c"])]
    names, value = ["c", "y"] if is_first else ["y", "c"], normal(*shape)
    proto = model(nodes, {"x": [1, 2]}, outputs=names, constants={"k": value})
    results = saved(proto, tmp_path).nominal(torch.ones(3, 2))
    found = results[names.index("c")]
    assert np.array_equal(found.reshape(3, *value.shape).numpy(), np.stack([value] * 3))


def test_an_output_of_integers_that_float32_lacks_is_refused(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["k"], ["c"])]
    proto = model(nodes, {"x": [1, 2]}, outputs=["y", "c"], constants={"k": np.int64([2**24 + 1])})
    proto.graph.output[1].CopyFrom(helper.make_tensor_value_info("c", TensorProto.INT64, None))
    with pytest.raises(ModelError, match="float32"):
        saved(proto, tmp_path)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_reader_of_bounds_does_not_hide_one_that_needs_the_number(is_first, tmp_path):
    (curve, kernel), constants = NUMBERS["a kernel"]
    other, total = helper.make_node("ReduceSum", ["c"], ["s"], keepdims=0), helper.make_node("Add", ["y", "s"], ["z"])
    nodes = [curve, other, kernel, total] if is_first else [curve, kernel, other, total]
    proto = model(nodes, {"x": [1, 1, 4, 4]}, outputs=["z"], constants=constants)
    assert saved(proto, tmp_path).graph.hints[INEXACT] == "c"


def test_great_constants_are_not_bounded_one_by_one(tmp_path, monkeypatch):
    nodes, constants = DIFFERENT["a curve"]
    proto = model([*nodes, helper.make_node("Max", ["x", "c"], ["y"])], {"x": [1, 1]}, constants=constants)
    monkeypatch.setattr("ibpc.frontends.onnx._MOST_BOUNDED", 0)
    assert saved(proto, tmp_path).graph.hints[INEXACT] == "c"


def test_an_output_that_is_a_constant_has_bounds(tmp_path):
    nodes, constants = DIFFERENT["a curve"]
    proto = model(
        [*nodes, helper.make_node("Neg", ["x"], ["y"])], {"x": [1, 1]}, outputs=["y", "c"], constants=constants
    )
    bounds = ibpc.bound(saved(proto, tmp_path), ibpc.Interval.point(torch.ones(1, 1)))
    exact = float(np.exp(np.float64(constants["k"].item())))
    assert bounds.lower[0, 1] < exact < bounds.upper[0, 1]


def test_what_is_computed_from_a_weight_moves_with_it(tmp_path):
    constants = {"k": normal(1, 64), "w": normal(64, 10)}
    nodes = [
        helper.make_node("MatMul", ["k", "w"], ["c"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Sub", ["h", "c"], ["y"]),
    ]
    network = saved(model(nodes, {"x": ["N", 64]}, constants=constants), tmp_path)
    (weight,) = network.parameters.parameters()
    with torch.no_grad():
        weight.neg_().add_(1.0)
        found = network.nominal(torch.as_tensor(constants["k"]))
    assert torch.allclose(found, torch.zeros(1, 10), atol=1e-4)


@pytest.mark.parametrize("name", SHARED)
def test_constants_that_every_execution_shares_are_numbers(name, tmp_path):
    nodes, constants = SHARED[name]
    network = saved(
        model([*nodes, helper.make_node("Max", ["x", "c"], ["y"])], {"x": [1, 1]}, constants=constants), tmp_path
    )
    assert INEXACT not in network.graph.hints
    assert ibpc.decide(network, at_most(-1e3), method="crown").verdict is ibpc.Verdict.VERIFIED


def test_what_nothing_reads_does_no_harm(tmp_path):
    nodes = [helper.make_node("Exp", ["k"], ["c"]), helper.make_node("Relu", ["x"], ["y"])]
    network = saved(model(nodes, {"x": [1, 1]}, constants={"k": np.float32([[2.0]])}), tmp_path)
    assert INEXACT not in network.graph.hints


@pytest.mark.parametrize(("number", "is_held"), [(0.1, False), (0.5, True)])
def test_double_constants_count_if_float32_holds_them(number, is_held, tmp_path):
    """Compared in double precision, the float32 number next to 0.1 is greater than 0.1."""
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("LessOrEqual", ["d", "k"], ["less"]),
        helper.make_node("Cast", ["less"], ["y"], to=TensorProto.FLOAT),
    ]
    network = saved(model(nodes, {"x": [1, 1]}, constants={"k": np.float64([[number]])}), tmp_path)
    assert (INEXACT not in network.graph.hints) is is_held


def test_a_network_of_its_own_weights_has_numbers_for_constants(tmp_path):
    """What is claimed after training is claimed of the export, and so is what is claimed of a module."""
    nodes, constants = DIFFERENT["a sum"]
    network = saved(
        model([*nodes, helper.make_node("Mul", ["x", "c"], ["y"])], {"x": [1, 1]}, constants=constants), tmp_path
    )
    with torch.no_grad():
        next(value for value in network.parameters.buffers() if value.is_floating_point()).add_(1.0)
    network.save(tmp_path / "changed")
    assert INEXACT not in ibpc.load(tmp_path / "changed").graph.hints


# ── rules that looked away ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("x", "mean", "weight", "variance", "is_bounded"),
    [
        (2e38, -2e38, 1e-3, 1.0, False),
        (1e37, -3e38, 1e-3, 1.0, False),  # the mean alone is too far
        (2e38, 0.0, 1e-3, 1.0, False),  # x alone
        (1e34, 0.0, 1e-3, 1e-10, False),  # over the deviation, before the weight
        (1e36, 0.0, 1e3, 1e8, False),  # times the weight, before the deviation
        (1e37, -1e37, 1e-3, 1.0, True),
    ],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_difference_beyond_the_range_has_no_bounds(x, mean, weight, variance, is_bounded, sign, tmp_path):
    """x − mean of BatchNormalization, or it times a factor, overflows where the folded product does not."""
    statistics = {"s": weight, "b": 0.0, "mean": sign * mean, "var": variance}
    node = helper.make_node("BatchNormalization", ["x", *statistics], ["y"], epsilon=1e-12)
    constants = {name: np.float32([number]) for name, number in statistics.items()}
    network = saved(model([node], {"x": [1, 1, 1]}, constants=constants), tmp_path)
    found = ibpc.bound(network, ibpc.Interval.point(torch.full((1, 1, 1), sign * x)))
    assert bool(found.upper.isfinite().all()) is is_bounded


@pytest.mark.parametrize(("scale", "attributes"), [(np.float16(1), {}), (np.float32(1), {"precision": 10})])
def test_quotients_of_other_types_are_refused(scale, attributes, tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ]
    proto = model(nodes, {"x": [1, 2]}, constants={"s": scale, "z": np.uint16(0)}, opset=23)
    proto.ir_version = 10
    with pytest.raises(ModelError, match="of another type than FLOAT"):
        saved(proto, tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.INT64])
def test_points_that_would_be_rounded_are_not_replayed(kind):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "g",
        [helper.make_tensor_value_info("x", kind, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    )
    with pytest.raises(ModelError, match="FLOAT and DOUBLE"):
        Replay(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_initializers_of_half_precision_are_numbers(tmp_path):
    nodes = [helper.make_node("Cast", ["k"], ["c"], to=TensorProto.FLOAT), helper.make_node("Max", ["x", "c"], ["y"])]
    proto = model(nodes, {"x": [1, 1]}, constants={"k": np.float16([[0.1]])})
    assert numpy_helper.to_array(proto.graph.initializer[0]).dtype == np.float16
    assert INEXACT not in saved(proto, tmp_path).graph.hints


# ── what is determined ──────────────────────────────────────────────────────────────────────────────────────────
def test_compiler_and_checker_agree_on_what_is_determined():
    """Two lists by two hands: a type that only one of them has must be one of those that are named here."""
    compiler = onnx_determined._COPIES | onnx_determined._ROUNDED
    checker = exact._COPIES | exact._ROUNDED
    integers = {"And", "Or", "Xor", "Not"}
    assert checker - compiler <= integers | {"ReverseSequence"}
    assert compiler - checker <= {"ArgMax", "ArgMin", "IsInf", "IsNaN", "OneHot", "Dropout", "Identity"}


NARROW = {
    "flushed to zero": ([helper.make_node("Mul", ["k", "k"], ["c"])], {"k": np.float32([[1e-20]])}),
    "a difference of great integers": (
        [helper.make_node("DequantizeLinear", ["q", "s"], ["c"])],
        {"q": np.int32([[2**24 + 1]]), "s": np.float32(0.1)},
    ),
    "half precision": (
        [helper.make_node("Add", ["k", "k"], ["h"]), helper.make_node("Cast", ["h"], ["c"], to=TensorProto.FLOAT)],
        {"k": np.float16([[0.1]])},
    ),
    "a product with what is of half precision": (
        [
            helper.make_node("Add", ["k", "k"], ["h"]),
            helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["a", "w"], ["c"]),
        ],
        {"k": np.float16([[0.1], [0.3]]), "a": normal(1, 2)},
    ),
    "an integer beyond its type": (
        [
            helper.make_node("Cast", ["k"], ["i"], to=TensorProto.INT32),
            helper.make_node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
        ],
        {"k": np.float32([[3e9]])},
    ),
    "added while scattered": (
        [helper.make_node("ScatterND", ["k", "i", "u"], ["c"], reduction="add")],
        {"k": np.float32([[0.1]]), "i": np.int64([[0, 0], [0, 0]]), "u": np.float32([0.3, 0.7])},
    ),
}


@pytest.mark.parametrize("off", [1.0, 100.0])
def test_a_choice_among_floats_that_the_evaluator_computes_is_no_number(off, tmp_path):
    """The evaluator makes y · (on − off) + off of a OneHot, which is rounded; executions copy."""
    constants = {"i": np.int64([0]), "d": np.int64(1), "v": np.float32([off, 0.1])}
    nodes = [helper.make_node("OneHot", ["i", "d", "v"], ["c"], axis=-1), helper.make_node("Max", ["x", "c"], ["y"])]
    network = saved(model(nodes, {"x": [1, 1]}, constants=constants), tmp_path)
    assert network.graph.hints[INEXACT] == "c"


A_SQUARE, ITS_ROUNDING, SCALE = np.float32([[1 + 2**-12]]), np.float32([[1 + 2**-11]]), np.float32([[2**24]])
BETWEEN = {
    "nothing": [helper.make_node("Sub", ["p", "b"], ["q"])],
    "a move": [helper.make_node("Transpose", ["p"], ["t"]), helper.make_node("Sub", ["t", "b"], ["q"])],
    "a sign": [helper.make_node("Neg", ["p"], ["t"]), helper.make_node("Add", ["t", "b"], ["q"])],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_a_product_that_a_sum_reads_may_be_fused_with_it(name, tmp_path):
    """(1 + 2⁻¹²)² − (1 + 2⁻¹¹) is 0 where the square is rounded, and 2⁻²⁴ in a fused multiply-add."""
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["p"]),
        *BETWEEN[name],
        helper.make_node("Mul", ["q", "s"], ["k"]),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    proto = model(nodes, {"x": [1, 1]}, constants={"a": A_SQUARE, "b": ITS_ROUNDING, "s": SCALE})
    bounds = ibpc.bound(saved(proto, tmp_path), ibpc.Interval.point(torch.zeros(1, 1)))
    fused = -1 if name == "a sign" else 1
    assert bounds.lower.item() <= min(0, fused) <= max(0, fused) <= bounds.upper.item()
    lower, upper = Checker(proto).bound_rows([np.zeros(1)], [np.zeros(1)], np.eye(1), "float32")
    assert lower <= min(0, fused) <= max(0, fused) <= upper


def test_a_product_that_is_not_rounded_is_a_number(tmp_path):
    nodes = [helper.make_node("Mul", ["s", "s"], ["p"]), helper.make_node("Add", ["x", "p"], ["y"])]
    network = saved(model(nodes, {"x": [1, 1]}, constants={"s": SCALE}), tmp_path)
    bounds = ibpc.bound(network, ibpc.Interval.point(torch.zeros(1, 1)), method="crown", arithmetic="real")
    assert bounds.lower.item() == bounds.upper.item() == 2.0**48
    assert not {"Mul", "Spread"} & {node.operator for node in network.graph.order()}


def test_a_quotient_by_zero_has_no_sign():
    """Executions choose freely among 0 and −0, as Relu and Max do, and a quotient tells which they chose."""
    quotient = helper.make_node("Div", ["n", "z"], ["d"])
    operands = [np.float32([[-1]]), np.float32([[0]])]
    assert not onnx_determined.is_determined(quotient, operands, [np.float32([[-np.inf]])])
    assert not exact.is_exact("Div", operands, [np.float32([[-np.inf]])])


@pytest.mark.parametrize("kind", ["Div", "Mod"])
@pytest.mark.parametrize(("dividend", "divisor"), [(1, 0), (-(2**63), -1)])
def test_integers_without_a_quotient_are_refused(kind, dividend, divisor, tmp_path):
    """A machine traps there, and takes the process with it."""
    nodes = [
        helper.make_node(kind, ["a", "b"], ["q"]),
        helper.make_node("Cast", ["q"], ["k"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    operands = [np.int64([[dividend]]), np.int64([[divisor]])]
    proto = model(nodes, {"x": [1, 1]}, constants=dict(zip("ab", operands, strict=True)))
    with pytest.raises(ModelError, match="divides an integer by 0, or the least one by −1"):
        saved(proto, tmp_path)
    assert not exact.is_exact(kind, operands, [np.int64([[0]])])


def test_a_constant_that_onnx_runtime_rounds_otherwise_is_no_number(tmp_path, monkeypatch):
    """Whatever the rules say of a type: a last bit that differs shows that executions do."""
    nodes, constants = SHARED["a root"]
    witnessed = Tracer._witnessed

    def off(tracer: Tracer, node: onnx.NodeProto) -> list[np.ndarray]:
        return [np.nextafter(array, np.float32(np.inf)) for array in witnessed(tracer, node)]

    monkeypatch.setattr(Tracer, "_witnessed", off)
    proto = model([*nodes, helper.make_node("Add", ["c", "x"], ["y"])], {"x": [1, 1]}, constants=constants)
    network = saved(proto, tmp_path)
    bounds = ibpc.bound(network, ibpc.Interval.point(torch.zeros(1, 1)))
    assert {"Sqrt", "Spread"} <= {node.operator for node in network.graph.order()}
    assert bounds.lower.item() < float(np.sqrt(np.float32(0.1))) < bounds.upper.item()


def test_constants_that_onnx_runtime_shapes_otherwise_are_refused(tmp_path):
    """ONNX clamps a start before the first element to it; the evaluator slices as Python does and finds none."""
    window = {"b": np.int64([-8]), "e": np.int64([-9]), "a": np.int64([0]), "s": np.int64([-1])}
    nodes = [
        helper.make_node("Slice", ["k", "b", "e", "a", "s"], ["c"]),
        helper.make_node("ReduceSum", ["c", "a"], ["t"], keepdims=1),
        helper.make_node("Mul", ["x", "t"], ["y"]),
    ]
    with pytest.raises(ModelError, match="ONNX Runtime and the ONNX reference evaluator compute different constants"):
        saved(model(nodes, {"x": [1, 1]}, constants={"k": np.float32([0, 1, 2, 3, 4]), **window}), tmp_path)


# Those that rules bound, and what executions may compute.
BOUNDED = {"flushed to zero": (0.0, 1e-40), "added while scattered": (1.1, float(np.float32(1.1)))}


@pytest.mark.parametrize("name", NARROW)
def test_what_rounds_once_and_yet_differs_is_not_determined(name, tmp_path):
    nodes, constants = NARROW[name]
    network = saved(
        model([*nodes, helper.make_node("Max", ["x", "c"], ["y"])], {"x": [1, 1]}, constants=constants), tmp_path
    )
    if name in BOUNDED:
        low, high = BOUNDED[name]
        bounds = ibpc.bound(network, ibpc.Interval.point(torch.full((1, 1), -1.0)))
        assert INEXACT not in network.graph.hints
        assert bounds.lower.item() <= low < high <= bounds.upper.item()
    else:
        assert network.graph.hints[INEXACT] == "c"


def test_quantized_weights_of_eight_bits_are_determined(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["c"]), helper.make_node("Max", ["x", "c"], ["y"])]
    constants = {"q": np.int8([[-128]]), "s": np.float32(0.1), "z": np.int8(127)}
    assert INEXACT not in saved(model(nodes, {"x": [1, 1]}, constants=constants), tmp_path).graph.hints


# ── the hint goes wherever the network goes ─────────────────────────────────────────────────────────────────────
@pytest.fixture
def doubtful(tmp_path) -> ibpc.Network:
    nodes, constants = NARROW["half precision"]
    nodes = [*nodes, helper.make_node("Mul", ["x", "c"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    weight = normal(64, 10)
    return saved(model(nodes, {"x": ["N", 64]}, constants={**constants, "w": weight}), tmp_path)


def moved(network: ibpc.Network, how: str, folder: Path) -> ibpc.Network:
    if how == "normalized":
        return ibpc.normalized(network, [0.5], [0.5])
    if how == "copied":
        return copy.deepcopy(network)
    network.save(folder / "kept")
    return ibpc.load(folder / "kept")


@pytest.mark.parametrize("how", ["an artifact", "normalized", "copied"])
def test_a_doubtful_network_stays_one(doubtful, how, tmp_path):
    box = ibpc.Interval.point(torch.zeros(1, 64))
    assert bool(ibpc.bound(moved(doubtful, how, tmp_path), box).lower.isneginf().all())


def test_whoever_compiles_it_is_told(doubtful, capsys):
    show_compiled(doubtful, Path("out"))
    assert "c is a constant that runtimes may round differently" in " ".join(capsys.readouterr().out.split())


def test_no_image_is_certified_by_a_doubtful_network(doubtful):
    data = ibpc.load_dataset("digits")
    for arithmetic, wanted in ((FLOAT32, 0), (REAL, 1)):
        result = ibpc.certify(doubtful, data, 1e-6, limit=20, arithmetic=arithmetic)
        verified = sum(example.verdict is ibpc.Verdict.VERIFIED for example in result.examples)
        assert verified >= wanted and (wanted or not verified)
        assert wanted or all(np.isnan(example.margin_lower).all() for example in result.examples)


def test_bounds_of_a_doubtful_network_are_not_exported_for_binary32(doubtful, tmp_path):
    with pytest.raises(ModelError, match="real"):
        ibpc.export(doubtful, tmp_path / "m.onnx", "margins", FLOAT32)
    ibpc.export(doubtful, tmp_path / "m.onnx", "margins", REAL)
