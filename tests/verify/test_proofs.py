"""Proofs: what each method proved is replayed by the checker, and what was tampered with is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

import ibpc
from ibpc.bounds import METHODS, ascent
from ibpc.bounds.refinement import interval_values
from ibpc.bounds.values import walk_of
from ibpc.errors import PropertyError
from ibpc.exports import nominal_model
from ibpc.interval import Interval
from ibpc.ops import operators
from ibpc.rounding import Arithmetic
from ibpc.verify.checking import backward
from ibpc.verify.checking.backward import Picked, linear_bounds, tightened
from ibpc.verify.checking.checker import Checker, lower_sum
from ibpc.verify.checking.planes import PLANES
from ibpc.verify.checking.proofs import LEVELS, Memory, encoded, leaves
from ibpc.verify.checking.regions import Region
from ibpc.verify.checking.rules import RULES
from ibpc.verify.checking.values import Box
from ibpc.verify.properties import Box as InputBox
from ibpc.verify.properties import Case, DeclaredTensor, Property, Row
from ibpc.verify.proving import bound_proofs
from ibpc.verify.proving.evidence import Half, multipliers_of
from ibpc.verify.search import branching, value_parts
from tests.frontends.test_conformance import free_inputs, official_cases, with_constants
from tests.onnx_models import chain, model, runtime
from tests.verify.checking.test_checking import EXCLUDED


def network(seed: int, layers: Callable[[], list[torch.nn.Module]], shape: tuple[int, ...]) -> ibpc.Network:
    torch.manual_seed(seed)
    return ibpc.compile(torch.nn.Sequential(*layers()).eval(), torch.zeros(1, *shape))


def dense() -> list[torch.nn.Module]:
    nn = torch.nn
    return [nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2)]


def mixed() -> list[torch.nn.Module]:
    nn = torch.nn
    first = [nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.LeakyReLU(0.2), nn.MaxPool2d(2), nn.Flatten()]
    return [*first, nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)]


def curved() -> list[torch.nn.Module]:
    nn = torch.nn
    first = [nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 8), nn.Mish(), nn.Linear(8, 8), nn.CELU(0.5)]
    return [*first, nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 8), nn.Hardsigmoid(), nn.Linear(8, 2)]


FAMILIES = {"dense": (dense, (4,)), "mixed": (mixed, (1, 5, 5))}


def below(net: ibpc.Network, size: int, gap: float) -> Property:
    """Unsafe: y₀ − y₁ is above what samples of [0, 1]ⁿ reach by `gap`."""
    points = torch.rand(4000, *net.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = net.nominal(points)
    most = float((outputs[:, 0] - outputs[:, 1]).max()) + gap
    row = Row(((0, Fraction(-1)), (1, Fraction(1))), (), -Fraction(most))
    other = Row(((0, Fraction(-1)),), ((0, Fraction(-1)),), Fraction(10**6))
    case = Case(InputBox((Fraction(0),) * size, (Fraction(1),) * size), ((row, other),))
    return Property("p", (DeclaredTensor("X", (size,)),), (DeclaredTensor("Y", (2,)),), (case,))


def gap_of(net: ibpc.Network, size: int, method: str, arithmetic: Arithmetic) -> float:
    """Return a gap that a bounding method just proves."""
    bound = METHODS[method].bounder(walk_of(net.snapshot()), torch.tensor([[-1.0, 1.0]]), arithmetic)
    box = Interval.bounds(torch.zeros(1, *net.input_shape), torch.ones(1, *net.input_shape))
    reached = -below(net, size, 0.0).cases[0].disjuncts[0][0].bound
    return 1e-3 - float(bound(box).lower) - float(reached)


def proved(net: ibpc.Network, prop: Property, folder: Path, **options: Any) -> Path:
    net.save(folder / "model")
    decision = ibpc.decide(net, prop, timeout=600, **options)
    assert decision.verdict is ibpc.Verdict.VERIFIED
    ibpc.write_certificate(folder / "c.json", folder / "model", net, prop, decision)
    return folder / "c.json"


def failing(path: Path) -> list[str]:
    return [f"{claim.name}: {claim.detail}" for claim in ibpc.check(path) if not claim.holds]


# ── what was proved is confirmed ────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_what_bounds_just_prove_is_confirmed(method, family, seed, tmp_path):
    layers, shape = FAMILIES[family]
    net, size, arithmetic = network(seed, layers, shape), int(np.prod(shape)), tuple(Arithmetic)[seed]
    prop = below(net, size, gap_of(net, size, method, arithmetic))
    assert failing(proved(net, prop, tmp_path, method=method, arithmetic=arithmetic)) == []


class Gate(torch.nn.Module):
    """What one half lets through of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.one(x)) * torch.sigmoid(self.two(x))


