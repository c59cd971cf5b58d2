"""Deciding one property: verdicts on networks whose answer is known, counterexamples, certificates."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import ibpc
from ibpc.errors import ArtifactError, IbpcError, PropertyError, UsageError
from ibpc.frontends.validate import REFERENCE
from ibpc.hints import NARROWED
from ibpc.verify import decide
from ibpc.verify import falsification as falsifying
from ibpc.verify.attack import Attack
from ibpc.verify.certificates.reading import property_of
from ibpc.verify.certificates.schema import read_certificate
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from ibpc.verify.replay import Replay
from ibpc.verify.rows import whole_scale
from ibpc.verify.subject import Subject
from tests.onnx_models import chain


def module_of(*layers: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(*layers).eval()


def linear(weight: list[list[float]], bias: list[float]) -> torch.nn.Linear:
    layer = torch.nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def network_of(*layers: torch.nn.Module, inputs: int = 2) -> ibpc.Network:
    return ibpc.compile(module_of(*layers), torch.zeros(1, inputs))


@pytest.fixture(scope="module")
def distance() -> ibpc.Network:
    """y = |x₀ − x₁| written with two Relus."""
    return network_of(linear([[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.0]), torch.nn.ReLU(), linear([[1.0, 1.0]], [0.0]))


def at_least(bound: str, low: str = "0", high: str = "1", strict: bool = False, inputs: int = 2) -> Property:
    """Unsafe: y₀ ≥ bound (or >) for x in [low, high]ⁿ."""
    row = Row(((0, Fraction(-1)),), (), -Fraction(bound), strict)
    box = Box((Fraction(low),) * inputs, (Fraction(high),) * inputs)
    return Property("p", (DeclaredTensor("X", (inputs,)),), (DeclaredTensor("Y", (1,)),), (Case(box, ((row,),)),))


def double_convolution() -> onnx.ModelProto:
    """y = x₀ + x₁ by a convolution in double precision, which ONNX Runtime lacks."""
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, ["N", 1, size])
        for name, size in (("X", 2), ("Y", 1))
    ]
    node = helper.make_node("Conv", ["X", "w"], ["Y"], "conv")
    weight = numpy_helper.from_array(np.ones((1, 1, 2)), "w")
    graph = helper.make_graph([node], "wide", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_onnx_runtime_does_not_run_is_replayed_in_the_reference_evaluator(tmp_path):
    onnx.save(double_convolution(), tmp_path / "wide.onnx")
    network = ibpc.compile(tmp_path / "wide.onnx")
    assert NARROWED in network.notes and any("ONNX Runtime cannot run the file" in note for note in network.notes)
    verified = ibpc.decide(network, at_least("2.01"), timeout=10)
    assert verified.verdict is ibpc.Verdict.VERIFIED
    decision = ibpc.decide(network, at_least("1.9"), timeout=10)
    assert decision.counterexample is not None and decision.counterexample.judge == REFERENCE
    for found, name in ((verified, "verified"), (decision, "falsified")):
        prop = at_least("2.01" if found is verified else "1.9")
        ibpc.write_certificate(tmp_path / f"{name}.json", tmp_path / "wide.onnx", network, prop, found)
        claims = ibpc.check(tmp_path / f"{name}.json")
        assert all(claim.holds for claim in claims)
    assert any(claim.name == f"{REFERENCE} computes unsafe outputs there" for claim in claims)


def test_what_nothing_runs_is_an_error():
    proto = double_convolution()
    proto.graph.node[0].op_type = "Convolve"
    with pytest.raises(IbpcError, match="ONNX Runtime refuses it"):
        Replay(proto)
    proto = double_convolution()
    replay = Replay(proto)
    with pytest.raises(IbpcError):
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((1, 3, 2)), "w"))
        Replay(proto)([torch.zeros(1, 2)])
    assert replay([torch.ones(1, 2)]).tolist() == [2.0]


def test_what_bounds_exclude_is_verified(distance):
    """Boxes bound |x₀ − x₁| by 2 over the unit square: each Relu by 1."""
    decision = ibpc.decide(distance, at_least("2.01"), timeout=10)
    assert decision.verdict is ibpc.Verdict.VERIFIED
    assert decision.margins[0][0] == pytest.approx(0.01, abs=1e-4)
    assert decision.counterexample is None


def test_what_an_attack_reaches_is_falsified(distance):
    decision = ibpc.decide(distance, at_least("0.999"), timeout=20)
    assert decision.verdict is ibpc.Verdict.FALSIFIED
    x, y = decision.counterexample.inputs, decision.counterexample.outputs
    assert all(0 <= value <= 1 for value in x)
    assert abs(np.float32(x[0]) - np.float32(x[1])) == y[0] >= 0.999


def test_what_neither_shows_is_unknown(distance):
    decision = ibpc.decide(distance, at_least("1.5"), timeout=0.5, method="ibp")
    assert decision.verdict is ibpc.Verdict.UNKNOWN
    assert decision.margins[0][0] == pytest.approx(-0.5, abs=1e-3)


@pytest.mark.parametrize(("plan", "least", "most"), [(("ibp",), 95, 100), (("ibp", "crown"), 25, 35)])
def test_the_last_method_has_all_the_time_and_others_a_third(distance, monkeypatch, plan, least, most):
    left = []

    def refuted(self, name, deadline):
        left.append(deadline - time.monotonic())

    monkeypatch.setattr(decide._Decider, "_bound_open_cases", refuted)
    decision = decide.DecisionOptions(plan, timeout=100).run(Subject(distance), at_least("3"))
    assert decision.verdict is ibpc.Verdict.VERIFIED
    assert least <= left[0] <= most


@pytest.mark.parametrize("method", ["ibp", "forward", "crown-ibp", "crown"])
def test_what_a_quick_plan_leaves_open_is_left_at_once(distance, method):
    """Five hours are there to attack in."""
    assert ibpc.decide(distance, at_least("1.0001"), method=method, timeout=18000).verdict in (
        ibpc.Verdict.UNKNOWN,
        ibpc.Verdict.VERIFIED,
    )


def test_weights_of_now_decide(tmp_path):
    """Nothing that one decision makes ready is there for the next, whose weights may be others."""
    network = ibpc.compile(torch.nn.Linear(1, 1).eval(), torch.zeros(1, 1))
    prop = Property.from_ball(torch.zeros(1), 0.1, 0, 1)
    box = ibpc.Interval.point(torch.ones(1, 1))
    seen = []
    for weight in (1.0, 2.0):
        with torch.no_grad():
            for parameter in network.parameters.parameters():
                parameter.fill_(weight)
        seen.append(ibpc.bound(network, box).lower.item())
        assert ibpc.decide(network, prop).verdict is ibpc.Verdict.VERIFIED
    assert seen == pytest.approx([2.0, 4.0], abs=1e-4)


@pytest.mark.parametrize("dropped", ["notes", "proofs"])
@pytest.mark.parametrize(("margin", "holds"), [(0.2, False), (np.nextafter(0.2, 0.0), True)])
def test_a_margin_is_compared_exactly(margin, holds, dropped, tmp_path):
    """The excess is 1/5; the number 0.2 of binary64 is above it, and a rounded comparison would let it pass."""
    onnx.save(chain(("Identity",), start=[1, 1], constants={}), tmp_path / "m.onnx")
    network = ibpc.compile(tmp_path / "m.onnx")
    row = Row(((0, Fraction(1)),), (), Fraction(4, 5))
    prop = Property(
        "p",
        (DeclaredTensor("x", (1,)),),
        (DeclaredTensor("y", (1,)),),
        (Case(Box((Fraction(1),), (Fraction(1),)), ((row,),)),),
    )
    decision = ibpc.decide(network, prop, method="ibp")
    ibpc.write_certificate(tmp_path / "c.json", tmp_path / "m.onnx", network, prop, decision)

    def change(data):
        data.update(margin_lower=[[float(margin)]])
        if dropped == "proofs":
            del data["proofs"]

    claims = tampered(tmp_path / "c.json", change)
    assert all(claim.holds for claim in claims) is holds


@pytest.mark.parametrize("number", ["1e400", "1e-300"])
def test_numbers_out_of_all_proportion_are_refused(distance, tmp_path, number):
    path = tmp_path / "p.vnnlib"
    declared = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
    box = "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in (0, 1))
    path.write_text(f"{declared}{box}(assert (<= Y_0 {number}))(assert (>= Y_0 0.999))")
    with pytest.raises(PropertyError, match="a coefficient or bound"):
        ibpc.decide(distance, path, timeout=5)


def test_no_time_is_a_timeout(distance):
    assert ibpc.decide(distance, at_least("1.5"), timeout=0.0).verdict is ibpc.Verdict.TIMEOUT


def test_a_property_without_cases_holds(distance):
    vacuous = Property("p", (DeclaredTensor("X", (2,)),), (DeclaredTensor("Y", (1,)),), ())
    assert ibpc.decide(distance, vacuous).verdict is ibpc.Verdict.VERIFIED


def test_a_bound_that_is_met_decides_only_where_the_row_is_strict():
    """y = x over [0, 1]: y > 1 cannot be, y ≥ 1 is met at 1. (One term: no rounding but that of the widening.)"""
    network = network_of(torch.nn.ReLU(), torch.nn.Identity(), inputs=1)
    strict = ibpc.decide(network, at_least("1", strict=True, inputs=1), timeout=2)
    assert strict.verdict is not ibpc.Verdict.FALSIFIED
    assert ibpc.decide(network, at_least("1", inputs=1), timeout=5).verdict is ibpc.Verdict.FALSIFIED


def test_a_box_of_one_point_ends_the_search(distance):
    """Nothing is left to attack, so the answer comes at once although there is a minute."""
    decision = ibpc.decide(distance, at_least("0.5", low="1", high="1"), timeout=60)
    assert decision.verdict is ibpc.Verdict.VERIFIED
    assert decision.seconds < 30


def test_every_case_and_disjunct_counts(distance):
    """Two boxes, the second one unsafe in its second disjunct only."""
    safe, unsafe = at_least("2.5").cases[0], at_least("0.9").cases[0]
    both = Case(unsafe.box, (*safe.disjuncts, *unsafe.disjuncts))
    prop = Property("p", (DeclaredTensor("X", (2,)),), (DeclaredTensor("Y", (1,)),), (safe, both))
    assert ibpc.decide(distance, prop, timeout=20).verdict is ibpc.Verdict.FALSIFIED
    again = Property("p", prop.inputs, prop.outputs, (safe, Case(safe.box, (*safe.disjuncts, *safe.disjuncts))))
    decision = ibpc.decide(distance, again, timeout=20)
    assert decision.verdict is ibpc.Verdict.VERIFIED
    assert [len(margins) for margins in decision.margins] == [1, 2]


def test_falsified_needs_onnx_runtime(distance, monkeypatch):
    monkeypatch.setattr(Replay, "__call__", lambda *_: torch.zeros(1, dtype=torch.float64))
    assert ibpc.decide(distance, at_least("0.5"), timeout=1).verdict in (ibpc.Verdict.UNKNOWN, ibpc.Verdict.TIMEOUT)


def test_names_that_a_property_gives_must_be_those_of_the_file(distance):
    """Otherwise a property that lists the inputs in another order would be decided for the wrong ones."""
    prop = at_least("0.5")
    for name, verdict in ((distance.graph.inputs[0], ibpc.Verdict.FALSIFIED), ("other", None)):
        named = replace(prop, inputs=(DeclaredTensor("X", (2,), name),))
        if verdict is not None:
            assert ibpc.decide(distance, named, timeout=5).verdict is verdict
            continue
        with pytest.raises(PropertyError, match="other"):
            ibpc.decide(distance, named, timeout=5)


def test_the_search_is_deterministic(distance):
    one, two = (ibpc.decide(distance, at_least("0.999"), timeout=20, seed=3) for _ in range(2))
    assert one.counterexample == two.counterexample


def test_a_property_that_does_not_fit_is_refused(distance):
    with pytest.raises(PropertyError, match="3 inputs; expected the network's 2"):
        ibpc.decide(distance, at_least("1", inputs=3))


# ── several inputs and outputs ──────────────────────────────────────────────────────────────────────────────────
def two_by_two() -> bytes:
    """An ONNX file with inputs a (1×2) and b (1×3), outputs p = a W (1×2) and q = relu(b) (1×3)."""
    weight = numpy_helper.from_array(np.array([[1.0, 2.0], [3.0, -1.0]], np.float32), "w")
    nodes = [helper.make_node("MatMul", ["a", "w"], ["p"]), helper.make_node("Relu", ["b"], ["q"])]
    a, b, p, q = (
        helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("a", 2), ("b", 3), ("p", 2), ("q", 3))
    )
    graph = helper.make_graph(nodes, "g", [a, b], [p, q], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_inputs_and_outputs_count_one_after_the_other(tmp_path):
    """p₁ + q₂ = 2 a₀ − a₁ + relu(b₂) is at most 3 over [0, 1]⁵."""
    path = tmp_path / "two.onnx"
    path.write_bytes(two_by_two())
    network = ibpc.compile(path)
    box = Box((Fraction(0),) * 5, (Fraction(1),) * 5)

    def asks(bound: str) -> Property:
        row = Row(((1, Fraction(-1)), (4, Fraction(-1))), (), -Fraction(bound))
        return Property("p", (DeclaredTensor("X", (5,)),), (DeclaredTensor("Y", (5,)),), (Case(box, ((row,),)),))

    assert ibpc.decide(network, asks("3.01"), timeout=10).verdict is ibpc.Verdict.VERIFIED
    found = ibpc.decide(network, asks("2.99"), timeout=20)
    assert found.verdict is ibpc.Verdict.FALSIFIED
    assert len(found.counterexample.inputs) == len(found.counterexample.outputs) == 5
    for name, decision in (("verified", ibpc.decide(network, asks("3.01"), method="ibp")), ("falsified", found)):
        prop = asks("3.01" if name == "verified" else "2.99")
        ibpc.write_certificate(tmp_path / name, path, network, prop, decision)
        assert all(claim.holds for claim in ibpc.check(tmp_path / name))


# ── balls ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_ball_around_an_input(tmp_path):
    """z₀ − z₁ = 2 x₀ − 2 x₁ is at least 2 (0.7 − ε) − 2 (0.3 + ε) = 0.8 − 4 ε."""
    network = network_of(linear([[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.0]))
    np.save(tmp_path / "x.npy", np.array([0.7, 0.3], np.float32))
    verdicts = {
        eps: ibpc.decide(network, ibpc.ball_property(network, tmp_path / "x.npy", eps, label), timeout=10).verdict
        for eps, label in ((0.19, 0), (0.21, 0), (0.1, None))
    }
    assert verdicts[0.19] is verdicts[0.1] is ibpc.Verdict.VERIFIED
    assert verdicts[0.21] is ibpc.Verdict.FALSIFIED


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "cannot be read"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", "cannot be read"),
        (np.array([1.0, np.nan]), "not all finite"),
        (np.array(["a"]), "real numbers"),
        (np.array([200, 3], np.uint8), "divided by 255"),
        (np.array([0.5, 1.05]), "values from 0.5 to 1.05"),
        (np.zeros(3), "one input of shape 2"),
        (
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000000,), }".ljust(118),
            "cannot be read: Unable to allocate",
        ),
    ],
)
def test_an_input_file_that_is_none_is_refused(tmp_path, distance, content, found):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(IbpcError, match=found):
        ibpc.ball_property(distance, path, 0.1, 0)


def test_a_certificate_of_a_missing_file_is_refused(distance, tmp_path):
    prop = at_least("2.01")
    decision = ibpc.decide(distance, prop, timeout=10)
    with pytest.raises(ArtifactError, match="it cannot be read"):
        ibpc.write_certificate(tmp_path / "c.json", tmp_path / "no.onnx", distance, prop, decision)
    assert not (tmp_path / "c.json").exists()


def test_data_that_are_no_data_set_are_refused(distance):
    with pytest.raises(UsageError, match=r"data: found tuple(.*)ibpc\.dataset"):
        ibpc.certify(distance, (np.zeros((2, 2)), np.zeros(2)), 0.1)


def test_an_input_in_another_order_is_refused(tmp_path):
    """An image that is channels last has as many numbers as one that is channels first."""
    network = ibpc.compile(module_of(torch.nn.Flatten(), torch.nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))
    for shape, fits in (((3, 2, 2), True), ((1, 3, 2, 2), True), ((12,), True), ((3, 4), True), ((2, 2, 3), False)):
        np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
        if fits:
            assert ibpc.ball(network, tmp_path / "x.npy").point.shape == (3, 2, 2)
        else:
            with pytest.raises(PropertyError, match="2×2×3; expected one input of shape 3×2×2"):
                ibpc.ball(network, tmp_path / "x.npy")


def test_a_property_over_tensors_in_another_order_is_refused():
    network = ibpc.compile(module_of(torch.nn.Flatten(), torch.nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))
    case = Case(Box((Fraction(0),) * 12, (Fraction(1),) * 12), ((Row(((0, Fraction(1)),), (), Fraction(9)),),))
    for shape, fits in (((1, 3, 2, 2), True), ((12,), True), ((2, 2, 3), False), ((2, 6), False)):
        prop = Property("p", (DeclaredTensor("X", shape),), (DeclaredTensor("Y", (1, 2)),), (case,))
        if fits:
            assert ibpc.decide(network, prop, timeout=5).verdict is ibpc.Verdict.FALSIFIED
        else:
            with pytest.raises(PropertyError, match="input X: the shape .*; expected 3×2×2"):
                ibpc.decide(network, prop, timeout=5)


def test_an_attack_goes_on_where_the_first_point_has_no_number(tmp_path):
    """y = log(x − 0.1): NaN at the center of [−1, 1] and below; above 0.1 + 1/e it is at least −1."""
    path = tmp_path / "m.onnx"
    path.write_bytes(
        chain(("Sub", "shift"), ("Log",), start=[1, 1], constants={"shift": np.float32(0.1)}).SerializeToString()
    )
    found = ibpc.decide(ibpc.compile(path), at_least("-1", "-1", inputs=1), timeout=10)
    assert found.verdict is ibpc.Verdict.FALSIFIED
    assert found.counterexample.inputs[0] > 0.1 + 1 / np.e - 1e-3


# ── certificates ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def certified(tmp_path, distance):
    """Certificates of a verified and a falsified property, beside the artifact they are about."""
    distance.save(tmp_path / "model")
    paths = {}
    for name, bound in (("verified", "2.01"), ("falsified", "0.9"), ("unknown", "1.5")):
        prop = at_least(bound)
        decision = ibpc.decide(distance, prop, timeout=1 if name == "unknown" else 20, method="ibp")
        assert decision.verdict.value == name
        paths[name] = tmp_path / f"{name}.json"
        ibpc.write_certificate(paths[name], tmp_path / "model", distance, prop, decision)
    return paths


@pytest.mark.parametrize("name", ["verified", "falsified", "unknown"])
def test_a_certificate_is_confirmed(certified, name):
    claims = ibpc.check(certified[name])
    assert len(claims) >= 2
    assert all(claim.holds for claim in claims), claims


def test_intervals_are_confirmed_without_a_proof(certified):
    claims = tampered(certified["verified"], lambda data: data.pop("proofs"))
    assert [claim.name for claim in claims if "margin" in claim.name]
    assert all(claim.holds for claim in claims), claims


def test_a_margin_that_an_open_search_raised_is_not_claimed(tmp_path, monkeypatch):
    """Its parts are still open, so there is no proof of it; that of a lower margin does not do."""
    for attack in ("round", "in_turn", "look"):
        monkeypatch.setattr(falsifying.Falsification, attack, lambda *_: None)
    torch.manual_seed(0)
    widths = ((2, 16), (16, 16), (16, 1))
    layers = [layer for pair in widths for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())]
    network = network_of(*layers[:-1])
    network.save(tmp_path / "model")
    prop = at_least("-1000")
    bounded = ibpc.decide(network, prop, timeout=20, method="crown-ibp").margins[0][0]
    tried = (ibpc.decide(network, prop, timeout=seconds, method="bab") for seconds in (3, 12, 48))
    decision = next(found for found in tried if found.verdict.value != "timeout")
    assert decision.verdict.value == "unknown"
    assert decision.margins[0][0] > bounded + 0.01
    path = tmp_path / "c.json"
    ibpc.write_certificate(path, tmp_path / "model", network, prop, decision)
    assert all(claim.holds for claim in ibpc.check(path)), ibpc.check(path)


def test_a_certificate_carries_its_property_exactly(certified):
    prop = property_of(read_certificate(certified["verified"]), "c")
    assert prop.cases[0].disjuncts[0][0] == at_least("2.01").cases[0].disjuncts[0][0]
    assert prop.cases[0].box.upper == (Fraction(1), Fraction(1))


def reachable(data):
    """Make the unsafe set one that the network reaches: |x₀ − x₁| ≥ 9/10."""
    data["region"]["cases"][0]["disjuncts"][0][0].update(bound="-9/10")


def tampered(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return ibpc.check(path)


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("verified", lambda data: data.update(model_sha256="0" * 64), "model"),
        ("verified", lambda data: data["margin_lower"][0].__setitem__(0, 1.02), "margin"),
        ("verified", lambda data: (data.pop("proofs"), data["margin_lower"][0].__setitem__(0, 1.02)), "margin"),
        ("verified", reachable, "cannot be met"),
        ("verified", lambda data: (data.pop("proofs"), reachable(data)), "cannot be met"),
        ("verified", lambda data: data["region"]["cases"][0]["upper"].__setitem__(0, "3"), "cannot be met"),
        ("verified", lambda data: data.update(margin_lower=[]), "bounds"),
        ("unknown", lambda data: (data.update(verdict="verified"), reachable(data)), "cannot be met"),
        ("falsified", lambda data: data["counterexample"]["inputs"].__setitem__(0, 1.5), "lies in the box"),
        ("falsified", lambda data: data["counterexample"].update(inputs=[0.5, 0.5]), "unsafe"),
        ("falsified", lambda data: data.update(counterexample=None), "counterexample"),
        ("falsified", lambda data: data["counterexample"].update(inputs=[0.1]), "counterexample"),
        ("falsified", lambda data: data["counterexample"]["inputs"].__setitem__(0, 1e300), "lies in the box"),
        ("falsified", lambda data: data["region"]["outputs"][0].update(shape=[9]), "outputs"),
        ("falsified", lambda data: data["counterexample"].update(outputs=[777.0]), "the outputs that are claimed"),
        ("falsified", lambda data: data["counterexample"].update(outputs=[]), "the outputs that are claimed"),
        ("falsified", lambda data: data.update(region={**data["region"], "cases": []}), "lies in the box"),
        ("verified", lambda data: data.update(model="/dev/zero"), "model"),
        ("verified", lambda data: data.update(model="."), "model"),
    ],
)
def test_a_claim_that_is_false_fails_by_name(certified, name, change, failing):
    failed = [claim for claim in tampered(certified[name], change) if not claim.holds]
    assert failed
    assert any(failing in claim.name for claim in failed)


def test_where_nothing_is_known_nothing_is_claimed(certified):
    """A counterexample found after bounding leaves margins of −∞ behind, and no proof of them."""
    claims = tampered(certified["falsified"], lambda data: data.update(margin_lower=[[None]], method="attack"))
    assert len(claims) == 4
    assert all(claim.holds for claim in claims)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("region"),
        lambda data: data.update(verdict="proved"),
        lambda data: data.update(certificate=4),
        lambda data: data["region"]["cases"][0].update(lower=["0"]),
        lambda data: data["region"]["cases"][0].update(lower=["1/0", "0"]),
        lambda data: data["region"]["cases"][0].update(lower=["9" * 5000, "0"]),
        lambda data: data["region"]["cases"][0]["disjuncts"][0][0].update(outputs=[[7, "1"]]),
        lambda data: data["region"]["cases"][0]["disjuncts"][0][0].update(outputs=[[0, "-1"], [0, "9"]]),
        lambda data: data["region"]["cases"][0]["disjuncts"][0][0].update(inputs=[[1, "1"], [0, "1"]]),
    ],
)
def test_a_file_that_is_no_certificate_is_refused(certified, change):
    with pytest.raises(IbpcError):
        tampered(certified["verified"], change)


def test_coefficients_that_binary64_rounds_are_checked_exactly(distance, tmp_path):
    """0.1 y ≥ 1/5 + 2⁻⁶⁰ cannot be met where y ≤ 2: the float64 number next to 0.1 would leave that open."""
    row = Row(((0, Fraction(-1, 10)),), (), -Fraction(1, 5) - Fraction(1, 2**10), False)
    box = Box((Fraction(0),) * 2, (Fraction(1),) * 2)
    prop = Property("p", (DeclaredTensor("X", (2,)),), (DeclaredTensor("Y", (1,)),), (Case(box, ((row,),)),))
    assert whole_scale(row) == 10
    assert whole_scale(Row(((0, Fraction(1, 10**30)), (1, Fraction(10**30))), (), Fraction())) == 0
    decision = ibpc.decide(distance, prop, timeout=5, method="ibp")
    assert decision.verdict is ibpc.Verdict.VERIFIED
    ibpc.export(distance, tmp_path / "m.onnx")
    network = ibpc.compile(tmp_path / "m.onnx")
    ibpc.write_certificate(
        tmp_path / "c.json", tmp_path / "m.onnx", network, prop, ibpc.decide(network, prop, timeout=5, method="ibp")
    )
    assert all(claim.holds for claim in ibpc.check(tmp_path / "c.json"))


def test_certificates_hold_outputs_of_any_size(distance, tmp_path):
    """A counterexample's output may be a denormal number."""
    tiny = ibpc.compile(module_of(linear([[1e-40, 0.0]], [0.0])), torch.zeros(1, 2))
    ibpc.export(tiny, tmp_path / "m.onnx")
    network = ibpc.compile(tmp_path / "m.onnx")
    prop = at_least("-1")
    decision = ibpc.decide(network, prop, timeout=5, method="ibp")
    assert decision.verdict is ibpc.Verdict.FALSIFIED
    ibpc.write_certificate(tmp_path / "c.json", tmp_path / "m.onnx", network, prop, decision)
    assert all(claim.holds for claim in ibpc.check(tmp_path / "c.json"))


