"""Properties stated in Python: rows over boxes, targeted balls, texts; and what of them is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import ibpc
from ibpc.errors import DataError, IbpcError, PropertyError, UsageError
from ibpc.report.terminal import show_decision

VERIFIED, FALSIFIED = ibpc.Verdict.VERIFIED, ibpc.Verdict.FALSIFIED


class Two(nn.Module):
    """x₀ + y₀, x₁ + y₁ and, as a second output, x₀ − y₀."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + y, (x - y)[:, :1]


def affine(weight: list[list[float]]) -> ibpc.Network:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return ibpc.compile(nn.Sequential(layer).eval(), torch.zeros(1, len(weight[0])))


@pytest.fixture(scope="module")
def identity() -> ibpc.Network:
    return affine([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def two() -> ibpc.Network:
    return ibpc.compile(Two().eval(), (torch.zeros(1, 2), torch.zeros(1, 2)))


def unit(inputs: int = 3) -> ibpc.Interval:
    return ibpc.Interval.bounds(torch.zeros(1, inputs), torch.ones(1, inputs))


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("rows", "below", "verdict"),
    [
        ([[1, -1, 0]], 1.01, VERIFIED),
        ([[1, -1, 0]], 0.9, FALSIFIED),
        ([[1, -1, 0], [0, 1, 1]], [1.01, 2.01], VERIFIED),
        ([[1, -1, 0], [0, 1, 1]], [1.01, 1.9], FALSIFIED),
        ([[1, -1, 0], [0, 1, 1]], [0.9, 2.01], FALSIFIED),
        ([[0, 0, 0]], 0.0, VERIFIED),
        ([[0, 0, 0]], -0.5, FALSIFIED),
    ],
)
def test_each_row_has_to_stay_below(identity, rows, below, verdict):
    assert ibpc.decide(identity, ibpc.linear_property(identity, unit(), rows, below), timeout=10).verdict is verdict


def test_what_equals_the_bound_is_allowed_and_what_is_above_is_not(identity):
    """Real arithmetic: the largest value is exactly 1, and the next float below is exceeded."""
    for below, verdict in ((1.0, VERIFIED), (np.nextafter(np.float32(1), np.float32(0)), FALSIFIED)):
        prop = ibpc.linear_property(identity, unit(), [[1, 0, 0]], below)
        assert ibpc.decide(identity, prop, arithmetic="real", timeout=10).verdict is verdict


def test_numbers_are_those_of_the_floats(identity):
    box = ibpc.Interval.bounds(torch.full((1, 3), 0.1, dtype=torch.float64), torch.full((1, 3), 0.2))
    prop = ibpc.linear_property(identity, box, torch.tensor([[0.1, 0.0, -2.0]]), 0.3)
    (case,) = prop.cases
    ((row,),) = case.disjuncts
    assert set(case.box.lower) == {Fraction(0.1)} and set(case.box.upper) == {Fraction(float(np.float32(0.2)))}
    assert row.outputs == ((0, -Fraction(float(np.float32(0.1)))), (2, Fraction(2)))
    assert (row.bound, row.strict) == (-Fraction(0.3), True)


def test_a_counterexample_comes_as_an_array_for_each_input(two):
    boxes = [unit(2), torch.full((1, 2), 0.25)]
    holds = ibpc.decide(two, ibpc.linear_property(two, boxes, [[1, -1, 0], [0, 0, 1]], [1.01, 0.76]), timeout=10)
    assert holds.verdict is VERIFIED
    broken = ibpc.decide(two, ibpc.linear_property(two, boxes, [[0, 0, 1]], 0.5), timeout=10)
    x, y = broken.counterexample.arrays(two)
    assert (x.shape, y.shape, x.dtype) == ((1, 2), (1, 2), np.float32)
    assert (*x.ravel().tolist(), *y.ravel().tolist()) == broken.counterexample.inputs
    assert y.tolist() == [[0.25, 0.25]]
    outputs = two.nominal(torch.from_numpy(x), torch.from_numpy(y))
    assert torch.cat(outputs, 1)[0].tolist() == list(broken.counterexample.outputs)
    assert outputs[1].item() > 0.5


@pytest.mark.parametrize(("below", "verdict"), [(1.01, VERIFIED), (0.5, FALSIFIED)])
def test_its_certificate_is_confirmed(identity, tmp_path, below, verdict):
    identity.save(tmp_path / "net")
    prop = ibpc.linear_property(identity, unit(), [[1, -1, 0]], below)
    decision = ibpc.decide(identity, prop, timeout=10)
    assert decision.verdict is verdict
    ibpc.write_certificate(tmp_path / "c.json", tmp_path / "net", identity, prop, decision)
    assert all(claim.holds for claim in ibpc.check(tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("box", "rows", "below", "error", "words"),
    [
        (unit(), [[1, 2]], 0, PropertyError, r"rows: shape 1×2; expected \(rows, 3\)"),
        (unit(), [1, 2, 3], 0, PropertyError, "rows: shape 3"),
        (unit(), [[1, 2], [3]], 0, DataError, "rows: found list"),
        (unit(), [[1, 2, torch.nan]], 0, DataError, "finite"),
        (unit(), [[1, 2, 3]], [0, 0], PropertyError, "below: shape 2"),
        (unit(), [[1, 2, 3]], "0", DataError, "below: values of type"),
        ([unit(), unit()], [[1, 2, 3]], 0, PropertyError, "box: found 2; expected 1"),
        (unit(4), [[1, 2, 3]], 0, PropertyError, "shape 1×4; expected 1×3, one sample"),
        (ibpc.Interval.point(torch.zeros(2, 3)), [[1, 2, 3]], 0, PropertyError, "one sample"),
        (ibpc.Interval.bounds(torch.ones(1, 3), torch.zeros(1, 3)), [[1, 2, 3]], 0, PropertyError, "above the upper"),
        (torch.full((1, 3), 1e39, dtype=torch.float64), [[1, 2, 3]], 0, PropertyError, "float32 range"),
        (5, [[1, 2, 3]], 0, UsageError, "box 1: found int"),
    ],
)
def test_what_does_not_fit_is_refused(identity, box, rows, below, error, words):
    with pytest.raises(error, match=words):
        ibpc.linear_property(identity, box, rows, below)


# ── balls ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_targeted_ball_is_about_one_class_alone(identity):
    """Within 0.2 of (0.9, 0.6, 0.1) class 1 may reach class 0, class 2 may not."""
    x = torch.tensor([0.9, 0.6, 0.1])
    for target, verdict in ((None, FALSIFIED), (1, FALSIFIED), (2, VERIFIED)):
        prop = ibpc.Ball(x, 0).within(0.2, identity, target)
        assert ibpc.decide(identity, prop, timeout=10).verdict is verdict
        assert ibpc.decide(identity, ibpc.ball_property(identity, x, 0.2, target=target), timeout=10).verdict is verdict


def test_a_ball_around_a_file_an_array_or_a_tensor_is_one(identity, tmp_path):
    x = np.array([0.9, 0.6, 0.1], np.float32)
    np.save(tmp_path / "x.npy", x)
    cases = [
        ibpc.ball_property(identity, given, 0.1).cases[0]
        for given in (tmp_path / "x.npy", str(tmp_path / "x.npy"), x, torch.from_numpy(x), x[None], x.tolist())
    ]
    cases.append(ibpc.Ball(x, 0).within(0.1, identity).cases[0])
    assert len({(case.box.lower, case.box.upper, case.disjuncts) for case in cases}) == 1


@pytest.mark.parametrize(
    ("point", "label", "eps", "target", "words"),
    [
        (np.zeros(3), 0, "2/255", None, "eps: found '2/255'"),
        (np.zeros(3), "0", 0.1, None, "label: found '0'; expected one of 0 to 2"),
        (np.zeros(3), 3, 0.1, None, "label: found 3"),
        (np.zeros(3), 0, 0.1, 3, "target: found 3"),
        (np.zeros(3), 0, 0.1, -1, "target: found -1"),
        (np.zeros(3), 1, 0.1, 1, "target: found 1, the label itself"),
        (None, 0, 0.1, None, "input: values of type object"),
        (np.array([0, np.inf, 0]), 0, 0.1, None, "finite"),
    ],
)
def test_what_is_no_ball_is_refused(identity, point, label, eps, target, words):
    with pytest.raises(IbpcError, match=words):
        ibpc.Ball(point, label).within(eps, identity, target)


# ── texts ───────────────────────────────────────────────────────────────────────────────────────────────────────
TEXT = """(declare-const X_0 Real) (declare-const Y_0 Real)
(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= Y_0 1.5))"""


def test_a_text_says_what_a_file_says(tmp_path):
    (tmp_path / "p.vnnlib").write_text(TEXT)
    read, given = ibpc.load_vnnlib(tmp_path / "p.vnnlib"), ibpc.parse_vnnlib(TEXT, "mine")
    assert (read.name, given.name) == ("p.vnnlib", "mine")
    assert read.cases[0].disjuncts == given.cases[0].disjuncts and read.inputs == given.inputs
    net = affine([[1.0]])
    assert ibpc.decide(net, given, timeout=10).verdict is VERIFIED


@pytest.mark.parametrize(("text", "words"), [(TEXT + "\n (foo)", "property:3:3: found 'foo'"), (b"x", "found bytes")])
def test_texts_that_are_none_are_refused(text, words):
    with pytest.raises(PropertyError, match=words):
        ibpc.parse_vnnlib(text)


def test_a_disjunct_without_outputs_is_said(capsys):
    text = TEXT.replace("(assert (>= Y_0 1.5))", "")
    net, free = affine([[1.0]]), ibpc.parse_vnnlib(text)
    assert free.leaves_outputs_free and not ibpc.parse_vnnlib(TEXT).leaves_outputs_free
    decision = ibpc.decide(net, free, timeout=10)
    assert decision.verdict is FALSIFIED
    show_decision("net.onnx", free, decision)
    assert "constrains no output: any network has counterexamples" in capsys.readouterr().out
