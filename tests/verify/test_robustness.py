"""Certification of a data set: verdicts, accuracies, the attack, and the box that is meant."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.data import fit_images
from ibpc.errors import DataError, PropertyError, UsageError
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic, outer_ball
from ibpc.verify import batch_certifier, margin_attack
from ibpc.verify.attack import Attack
from ibpc.verify.batch_certifier import BatchCertifier
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.journal import Journal
from ibpc.verify.margin_attack import margin
from ibpc.verify.replay import Replay
from ibpc.verify.verdicts import Verdict
from tests import ROOT

SPECS = ROOT / "specs"


def linear_network(weight: torch.Tensor, bias: torch.Tensor) -> ibpc.Network:
    """A network of one Gemm, whose robustness is known in closed form."""
    module = torch.nn.Linear(weight.shape[1], weight.shape[0])
    module.weight.data, module.bias.data = weight, bias
    return ibpc.compile(module.eval(), torch.zeros(1, weight.shape[1]))


@pytest.fixture(scope="module")
def linear():
    """Margins of class 0: z₀ − z₁ = 2 x₀ − 2 x₁ over x in [0, 1]²."""
    return linear_network(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.zeros(2))


def judged(network, x, labels, eps, **options):
    return certified(network, torch.tensor(x), torch.tensor(labels), eps, **options)


def certified(network, images, labels, eps, **options):
    certifier = DataCertifier("ibp", BatchCertifier("ibp", **options))
    return certifier.run(network, images, labels, eps, Journal(None, {}))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_network_whose_output_is_called_margins_is_bounded(method, linear):
    graph = linear.snapshot()
    last = graph.node(graph.outputs[0])
    named = Graph("named")
    for node in graph.order():
        name = "margins" if node == last else node.name
        named.add(replace(node, name=name), graph.operands(node.name), graph.parameters_of(node.name))
    named.outputs = ("margins",)
    rows = torch.tensor([[1.0, -1.0]])
    box = Interval.bounds(torch.zeros(1, 2), torch.ones(1, 2))
    found, wanted = (METHODS[method].bounder(walk_of(each), rows, Arithmetic.REAL)(box) for each in (named, graph))
    assert torch.equal(found.lower, wanted.lower) and torch.equal(found.upper, wanted.upper)


def test_verdicts_of_a_linear_network_are_exact(linear):
    """z₀ − z₁ at (0.5 + d, 0.5) is 2 d, and its minimum over the ball 2 d − 4 ε."""
    result = judged(linear, [[0.5 + d, 0.5] for d in (0.21, 0.19, -0.1)], [0, 0, 0], 0.1)
    assert [example.verdict for example in result.examples] == [
        Verdict.VERIFIED,
        Verdict.FALSIFIED,
        Verdict.FALSIFIED,
    ]
    assert [example.predicted for example in result.examples] == [0, 0, 1]
    assert result.examples[0].margin_lower == (0.0, pytest.approx(0.02, abs=1e-4))
    assert (result.nominal_accuracy, result.attack_accuracy, result.certified_accuracy) == pytest.approx(
        (2 / 3, 1 / 3, 1 / 3)
    )


def test_a_margin_of_zero_is_no_proof(linear):
    assert judged(linear, [[0.5, 0.5]], [0], 0.0).examples[0].verdict is Verdict.FALSIFIED


def test_a_bound_of_zero_is_no_proof_where_no_attack_finds_its_point(linear):
    """z₀ − z₁ at (0.75, 0.5) is at least 0 over the ball of radius 1/8, and 0 at a corner of it."""
    nothing = Attack(steps=0, restarts=0)
    (example,) = judged(linear, [[0.75, 0.5]], [0], 0.125, arithmetic=Arithmetic.REAL, attack=nothing).examples
    assert (example.margin_lower[1], example.verdict) == (0.0, Verdict.UNKNOWN)


def test_bounds_are_made_of_plain_products_and_attacks_of_any(linear, monkeypatch):
    """TF32 and cuDNN's own algorithms are off while bounds are compiled and computed, and on again for the attack."""
    seen = {}

    def note(what):
        seen[what] = torch.backends.cudnn.enabled, torch.get_float32_matmul_precision()

    def spied(*arguments):
        note("compiled")
        inner = METHODS["ibp"].bounder(*arguments)

        def bound(*boxes):
            note("bounded")
            return inner(*boxes)

        return bound

    class SpiedAttack(Attack):
        def run(self, *arguments):
            note("attacked")
            return super().run(*arguments)

    monkeypatch.setattr(batch_certifier, "method_named", lambda name: replace(METHODS[name], bounder=spied))
    torch.set_float32_matmul_precision("high")
    try:
        attack = SpiedAttack(steps=2, restarts=1)
        judged(linear, [[0.6, 0.5]], [0], 0.1, attack=attack)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {"compiled": (False, "highest"), "bounded": (False, "highest"), "attacked": (True, "high")}