def test_a_ball_needs_a_classifier(tmp_path):
    network = ibpc.compile(torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1)).eval(), torch.zeros(1, 1, 3))
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    with pytest.raises(IbpcError, match="logits"):
        ibpc.ball_property(network, tmp_path / "x.npy", 0.1)


def test_outputs_and_inputs_without_features_are_numbers(tmp_path):
    """A network may map N numbers to N numbers: one a sample, no axis beside the batch."""
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"])]
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "numbers", [declare("x", 1, ["N"])], [declare("y", 1, ["N"])])
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    network = ibpc.compile(path)
    for bound, method, verdict in (
        ("0.1", "ibp", "verified"),
        ("0.1", "bab", "verified"),
        ("-0.5", "auto", "falsified"),
    ):
        found = ibpc.decide(network, at_least(bound, inputs=1), timeout=10, method=method)
        assert found.verdict.value == verdict


def test_several_constraints_at_once_are_met(distance):
    """|y − 1/2| ≤ 10⁻³ and x₀ + x₁ ≥ 1.2 leave a sliver that steps of the whole width jump over."""
    rows = (
        Row(((0, Fraction(1)),), (), Fraction(501, 1000)),
        Row(((0, Fraction(-1)),), (), -Fraction(499, 1000)),
        Row((), ((0, Fraction(-1)), (1, Fraction(-1))), -Fraction(6, 5)),
    )
    box = Box((Fraction(0),) * 2, (Fraction(1),) * 2)
    prop = Property("p", (DeclaredTensor("X", (2,)),), (DeclaredTensor("Y", (1,)),), (Case(box, (rows,)),))
    assert ibpc.decide(distance, prop, timeout=20).verdict is ibpc.Verdict.FALSIFIED


def test_attacks_have_a_share_of_a_search_and_no_more(monkeypatch, distance):
    """Ten seconds a round, each as soon as those before are 15% of the time."""
    clock = [0.0]
    monkeypatch.setattr(falsifying.time, "monotonic", lambda: clock[0])
    prop = at_least("100")
    search = falsifying.Falsification(Attack(steps=1, restarts=1), Subject(distance), prop, [(2,)])
    begun = []

    def round_of_ten_seconds(self, deadline):
        begun.append(clock[0])
        clock[0] += 10.0

    monkeypatch.setattr(falsifying.Falsification, "round", round_of_ten_seconds)
    for _ in range(30):
        assert search.in_turn(1.0, 1e9) is None
        clock[0] += 10.0
    assert begun == [0.0, 70.0, 140.0, 200.0, 270.0, 340.0]
    clock[0] = 1e6
    assert search.in_turn(1.0, 1e6) is None and len(begun) == 6
    assert search.in_turn(1.0, 1e6 + 1) is None and len(begun) == 7