class Product(Gate):
    """A product whose second factor nothing else reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.one(x)) * self.two(x)


def gated(gate: type[torch.nn.Module]) -> list[torch.nn.Module]:
    return [torch.nn.Linear(4, 6), torch.nn.ReLU(), gate(), torch.nn.Linear(6, 2)]


CURVED = {"curved": curved, "gate": lambda: gated(Gate), "product": lambda: gated(Product)}


@pytest.mark.parametrize("method", ["crown", "alpha-crown"])
@pytest.mark.parametrize("family", CURVED)
def test_what_planes_of_curves_and_products_prove_is_confirmed(family, method, tmp_path):
    net = network(0, CURVED[family], (4,))
    prop = below(net, 4, gap_of(net, 4, method, Arithmetic.FLOAT32))
    assert failing(proved(net, prop, tmp_path, method=method)) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("cut", ["inputs", "signs"])
def test_what_a_search_proved_is_confirmed(cut, seed, tmp_path, monkeypatch):
    if cut == "signs":
        monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    net = network(seed, dense, (4,))
    crown = gap_of(net, 4, "alpha-crown", Arithmetic.FLOAT32)
    path = proved(net, below(net, 4, 0.6 * crown), tmp_path, method="bab")
    kinds = {step[0] for step in json.loads(path.read_text())["proofs"][0][0]}
    assert kinds == {"tighten", "leaf", "input" if cut == "inputs" else "sign"}
    assert failing(path) == []


def flat_curves() -> list[torch.nn.Module]:
    nn = torch.nn
    return [nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Hardtanh(-0.5, 0.5), nn.Linear(6, 2), nn.Tanh()]


@pytest.fixture(scope="module")
def cut_at_numbers(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branching, "MOST_INPUTS", 0)
        net = network(3, flat_curves, (4,))
        gap = 0.7 * gap_of(net, 4, "alpha-crown", Arithmetic.FLOAT32)
        return proved(net, below(net, 4, gap), tmp_path_factory.mktemp("cut"), method="bab")


def test_what_a_search_proved_by_cuts_at_any_number_is_confirmed(cut_at_numbers):
    steps = json.loads(cut_at_numbers.read_text())["proofs"][0][0]
    assert any(step[0] == "value" for step in steps)
    assert any(any(step[3]) for step in steps if step[0] == "leaf"), "no multiplier was of use"
    assert failing(cut_at_numbers) == []


def sharpened(layers: Callable[[], list[torch.nn.Module]], shape: tuple[int, ...], seed: int, folder: Path) -> Path:
    """Return the certificate of a search that sharpens its boxes at once, of what needs that they are sharp."""
    size = int(np.prod(shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branching, "MOST_INPUTS", 0)
        patch.setattr(value_parts, "_PATIENCE", 1)
        patch.setattr(value_parts, "_PATIENCE_WITH_CURVES", 1)
        net = network(seed, layers, shape)
        gap = gap_of(net, size, "alpha-crown", Arithmetic.FLOAT32)
        return proved(net, below(net, size, gap), folder, method="bab")


def deep_curves() -> list[torch.nn.Module]:
    nn = torch.nn
    hidden = [layer for _ in range(2) for layer in (nn.Linear(8, 8), nn.Tanh())]
    return [nn.Linear(4, 8), nn.Sigmoid(), *hidden, nn.Linear(8, 2)]


SHARPENED = {
    "dense": (dense, (4,), 2),
    "mixed": (mixed, (1, 5, 5), 4),
    "curves": (flat_curves, (4,), 0),
    "deep curves": (deep_curves, (4,), 0),
}


@pytest.mark.parametrize("family", SHARPENED)
def test_what_sharpened_boxes_proved_is_confirmed(family, tmp_path):
    path = sharpened(*SHARPENED[family], tmp_path)
    data = json.loads(path.read_text())
    assert {"tighten", "sharpen"} <= {step[0] for step in data["proofs"][0][0]}
    assert failing(path) == []


@pytest.mark.parametrize("family", ["dense", "mixed"])
def test_proofs_by_sharpened_boxes_fall_without_them(family, tmp_path):
    path = sharpened(*SHARPENED[family], tmp_path)
    data = json.loads(path.read_text())
    data["proofs"][0][0] = [step for step in data["proofs"][0][0] if step[0] != "sharpen"]
    (tmp_path / "other.json").write_text(json.dumps(data))
    assert any("are open" in text for text in failing(tmp_path / "other.json"))


@pytest.mark.parametrize("cut", ["inputs", "signs"])
def test_what_exact_bounds_proved_is_confirmed_by_a_search_for_it(cut, tmp_path, monkeypatch):
    pytest.importorskip("highspy")
    if cut == "signs":
        monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    net = network(0, dense, (4,))
    crown = gap_of(net, 4, "alpha-crown", Arithmetic.FLOAT32)
    path = proved(net, below(net, 4, 0.6 * crown), tmp_path, method="mip")
    data = json.loads(path.read_text())
    assert data["method"] == "mip"
    assert data["margin_lower"] == [[None]]
    assert {step[0] for step in data["proofs"][0][0]} == {"tighten", "leaf", "input" if cut == "inputs" else "sign"}
    assert failing(path) == []


@pytest.mark.parametrize("method", ["crown", "bab"])
def test_what_the_checker_would_not_replay_is_not_written(method, tmp_path, monkeypatch):
    """In larger networks it tightens the widest elements alone: no proof then, rather than one that fails."""
    monkeypatch.setattr(branching, "MOST_INPUTS", 0)
    net = network(0, dense, (4,))
    prop = below(net, 4, gap_of(net, 4, "crown", Arithmetic.FLOAT32) * (1.0 if method == "crown" else 0.8))
    path = proved(net, prop, tmp_path, method=method)
    assert json.loads(path.read_text())["proofs"][0][0] is not None
    monkeypatch.setattr(backward, "_MOST_WORK", 200)
    path = proved(net, prop, tmp_path, method=method)
    assert json.loads(path.read_text())["proofs"][0][0] is None
    assert [claim for claim in failing(path) if "no proof" in claim] == failing(path)


PLANED = {
    "ReduceMax": (("ReduceMax", "axes", {"keepdims": 1}), True),
    "ReduceMin": (("ReduceMin", "axes", {"keepdims": 1}), True),
    "Relu": (("Relu",), True),
    "Softmax": (("Softmax",), False),
    "LogSoftmax": (("LogSoftmax",), False),
}


@pytest.mark.parametrize("method", ["crown-ibp", "crown", "bab"])
@pytest.mark.parametrize("kind", PLANED)
def test_only_bounds_whose_planes_the_checker_has_are_written(kind, method, tmp_path):
    """A margin that rests on planes of Softmax would not be confirmed: it is left out, and what is claimed holds."""
    step, has_planes = PLANED[kind]
    rng = np.random.default_rng(0)
    constants = {"v": rng.normal(size=(4, 4)).astype("f"), "axes": np.array([1])}
    constants["w"] = rng.normal(size=(1 if kind.startswith("Reduce") else 4, 2)).astype("f")
    file, path = tmp_path / "m.onnx", tmp_path / "c.json"
    onnx.save(chain(("MatMul", "v"), step, ("MatMul", "w"), start=[1, 4], constants=constants, opset=18), file)
    net = ibpc.compile(file)
    prop = below(net, 4, 0.3)
    decision = ibpc.decide(net, prop, method=method, timeout=5)
    ibpc.write_certificate(path, file, net, prop, decision)
    assert decision.margins[0][0] > -np.inf
    assert (json.loads(path.read_text())["proofs"][0][0] is not None) == has_planes
    assert [claim for claim in failing(path) if "no proof" not in claim] == []


def test_exact_bounds_without_a_proof_are_not_confirmed(tmp_path, monkeypatch):
    pytest.importorskip("highspy")
    monkeypatch.setattr(bound_proofs, "_LONGEST", 0.0)
    net = network(0, dense, (4,))
    crown = gap_of(net, 4, "alpha-crown", Arithmetic.FLOAT32)
    path = proved(net, below(net, 4, 0.6 * crown), tmp_path, method="mip")
    assert failing(path) != []


def test_a_search_on_acas_xu_is_confirmed(shared, tmp_path):
    folder = shared / "nets" / "vnncomp2021" / "acasxu"
    path = folder / "ACASXU_run2a_1_1_batch_2000.onnx"
    net, prop = ibpc.compile(path), ibpc.load_vnnlib(folder / "prop_1.vnnlib")
    decision = ibpc.decide(net, prop, timeout=120)
    assert decision.verdict is ibpc.Verdict.VERIFIED and decision.method == "bab"
    ibpc.write_certificate(tmp_path / "c.json", path, net, prop, decision)
    assert failing(tmp_path / "c.json") == []


# ── what was tampered with is refused ───────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branching, "MOST_INPUTS", 0)
        net = network(0, dense, (4,))
        gap = 0.6 * gap_of(net, 4, "alpha-crown", Arithmetic.FLOAT32)
        return proved(net, below(net, 4, gap), folder, method="bab")


def steps_of(data: dict[str, Any], kind: str) -> list[Any]:
    return [step for step in data["proofs"][0][0] if step[0] == kind]


def without(data: dict[str, Any], kind: str) -> None:
    data["proofs"][0][0].remove(steps_of(data, kind)[-1])


def flipped(data: dict[str, Any]) -> None:
    """Swap the two sides of a cut: each leaf then stands for the other side."""
    leaves = [number for number, step in enumerate(data["proofs"][0][0]) if step[0] == "leaf"]
    steps = data["proofs"][0][0]
    for one, two in zip(leaves[::2], leaves[1::2], strict=False):
        steps[one], steps[two] = steps[two], steps[one]


TAMPERING: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a leaf is dropped": (lambda data: without(data, "leaf"), "without a leaf"),
    "a cut is dropped": (lambda data: without(data, "sign"), "proof, step"),
    "a leaf too many": (lambda data: data["proofs"][0][0].append(["leaf", [1, 0], {}, []]), "after the last leaf"),
    "all is claimed by one leaf": (
        lambda data: data["proofs"][0].__setitem__(0, [["leaf", [1, 0], {}, []]]),
        "are open",
    ),
    "no proof": (lambda data: data["proofs"][0].__setitem__(0, None), "there is no proof"),
    "no proofs": (lambda data: data.pop("proofs"), "there is no proof"),
    "a negative multiplier": (lambda data: steps_of(data, "leaf")[0][3].__setitem__(0, -0.5), "multipliers"),
    "an infinite multiplier": (lambda data: steps_of(data, "leaf")[0][3].__setitem__(0, 1e300), "multipliers"),
    "a multiplier too many": (lambda data: steps_of(data, "leaf")[0][3].append(0.5), "multipliers"),
    "a negative weight": (lambda data: steps_of(data, "leaf")[0][1].__setitem__(0, -1), "weights"),
    "no weight": (lambda data: steps_of(data, "leaf")[0].__setitem__(1, [0, 0]), "weights"),
    "the row that says nothing": (lambda data: steps_of(data, "leaf")[0].__setitem__(1, [0, 1]), "are open"),
    "choices of another size": (
        lambda data: steps_of(data, "leaf")[0].__setitem__(2, dict.fromkeys(("nothing",), encoded(np.ones(3)))),
        "do not fit",
    ),
    "choices that are no text": (lambda data: steps_of(data, "tighten")[0][1].update(relu_1="?"), "choices"),
    "a value that is not there": (
        lambda data: steps_of(data, "sign")[0].__setitem__(1, "nothing"),
        "an unknown or malformed step",
    ),
    "an element that is not there": (lambda data: steps_of(data, "sign")[0].__setitem__(2, 10**6), "element"),
    "another element": (lambda data: steps_of(data, "sign")[0].__setitem__(2, 9), "are open"),
    "sides that changed": (flipped, "proof, step"),
    "a wider box": (lambda data: data["region"]["cases"][0].update(upper=["3"] * 4), "are open"),
    "a lower threshold": (
        lambda data: data["region"]["cases"][0]["disjuncts"][0][0].update(bound="100"),
        "are open",
    ),
    "a greater margin": (lambda data: data["margin_lower"][0].__setitem__(0, 5.0), "margin"),
    **{
        f"a {step[0]} cut by a truth: {step}": (
            lambda data, step=step: data["proofs"][0][0].insert(0, step),
            "an unknown or malformed step",
        )
        for step in (["input", True, 0.5], ["input", 1, True], ["sign", "relu_1", True], ["value", "relu_1", 0, False])
    },
    "an unknown step": (lambda data: data["proofs"][0][0].insert(0, ["trust me"]), "an unknown or malformed step"),
}


def expect_refusal(path: Path, alter: Callable[[dict[str, Any]], object], wanted: str, folder: Path) -> None:
    """Check a certificate that was altered."""
    data = json.loads(path.read_text())
    alter(data)
    (folder / "c.json").write_text(json.dumps(data))
    found = failing(folder / "c.json")
    assert any(wanted in text for text in found), found


@pytest.mark.parametrize("change", TAMPERING)
def test_what_was_tampered_with_is_refused(searched, change, tmp_path):
    expect_refusal(searched, *TAMPERING[change], tmp_path)


@pytest.fixture(scope="module")
def with_sharp_boxes(tmp_path_factory) -> Path:
    return sharpened(*SHARPENED["dense"], tmp_path_factory.mktemp("sharp"))


def first_part(data: dict[str, Any]) -> list[Any]:
    return next(part for part in steps_of(data, "sharpen")[0][1] if len(part[1]) > 1)


SHARP_TAMPERING: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no list": (lambda data: steps_of(data, "sharpen")[0].__setitem__(1, {}), "an unknown or malformed step"),
    "a part that is none": (lambda data: steps_of(data, "sharpen")[0][1].append(["x"]), "its ends"),
    "a value twice": (lambda data: steps_of(data, "sharpen")[0][1].append(first_part(data)), "its ends"),
    "an element that is not there": (lambda data: first_part(data)[1].__setitem__(0, 10**6), "element 1000000"),
    "an element below the first": (lambda data: first_part(data)[1].__setitem__(0, -1), "ends of"),
    "a far element": (lambda data: first_part(data)[1].__setitem__(0, 2**30), "element 1073741824"),
    "an element that is a truth": (lambda data: first_part(data)[1].__setitem__(0, True), "ends of"),
    "no sign": (lambda data: first_part(data)[2].__setitem__(0, 0), "ends of"),
    "a sign of another size": (lambda data: first_part(data)[2].__setitem__(0, 2), "ends of"),
    "a sign that is no integer": (lambda data: first_part(data)[2].__setitem__(0, 1.0), "ends of"),
    "a sign too few": (lambda data: first_part(data)[2].pop(), "ends of"),
    "ends without choices": (lambda data: [part.pop() for part in (first_part(data)[1:3])], "do not fit"),
    "choices that are no text": (lambda data: first_part(data)[3].update(nothing=3), "choices"),
    "choices of nothing": (lambda data: first_part(data)[3].update(nothing=encoded(np.ones(3))), "do not fit"),
    "an end twice": (
        lambda data: [part.extend([part[0]] * 2) for part in first_part(data)[1:3]],
        "each of them once",
    ),
    "a value that is not there": (lambda data: first_part(data).__setitem__(0, "nothing"), "its ends"),
    "other ends": (lambda data: [part.reverse() for part in first_part(data)[1:3]], "are open"),
    "other signs": (lambda data: first_part(data).__setitem__(2, [-sign for sign in first_part(data)[2]]), "are open"),
}


@pytest.mark.parametrize("change", SHARP_TAMPERING)
def test_ends_that_were_tampered_with_are_refused(with_sharp_boxes, change, tmp_path):
    expect_refusal(with_sharp_boxes, *SHARP_TAMPERING[change], tmp_path)


def test_little_that_unpacks_to_much_is_refused():
    checker = Checker(chain(("Relu",), ("Relu",), start=[1, 1], constants={}))
    much = dict.fromkeys(map(str, range(9)), encoded(np.zeros(2**22)))
    parts = [[value, [], [], {"y": encoded(np.zeros(2**24 - 1))}] for value in ("x", "h0", "y")]
    for step in (["tighten", much], ["sharpen", parts], ["leaf", [1], much, []]):
        with pytest.raises(PropertyError, match="choices of 67108864 bytes or more"):
            list(leaves([step], checker, np.zeros(1), np.ones(1), "real", Memory()))


@pytest.mark.parametrize("family", SHARPENED)
def test_ends_hold_samples_whatever_is_picked(family):
    """Any ends and any choices: boxes in between still hold what points of the box make of them."""
    layers, shape, seed = SHARPENED[family]
    proto, size, rng = nominal_model(network(seed, layers, shape).graph), int(np.prod(shape)), np.random.default_rng(0)
    checker = Checker(proto)
    region = Region(np.zeros(size), np.ones(size))
    before = checker.values(region, "float32")
    bent = [node for node in proto.graph.node if node.op_type in PLANES]
    picked: dict[str, Picked] = {}
    earlier: list[str] = []
    for node in bent:
        numbers = before[node.input[0]].magnitude.size
        elements, signs = rng.integers(0, numbers, 12), rng.choice([-1, 1], 12)
        choices = {name: rng.random(12 * before[name].magnitude.size) for name in earlier}
        picked.setdefault(node.input[0], Picked(elements, signs, choices))
        earlier.append(node.output[0])
    found = checker.sharpened(region, "float32", picked).known
    assert found.keys() >= {node.input[0] for node in bent[1:]}
    watched = [onnx.helper.make_empty_tensor_value_info(name) for name in found]
    proto.graph.output.extend(watched)
    session = runtime(proto)
    for _ in range(200):
        x = (rng.random((1, *shape)) if rng.random() < 0.7 else rng.integers(0, 2, (1, *shape))).astype(np.float32)
        values = session.run(list(found), {proto.graph.input[0].name: x})
        for (lower, upper), value in zip(found.values(), values, strict=True):
            assert (lower <= value).all() and (value <= upper).all()


@torch.no_grad()
def test_choices_are_made_as_proofs_say_them():
    assert ascent.LEVELS == LEVELS
    walk = walk_of(network(0, flat_curves, (4,)).snapshot())
    box = Interval.bounds(torch.zeros(1, 4), torch.ones(1, 4))
    values = interval_values(walk, (box,), Arithmetic.REAL)
    (output,) = walk.graph.outputs
    forms = {output: torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)}
    drawn = {name: torch.rand_like(choice) for name, choice in ascent.ascend(walk, values, forms, 0).choices.items()}
    found = ascent.ascend(walk, values, forms, 0, start=ascent.Start(drawn)).choices
    assert found.keys() == drawn.keys() != set()
    for name, choice in found.items():
        assert (leaves_decoded(encoded(choice.flatten().numpy())) == choice.flatten().numpy()).all()
        assert (choice - drawn[name]).abs().max() < 1e-5
    for choice in ascent.ascend(walk, values, forms, 0).choices.values():
        assert (leaves_decoded(encoded(choice.flatten().numpy())) == choice.flatten().numpy()).all()


def leaves_decoded(text: str) -> Any:
    """Return the choices that a leaf says."""
    steps = [["leaf", [1], {"y": text}, []]]
    checker = Checker(chain(("Relu",), start=[1, 1], constants={}))
    (leaf,) = leaves(steps, checker, np.zeros(1), np.ones(1), "real", Memory())
    return leaf.choices["y"]


def test_what_proofs_of_a_box_begin_with_is_replayed_once(monkeypatch):
    checker, calls, tighten = Checker(nominal_model(network(0, dense, (4,)).snapshot())), [], Checker.tightened
    monkeypatch.setattr(Checker, "tightened", lambda *given: calls.append(given) or tighten(*given))
    memory, leaf = Memory(), ["leaf", [1], {}, []]

    def known(*steps, high=1.0, arithmetic="real"):
        found = leaves(steps, checker, np.zeros(4), np.full(4, high), arithmetic, memory)
        return [{name: ends[1].tolist() for name, ends in one.region.known.items()} for one in found]

    (first,) = known(["tighten", {}], leaf)
    assert known(["tighten", {}], leaf) == [first] and len(calls) == 1
    assert known(["tighten", {}], ["tighten", {}], leaf) and len(calls) == 2
    below, above = known(["input", 0, 0.5], ["tighten", {}], leaf, ["tighten", {}], leaf)
    assert below != above and len(calls) == 4
    assert known(["tighten", {}], leaf, high=2.0) != [first] and len(calls) == 5
    assert known(["tighten", {}], leaf, arithmetic="float32") != [first] and len(calls) == 6


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("Sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("Tanh", np.tanh),
        ("Softsign", lambda x: x / (1 + np.abs(x))),
        ("Atan", np.arctan),
        ("Asinh", np.arcsinh),
    ],
)
def test_tuned_planes_of_an_s_hold_on_a_grid(kind, function):
    """Boxes on either side of 0 and around it, wide and narrow, with choices at the ends and between them."""
    rng = np.random.default_rng(0)
    lower = 3.0 * rng.normal(size=80)
    upper = lower + rng.choice([0.0, 0.1, 2.0, 9.0], 80) * rng.random(80)
    checker = Checker(chain((kind,), start=[1, 80], constants={}))
    values = checker.values(Region(lower, upper), "real")
    planes = list(values.values())[-1].bend()
    choices = np.concatenate([rng.integers(0, 2, (6, 2, 80)), rng.random((6, 2, 80)), np.full((1, 2, 80), 0.5)])
    tuned = planes.tune(choices)
    ((term,), x) = tuned.terms, np.linspace(lower, upper, 200)[:, None]
    assert (term.below * x + tuned.lower <= function(x) + 1e-12).all()
    assert (term.above * x + tuned.upper >= function(x) - 1e-12).all()
    assert ((term.below * x + tuned.lower).max(0) > (planes.terms[0].below * x + planes.lower).max(0)).any()
    ((plain,), middle) = planes.terms, 0.5 * lower + 0.5 * upper
    assert (term.below * middle + tuned.lower <= plain.below * middle + planes.lower + 1e-6).all()
    assert (term.above * middle + tuned.upper >= plain.above * middle + planes.upper - 1e-6).all()


POSITIVE = ("Log", "Sqrt", "Reciprocal")
# Attributes, operator set, and the function by torch.
CURVES = {
    "Swish": ({"alpha": 1.0}, 24, F.silu),
    "Swish, mirrored": ({"alpha": -0.5}, 24, lambda x: x * torch.sigmoid(-0.5 * x)),
    "Gelu": ({}, 20, F.gelu),
    "Gelu, by tanh": ({"approximate": "tanh"}, 20, lambda x: F.gelu(x, approximate="tanh")),
    "Mish": ({}, 18, F.mish),
    "HardSwish": ({}, 14, F.hardswish),
    "Selu": ({"alpha": 1.5, "gamma": 1.25}, 17, lambda x: 1.25 * F.elu(x, 1.5)),
    "Selu, falling": (
        {"alpha": -1.5, "gamma": 1.25},
        17,
        lambda x: torch.where(x > 0, x, -1.5 * torch.expm1(x)) * 1.25,
    ),
    "Elu": ({"alpha": 0.5}, 17, lambda x: F.elu(x, 0.5)),
    "Elu, steeper": ({"alpha": 2.0}, 17, lambda x: F.elu(x, 2.0)),
    "Elu, falling": ({"alpha": -1.0}, 17, lambda x: F.elu(x, -1.0)),
    "Celu": ({"alpha": 2.0}, 17, lambda x: F.celu(x, 2.0)),
    "Exp": ({}, 17, torch.exp),
    "Softplus": ({}, 17, F.softplus),
    "Log": ({}, 17, torch.log),
    "Sqrt": ({}, 17, torch.sqrt),
    "Reciprocal": ({}, 17, torch.reciprocal),
    "Sinh": ({}, 17, torch.sinh),
    "Cosh": ({}, 17, torch.cosh),
    "Atanh": ({}, 17, torch.atanh),
}


@pytest.mark.parametrize("name", CURVES)
def test_tuned_planes_of_curves_hold_on_a_grid(name):
    """Over boxes in one piece and across turns, wide and narrow, with choices at the ends and between them."""
    attributes, opset, function = CURVES[name]
    rng = np.random.default_rng(0)
    lower = 3.0 * rng.normal(size=80)
    if name in POSITIVE:
        lower = np.abs(lower) + 0.1
    upper = lower + rng.choice([0.0, 0.1, 2.0, 9.0], 80) * rng.random(80)
    if name == "Atanh":
        lower, upper = np.tanh(0.2 * lower), np.tanh(0.2 * upper)
    checker = Checker(chain((name.split(",")[0], attributes), start=[1, 80], constants={}, opset=opset))
    planes = list(checker.values(Region(lower, upper), "real").values())[-1].bend()
    choices = np.concatenate([rng.integers(0, 2, (6, 2, 80)), rng.random((6, 2, 80)), np.full((1, 2, 80), 0.5)])
    tuned = planes.tune(choices)
    ((term,), x) = tuned.terms, np.linspace(lower, upper, 400)[:, None]
    value, rounding = function(torch.from_numpy(x)).numpy(), 1e-9
    assert (term.below * x + tuned.lower <= value + rounding).all()
    assert (term.above * x + tuned.upper >= value - rounding).all()
    assert np.isfinite(term.below).all() and np.isfinite(term.above).all()
    near = 1e-2 * (1.0 + np.abs(value).max(0))
    below, above = value - term.below * x - tuned.lower, term.above * x + tuned.upper - value
    assert (below.min(0) < near).all() and (above.min(0) < near).all(), "a plane touches nowhere"
    (plain,) = planes.terms
    assert np.allclose(term.below[-1], plain.below) and np.allclose(tuned.lower[-1], planes.lower, atol=1e-7)
    assert np.allclose(term.above[-1], plain.above) and np.allclose(tuned.upper[-1], planes.upper, atol=1e-7)
    assert (below[:, -1:] > below + 1e-3).any() or (above[:, -1:] > above + 1e-3).any(), "no choice helps anywhere"


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Erf", "Softsign", "Atan", "Asinh", "square", "product", *CURVES])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_planes_pay_for_their_own_rounding_whatever_is_chosen(kind, size):
    """Slopes and offsets take fewer than 24 roundings, each of at most what they make of the greatest operands."""
    rng = np.random.default_rng(0)
    count = 60
    lower = size * rng.normal(size=2 * count)
    lower = np.abs(lower) if kind in POSITIVE else lower
    upper = lower + size * rng.choice([0.0, 1e-3, 1.0, 50.0], 2 * count)
    if kind in ("square", "product"):
        halves = {"a": np.arange(count), "b": np.arange(count, 2 * count)}
        nodes = [onnx.helper.make_node("Gather", ["x", half], [f"{half}_"], axis=1) for half in halves]
        nodes.append(onnx.helper.make_node("Mul", ["a_", "b_" if kind == "product" else "a_"], ["y"]))
        proto = model(nodes, {"x": [1, 2 * count]}, constants=halves)
    else:
        attributes, opset, _ = CURVES.get(kind, ({}, 17, None))
        proto = chain((kind.split(",")[0], attributes), start=[1, 2 * count], constants={}, opset=opset)
    values = Checker(proto).values(Region(lower, upper), "real")
    with np.errstate(all="ignore"):
        planes = values["y"].bend()
        shape = (6, 2, len(planes.error))
        tuned = planes.tune(np.concatenate([rng.integers(0, 2, shape), rng.random(shape)]))
    for side, offset in (("below", tuned.lower), ("above", tuned.upper)):
        sizes = np.abs(offset)
        for term in tuned.terms:
            sizes = sizes + np.abs(getattr(term, side)) * values[term.source].magnitude.ravel()
        assert (tuned.error >= 24 * 2.0**-53 * sizes)[np.isfinite(sizes)].all()


def test_input_cuts_lie_in_the_box(tmp_path):
    net = network(1, dense, (4,))
    gap = 0.6 * gap_of(net, 4, "alpha-crown", Arithmetic.FLOAT32)
    path = proved(net, below(net, 4, gap), tmp_path, method="bab")
    for change in ([0, 1.5], [0, -0.5], [7, 0.5], [0, "0.5"]):
        data = json.loads(path.read_text())
        steps_of(data, "input")[0][1:] = change
        (tmp_path / "other.json").write_text(json.dumps(data))
        assert any("proof, step" in text for text in failing(tmp_path / "other.json"))


@pytest.mark.parametrize("change", [[0, 1e31], [0, "0.5"], [-1, 0.5], [10**6, 0.5], [0], [0, 0.5, 1]])
def test_cuts_of_values_are_numbers_at_elements(cut_at_numbers, change, tmp_path):
    data = json.loads(cut_at_numbers.read_text())
    steps_of(data, "value")[0][2:] = change
    (tmp_path / "c.json").write_text(json.dumps(data))
    found = failing(tmp_path / "c.json")
    assert any("proof" in text for text in found), found


def test_no_number_is_no_place_to_cut():
    checker = Checker(chain(("Relu",), start=[1, 1], constants={}))
    with pytest.raises(PropertyError, match="a cut at nan"):
        list(leaves([["value", "x", 0, float("nan")]], checker, np.zeros(1), np.ones(1), "real", Memory()))


def test_choices_outside_the_unit_interval_cannot_be_written_and_are_refused():
    assert np.frombuffer(np.array([LEVELS], "<u2").tobytes(), "<u2")[0] / LEVELS == 1.0
    proto = chain(("Relu",), start=[1, 2], constants={})
    region = Region(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    for choice in (-0.1, 1.1, np.nan):
        with pytest.raises(ibpc.errors.ModelError, match="do not fit"):
            Checker(proto).lower_bound(region, np.ones(2), "real", choices={"y": np.full(2, choice)})


# ── the checker's planes ────────────────────────────────────────────────────────────────────────────────────────
def planar_cases() -> list[Any]:
    kinds = [*sorted(PLANES), "Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool", "Pad"]
    kinds += ["ReduceSum", "ReduceMean", "Concat", "Slice", "Gather", "Add", "Sub", "Mean", "BatchNormalization"]
    cases = [case for kind in kinds for case in official_cases().get(kind, [])[:12]]
    patterns = [*EXCLUDED, "*_bool_inputs"]
    known = [case for case in cases if not any(fnmatchcase(case.name, pattern) for pattern in patterns)]
    return [pytest.param(case, id=case.name) for case in known if free_operands(case)]


def free_operands(case: Any) -> list[str]:
    """Return the operands that may vary: none where one is no array, or all count things."""
    arrays = case.data_sets[0][0]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        return []
    names = [value.name for value in case.model.graph.input]
    return free_inputs(case.model, dict(zip(names, arrays, strict=False)))


def taken_operands(case: Any, values: Mapping[str, Any]) -> list[str]:
    """Return all operands that may vary, or the first alone where the checker wants constants beside it."""
    free = free_operands(case)
    point = np.concatenate([np.asarray(values[name], np.float64).ravel() for name in free])
    try:
        Checker(with_constants(case.model, values, free)).values(Region(point, point), "float32")
    except ibpc.errors.ModelError:
        return free[:1]
    return free


@pytest.mark.parametrize("case", planar_cases())
def test_linear_bounds_hold_samples(case):
    """Rows with signs of both kinds, over boxes of several sizes, with plain planes and with choices of all kinds."""
    names = [value.name for value in case.model.graph.input]
    values = dict(zip(names, map(np.asarray, case.data_sets[0][0]), strict=False))
    free = taken_operands(case, values)
    proto, rng = with_constants(case.model, values, free), np.random.default_rng(0)
    checker = Checker(proto)
    for radius in (0.03, 0.7, 3.0):
        lows, highs = ([np.asarray(values[name], np.float64) + side * radius for name in free] for side in (-1, 1))
        region = Region(*(np.concatenate([part.ravel() for part in side]) for side in (lows, highs)))
        found = checker.values(region, "float32")
        (output,) = [value.name for value in proto.graph.output][:1]
        size = found[output].lower.size
        rows = rng.normal(size=(5, size)) * (rng.random((5, size)) < 0.5)
        picked = [{}, {output: rng.random((5, size))}, {output: rng.random((5, 2, size))}]
        with np.errstate(all="ignore"):
            bounds = [linear_bounds(found, {output: rows}, choices) for choices in picked]
        session = runtime(proto)
        for _ in range(6):
            share = rng.random(lows[0].shape) if rng.random() < 0.7 else rng.integers(0, 2, lows[0].shape)
            points = [
                low + share * (high - low) if low.shape == share.shape else low
                for low, high in zip(lows, highs, strict=True)
            ]
            feeds = {
                name: np.clip(point, low, high).astype(values[name].dtype)
                for name, point, low, high in zip(free, points, lows, highs, strict=True)
            }
            inside = all(
                (low <= feeds[n]).all() and (feeds[n] <= high).all()
                for n, low, high in zip(free, lows, highs, strict=True)
            )
            value = np.asarray(session.run(None, feeds)[0], np.float64).ravel()
            if not inside or not np.isfinite(value).all():
                continue
            for bound in bounds:
                assert (bound <= rows @ value + 1e-12 * (np.abs(rows) @ np.abs(value))).all()


def test_kinds_of_planes_are_those_of_rules():
    assert set(PLANES) <= set(RULES)


def test_the_checker_has_planes_where_the_compiler_chooses_among_them():
    """Without them certificates leave out what bounds through these types prove; docs/certify.md names them."""
    tuned = {reading.type for each in operators().values() if each.rules.tuned is not None for reading in each.reads}
    assert tuned - set(PLANES) == {"Softmax", "MatMul", "Einsum"}


def test_multipliers_use_the_signs_of_a_region():
    """|x| = relu(x) + relu(−x) over [−1, 1] is at most 1: with the sign of x known, linear bounds are exact."""
    nodes = [
        onnx.helper.make_node("Neg", ["x"], ["n"]),
        onnx.helper.make_node("Relu", ["x"], ["p"]),
        onnx.helper.make_node("Relu", ["n"], ["q"]),
        onnx.helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    checker, ends = Checker(model(nodes, {"x": [1, 1]})), (np.array([-1.0]), np.array([1.0]))
    row = np.array([-1.0])
    assert checker.lower_bound(Region(*ends), row, "real") == pytest.approx(-1.0)
    for side in (1, -1):
        region = Region(*ends, cuts=(("x", 0, 0.0, side),))
        assert checker.lower_bound(region, row, "real") == pytest.approx(-1.0)
        shifted = checker.lower_bound(region, -row, "real", [1.0], {"p": np.zeros(1), "q": np.zeros(1)})
        assert -1.0 - 1e-9 <= shifted <= 1e-9


@pytest.mark.parametrize("at", [0.0, 0.5, -0.25])
def test_a_multiplier_takes_off_what_its_cut_says(at):
    """Where s (v − a) ≥ 0 of v = x₀ + x₁, s v is at least (1 − β) s v + β s a; [−1, 1]² alone says −2."""
    nodes = [onnx.helper.make_node("MatMul", ["x", "ones"], [name]) for name in ("v", "y")]
    ones = onnx.numpy_helper.from_array(np.ones((2, 1), np.float32), "ones")
    proto = model(nodes, {"x": [1, 2]})
    proto.graph.initializer.append(ones)
    checker, ends = Checker(proto), (np.full(2, -1.0), np.full(2, 1.0))
    for side in (1, -1):
        region, row = Region(*ends, cuts=(("v", 0, at, side),)), np.array([float(side)])
        for multiplier in (0.0, 0.5, 1.0):
            found = checker.lower_bound(region, row, "real", [multiplier])
            exact = -2.0 * (1.0 - multiplier) + multiplier * side * at
            assert exact - 1e-9 <= found <= exact


def test_sums_with_cuts_are_rounded_down():
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-160, 1e30):
        for count in (1, 2, 7):
            numbers = rng.normal(size=(300, count, 2)) * scale
            for bound, pairs in zip(rng.normal(size=300), numbers.tolist(), strict=True):
                exact = Fraction(bound) + sum(Fraction(one) * Fraction(other) for one, other in pairs)
                assert Fraction(lower_sum(bound, pairs)) <= exact
    assert lower_sum(0.0, [(-1e-300, 1e-300)]) < 0.0, "the product is 0 in binary64"
    assert lower_sum(0.1, [(0.0, 3.0), (2.0, 0.0)]) == 0.1


def test_of_cuts_on_the_same_side_the_last_has_the_multiplier():
    halves = [Half("v", 1, 0.0, 1), Half("v", 1, 3.0, -1), Half("v", 1, 2.0, 1), Half("v", 0, 1.0, -1)]
    found = {"v": torch.tensor([[[-0.5, 0.25]]])}
    assert multipliers_of(halves, found, 0, 0) == (0.0, 0.0, 0.25, 0.5)


def test_a_region_of_nothing_is_refuted():
    proto = chain(("Relu",), start=[1, 1], constants={})
    region = Region(np.array([1.0]), np.array([2.0]), cuts=(("x", 0, 0.0, -1),))
    assert Checker(proto).lower_bound(region, np.array([1.0]), "float32") == np.inf


def test_tightened_boxes_hold_what_is_computed():
    """In binary32, over boxes of several widths; and they are smaller than boxes of intervals."""
    net = network(3, mixed, (1, 5, 5))
    checker, gained = Checker(nominal_model(net.snapshot())), 0.0
    for radius in (0.05, 0.5):
        ends = np.full(25, 0.5 - radius), np.full(25, 0.5 + radius)
        plain, region = Region(*ends), checker.tightened(Region(*ends), "float32")
        before, after = checker.values(plain, "float32"), checker.values(region, "float32")
        for name in region.known:
            one, other = before[name], after[name]
            assert isinstance(one, Box) and isinstance(other, Box)
            assert (one.lower <= other.lower).all() and (other.upper <= one.upper).all()
            gained += float((one.upper - one.lower - other.upper + other.lower).sum())
        points = torch.rand(500, 1, 5, 5, generator=torch.Generator().manual_seed(1)) * 2 * radius + 0.5 - radius
        rows = np.random.default_rng(0).normal(size=(8, 2))
        least = (
            net.nominal(points.clamp(*map(float, (ends[0][0], ends[1][0])))).detach().double().numpy() @ rows.T
        ).min(0)
        for row, value in zip(rows, least, strict=True):
            assert checker.lower_bound(region, row, "float32") <= value
    assert gained > 0


def test_elements_are_chosen_where_all_would_be_too_many(monkeypatch):
    """A large network has its widest elements tightened only; what is left keeps its box."""
    monkeypatch.setattr(backward, "_MOST_WORK", 200)
    net = network(0, dense, (4,))
    checker = Checker(nominal_model(net.snapshot()))
    values = checker.values(Region(np.zeros(4), np.ones(4)), "real")
    name = [node.input[0] for node in nominal_model(net.snapshot()).graph.node if node.op_type == "Relu"][-1]
    box = tightened(values, name, True, {})
    changed = (box.lower != values[name].lower) | (box.upper != values[name].upper)
    assert 0 < changed.sum() < changed.size


def test_a_cut_does_not_make_a_number_of_what_is_none():
    """ln(−1) is neither below nor above 0: on no side of that cut is sigmoid(ln x) bounded by 0 and 1."""
    nodes = [onnx.helper.make_node("Log", ["x"], ["l"]), onnx.helper.make_node("Sigmoid", ["l"], ["y"])]
    checker, ends = Checker(model(nodes, {"x": [1, 1]})), (np.array([-1.0]), np.array([2.0]))
    for side in (1, -1):
        region = Region(*ends, cuts=(("l", 0, 0.0, side),))
        assert checker.lower_bound(region, np.array([1.0]), "float32") == -np.inf


@pytest.mark.parametrize(
    ("nodes", "ends"),
    [
        ([onnx.helper.make_node("Mul", ["x", "x"], ["y"])], (1e25, 2e25)),
        ([onnx.helper.make_node("Exp", ["x"], ["y"])], (95.0, 100.0)),
        (
            [onnx.helper.make_node("Cast", ["x"], ["i"], to=6), onnx.helper.make_node("Mul", ["i", "i"], ["y"])],
            (6e4, 7e4),
        ),
    ],
)
def test_planes_bound_nothing_where_a_result_may_leave_its_type(nodes, ends):
    """An execution overflows to infinity, or wraps around: no plane of the function of real numbers bounds that."""
    proto, region = model(nodes, {"x": [1, 1]}), Region(*(np.array([end]) for end in ends))
    if nodes[0].op_type == "Cast":
        proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    values = Checker(proto).values(region, "float32")
    for choices in ({}, {"y": np.full((1, 2, 1), 0.5)}):
        for sign in (1.0, -1.0):
            with np.errstate(all="ignore"):
                assert not linear_bounds(values, {"y": np.array([[sign]])}, choices) > -np.inf


@pytest.mark.parametrize("divisor", [(0.5, 2.0), (-2.0, -0.5), (0.01, 5.0)])
@pytest.mark.parametrize("numerator", [(-1.0, 2.0), (1.0, 2.0), (-3.0, -1.0)])
def test_planes_of_a_quotient_hold_and_are_tight_in_small_boxes(numerator, divisor):
    """x / y + a x + b y over all signs of a and b: the planes' slopes count, not the quotient's range alone."""
    nodes = [
        onnx.helper.make_node("Div", ["x", "d"], ["q"]),
        onnx.helper.make_node("Concat", ["q", "x", "d"], ["y"], axis=1),
    ]
    proto = model(nodes, {"x": [1, 1], "d": [1, 1]})
    for share in (1.0, 0.01):
        ends = [(low, low + share * (high - low)) for low, high in (numerator, divisor)]
        x, d = np.meshgrid(*(np.linspace(*side, 41) for side in ends))
        region = Region(*(np.array([side[end] for side in ends]) for end in (0, 1)))
        for row in product((1.0, -1.0), (0.0, 2.0, -2.0), (0.0, 3.0, -3.0)):
            least = float((row[0] * x / d + row[1] * x + row[2] * d).min())
            found = Checker(proto).lower_bound(region, np.array(row), "float32")
            assert found <= least
            assert share == 1.0 or divisor[0] == 0.01 or found >= least - 0.01


@pytest.mark.parametrize("kind", ["Sin", "Cos"])
def test_planes_of_waves_hold_over_boxes_of_all_widths(kind):
    """Over more than a turn a wave is as steep as a line more often than its planes look."""
    checker = Checker(
        model(
            [onnx.helper.make_node(kind, ["x"], ["q"]), onnx.helper.make_node("Concat", ["q", "x"], ["y"], axis=1)],
            {"x": [1, 1]},
        )
    )
    for low, width in product(np.linspace(-4.0, 4.0, 9), (0.1, 1.0, 3.0, 5.0, 9.0)):
        points = np.linspace(low, low + width, 401)
        wave = np.sin(points) if kind == "Sin" else np.cos(points)
        for row in ((1.0, 0.3), (1.0, -0.3), (-1.0, 0.3), (-1.0, -0.3), (1.0, 0.0)):
            found = checker.lower_bound(Region(np.array([low]), np.array([low + width])), np.array(row), "float32")
            assert found <= float((row[0] * wave + row[1] * points).min())