def test_the_box_is_clipped_to_pixels(linear):
    """At (1, 0.85) the ball of radius 0.1 spans [0.9, 1] × [0.75, 0.95]: the margin is at least 1.8 − 1.9."""
    (example,) = judged(linear, [[1.0, 0.85]], [0], 0.1).examples
    assert example.margin_lower[1] == pytest.approx(2 * 0.9 - 2 * 0.95, abs=1e-4)


def test_an_unprovable_and_unattackable_example_is_unknown():
    """relu(x) − relu(x) is 0, but boxes do not know that: neither verdict may be given."""
    module = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    module[0].weight.data, module[0].bias.data = torch.ones(2, 1), torch.zeros(2)
    module[2].weight.data = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    module[2].bias.data = torch.tensor([0.05, 0.0])
    network = ibpc.compile(module.eval(), torch.zeros(1, 1))
    result = judged(network, [[0.5]], [0], 0.1)
    assert result.examples[0].verdict is Verdict.UNKNOWN
    assert (result.attack_accuracy, result.certified_accuracy) == (1.0, 0.0)


def test_json_has_what_the_contract_names(linear):
    data = judged(linear, [[0.9, 0.1]], [0], 0.1).to_json()
    assert data.keys() >= {"n", "eps", "nominal_accuracy", "attack_accuracy", "certified_accuracy", "method"}
    assert data["arithmetic"] == "float32"
    assert data["examples"][0].keys() == {
        "index",
        "label",
        "predicted",
        "verdict",
        "method",
        "margin_lower",
        "counterexample",
    }


@pytest.mark.parametrize(
    ("x", "labels", "eps", "found"),
    [
        ([[0.5, 0.5]], [0], -1.0, "found -1.0"),
        ([[0.5, 0.5]], [0], float("nan"), "found nan"),
        ([[0.5, 0.5]], [2], 0.1, "label 2 of image 0"),
        ([[0.5, 0.5]], [0, 1], 0.1, "2 labels of 1 images"),
    ],
)
def test_what_does_not_fit_is_refused(linear, x, labels, eps, found):
    with pytest.raises(PropertyError, match=found):
        judged(linear, x, labels, eps)


def test_images_of_another_size_are_refused(linear):
    with pytest.raises(DataError, match=r"images of shape \(3,\)"):
        judged(linear, [[0.5, 0.5, 0.5]], [0], 0.1)


def test_an_unknown_method_names_the_nearest(linear):
    with pytest.raises(UsageError, match="did you mean 'ibp'"):
        ibpc.certify(linear, "digits", 0.1, method="ibpp")


def test_batches_do_not_change_verdicts():
    network = ibpc.compile(SPECS / "digits_small.json", seed=5)
    data = ibpc.load_dataset("digits")
    images, labels = data.test.floats()[:30], data.test.labels[:30]
    one, many = (
        certified(network, images, labels, 0.01, attack=Attack(steps=2, restarts=1), batch=size) for size in (30, 7)
    )
    assert [e.predicted for e in one.examples] == [e.predicted for e in many.examples]
    assert [e.verdict is Verdict.VERIFIED for e in one.examples] == [
        e.verdict is Verdict.VERIFIED for e in many.examples
    ]
    assert [e.index for e in many.examples] == list(range(30))


def test_images_are_fitted_to_flat_and_channels_last_inputs():
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    assert fit_images(images, (3, 4, 5)) is images
    assert torch.equal(fit_images(images, (4, 5, 3)), images.permute(0, 2, 3, 1))
    assert torch.equal(fit_images(images, (60,)), images.flatten(1))
    with pytest.raises(DataError, match="images of shape"):
        fit_images(images, (6, 10))


# ── the attack ──────────────────────────────────────────────────────────────────────────────────────────────────
def attacked(network, x, box, labels, **options):
    return Attack(**options).run(lambda points, items: margin(network.nominal(points[0]), labels[items]), (x,), (box,))


def test_the_attack_finds_the_worst_corner_of_a_linear_margin(linear):
    x, labels = torch.tensor([[0.8, 0.3]]), torch.tensor([0])
    box = Interval.ball(x, 0.2, (0, 1))
    found = attacked(linear, x, box, labels, steps=20, restarts=1)
    assert torch.equal(found.points[0], torch.stack([box.lower[:, 0], box.upper[:, 1]], 1))
    assert torch.equal(found.scores, margin(linear.nominal(found.points[0]), labels))


def test_attacked_points_never_leave_the_box_and_never_get_worse(linear):
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(50, dtype=torch.int64)
    box = Interval.bounds(*outer_ball(x, 0.1, (0, 1)))
    worst = attacked(linear, x, box, labels, steps=5, restarts=2).points[0]
    assert box.contains(worst).all()
    assert (margin(linear.nominal(worst), labels) <= margin(linear.nominal(x), labels)).all()


def test_an_attack_without_gradients_samples_the_box():
    """A step function has no slope: only where the search starts can it find the other side of the step."""
    x, box = torch.zeros(1, 1), Interval.bounds(torch.zeros(1, 1), torch.ones(1, 1))

    def score(points, items):
        return (points[0][:, 0].detach() < 0.5).float()

    assert Attack(restarts=6).run(score, (x,), (box,)).scores.item() == 0.0


@pytest.mark.parametrize(("samples", "least"), [(1, 1.0), (200, 0.0)])
def test_a_start_is_the_best_of_several_samples(samples, least):
    """One number in a hundred scores 0, and no slope leads there."""
    x, box = torch.zeros(1, 1), Interval.bounds(torch.zeros(1, 1), torch.full((1, 1), 100.0))

    def score(points, items):
        return (points[0][:, 0] * 0.0 + 1.0) - (points[0][:, 0].detach().floor() == 17).float()

    assert Attack(restarts=1, steps=3, samples=samples).run(score, (x,), (box,)).scores.item() == least


def test_a_descent_ends_where_nothing_moves():
    """The only feature with a slope is fixed: further steps would look at the same point again."""
    x, calls = torch.zeros(1, 2), []
    box = Interval.bounds(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))

    def score(points, items):
        calls.append(points[0].requires_grad)
        return 1.0 + points[0][:, 0]

    Attack(restarts=1, steps=50).run(score, (x,), (box,))
    assert sum(calls) == 1


def test_an_attack_stops_at_its_deadline(linear):
    x, labels = torch.tensor([[0.9, 0.1]]), torch.tensor([0])
    box = Interval.ball(x, 0.2, (0, 1))
    found = Attack(restarts=10**9).run(
        lambda points, items: margin(linear.nominal(points[0]), labels[items]), (x,), (box,), deadline=0.0
    )
    assert torch.equal(found.points[0], x)


def test_a_targeted_attack_finds_what_the_margin_hides():
    """Class 1 is the nearest everywhere but never passes class 0; class 2 does, in one corner."""
    weight = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    network = linear_network(weight, torch.tensor([1.9, 1.85, 0.0]))
    x, labels, box = torch.zeros(1, 2), torch.tensor([0]), Interval.bounds(torch.zeros(1, 2), torch.ones(1, 2))
    worst = margin_attack.worst_points(Attack(restarts=1, steps=40), network.nominal, x, box, labels)
    assert margin(network.nominal(worst), labels) < 0


def test_falsified_means_that_onnx_runtime_agrees(linear, monkeypatch):
    def other(_):
        return lambda _: torch.tensor([1.0, 0.0])

    monkeypatch.setattr(Replay, "of", other)
    assert judged(linear, [[0.1, 0.9]], [0], 0.1).examples[0].verdict is Verdict.UNKNOWN
