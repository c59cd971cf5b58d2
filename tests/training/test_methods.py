"""Training methods: losses worked by hand; each method learns, resumes exactly, and never waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, expm1, log
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ibpc.data import Dataset, load_dataset
from ibpc.errors import TrainingError
from ibpc.frontends.spec import graph_from_spec
from ibpc.frontends.strict_json import read_json
from ibpc.network import Network
from ibpc.training.draws import Draws
from ibpc.training.evaluating import evaluating
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.latent import CutGraphs
from ibpc.training.methods import Terms, cc_ibp, convex_polygon, exp_ibp, methods, mtl_ibp, taps
from ibpc.training.recipe import Recipe
from ibpc.training.runner import train
from ibpc.training.schedules import Moment
from tests import ROOT
from tests.training import tiny
from tests.training.test_graphs import NORMALIZED, batch, leaves, reference
from tests.training.test_runner import EVERYTHING, Stops, equal, state_of

EPS = 0.05
BOUNDED = ("ibp", "fast-ibp", "crown-ibp", "convex-polygon", "mtl-ibp", "cc-ibp", "exp-ibp", "taps")
RESIDUAL: dict[str, Any] = {
    "nodes": {
        "conv": {"type": "Conv2d", "inputs": ["input"], "out_channels": 4, "kernel_size": 3, "padding": 1},
        "norm": {"type": "BatchNorm2d", "inputs": ["conv"]},
        "relu": {"type": "ReLU", "inputs": ["norm"]},
        "inner": {"type": "Conv2d", "inputs": ["relu"], "out_channels": 4, "kernel_size": 3, "padding": 1},
        "bent": {"type": "ReLU", "inputs": ["inner"]},
        "add": {"type": "Add", "inputs": ["bent", "relu"]},
        "last": {"type": "ReLU", "inputs": ["add"]},
        "flat": {"type": "Flatten", "inputs": ["last"]},
        "logits": {"type": "Linear", "inputs": ["flat"], "out_features": 3},
    },
    "output": "logits",
}


def residual() -> Network:
    spec = {"ibpc": 1, "name": "residual", "input": {"shape": [1, 4, 4]}, "classes": 3, "graph": RESIDUAL}
    return Network(graph_from_spec(spec, "residual", seed=1))


NETWORKS: dict[str, Callable[[], Network]] = {
    "plain": tiny.network,
    "BatchNorm": lambda: tiny.network(NORMALIZED),
    "everything": lambda: tiny.network(EVERYTHING),
    "residual": residual,
}


def recipe_of(method: str, **changes: Any) -> Recipe:
    base = {"schedule.ramp": 0.5, "attack.steps": 3, "attack.step": 0.5, "averaging.every": 2}
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return Recipe.default(method, eps=EPS).with_overrides(tiny.read_by(method, base | named))


def terms_of(net: Network, recipe: Recipe, eps: float = EPS, kappa: float = 0.0, seed: int = 0) -> Terms:
    x, y = batch()
    draws = Draws(torch.Generator().manual_seed(seed))
    return methods()[recipe.method].build(TrainingGraphs(net), recipe)(x, y, Moment(0, eps, kappa, 0.0), draws)


def is_random(method: str) -> bool:
    """Whether a step of the method draws random numbers."""
    generator = torch.Generator()
    before = generator.get_state()
    x, y = batch()
    objective = methods()[method].build(TrainingGraphs(tiny.network()), recipe_of(method, attack__steps=1))
    objective(x, y, Moment(0, EPS, 0.0, 0.0), Draws(generator))
    return not torch.equal(before, generator.get_state())


RANDOM = [method for method in sorted(methods()) if is_random(method)]


# ── loss terms worked by hand ───────────────────────────────────────────────────────────────────────────────────
LABELS = torch.tensor([0, 2])


def test_mtl_ibp_is_the_weighted_sum_of_two_losses():
    attacked, margins = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, -2.0, 3.0]])
    adversarial, certain = log(1 + exp(1) + exp(2)), log(1 + exp(2) + exp(-3))
    assert mtl_ibp.join(attacked, margins, LABELS[:1], 0.25).item() == pytest.approx(
        0.75 * adversarial + 0.25 * certain
    )


def test_cc_ibp_is_taken_at_the_mean_of_the_margins():
    """The logits' own margins are 0, 2 and 4; their means with the bounds 0, −2 and 0 are 0, 1 and 3."""
    attacked, margins = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([[0.0, -2.0, 0.0]])
    assert cc_ibp.join(attacked, margins, LABELS[:1], 0.25).item() == pytest.approx(log(1 + exp(-1) + exp(-3)))


def losses_of_two_classes(adversarial: float, certified: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and margins of label 0 with these losses: a margin of −log(eᴸ − 1) has the loss L."""
    rows = [[0.0, log(expm1(adversarial))], [0.0, -log(expm1(certified))]]
    logits, margins = (torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in rows)
    return logits, margins


def test_exp_ibp_is_the_product_of_powers_and_so_is_its_gradient():
    """A loss L = log(1 + exp(z)) has the slope 1 − exp(−L) in z."""
    attacked, margins = losses_of_two_classes(4.0, 9.0)
    loss = exp_ibp.join(attacked, margins, LABELS[:1], 0.5)
    assert loss.item() == pytest.approx(6.0)
    loss.backward()
    assert attacked.grad[0, 1].item() == pytest.approx(0.5 * 6 / 4 * (1 - exp(-4)))
    assert margins.grad[0, 1].item() == pytest.approx(-0.5 * 6 / 9 * (1 - exp(-9)))


def test_exp_ibp_has_a_finite_gradient_where_a_loss_vanishes():
    attacked = torch.tensor([[200.0, 0.0]], requires_grad=True)
    margins = torch.tensor([[0.0, 1.0]], requires_grad=True)
    exp_ibp.join(attacked, margins, LABELS[:1], 0.5).backward()
    assert attacked.grad.tolist() == [[0.0, 0.0]]
    assert margins.grad.isfinite().all()


def test_the_product_of_taps_scales_one_gradient_alone():
    estimated, bound = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    loss = taps.product(estimated, bound, 4.0)
    loss.backward()
    assert (loss.item(), estimated.grad.item(), bound.grad.item()) == (15.0, 20.0, 3.0)


def test_polygon_loss_is_the_mean_over_the_other_classes():
    margins = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]], requires_grad=True)
    loss = convex_polygon.polygon_loss(margins, LABELS)
    expected = sum(log(1 + exp(-margin)) for margin in (1, -2, 3, 0.5)) / 4
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    slopes = [[0.0, -1 / (1 + exp(1)), -1 / (1 + exp(-2))], [-1 / (1 + exp(3)), -1 / (1 + exp(0.5)), 0.0]]
    torch.testing.assert_close(margins.grad, torch.tensor(slopes) / 4)


# ── a network worked by hand ────────────────────────────────────────────────────────────────────────────────────
def two_pixels() -> Network:
    """A network whose two logits are its two pixels; its ReLU is always active."""
    layers = [
        {"type": "Linear", "out_features": 2, "name": "first"},
        {"type": "ReLU"},
        {"type": "Linear", "out_features": 2, "name": "second"},
    ]
    spec = {"ibpc": 1, "name": "two", "input": {"shape": [2]}, "classes": 2, "layers": layers}
    net = Network(graph_from_spec(spec, "two"))
    one, zero = torch.eye(2), torch.zeros(2)
    net.assign({"first.weight": one, "first.bias": zero, "second.weight": one, "second.bias": zero})
    return net


def loss_of(method: str, **changes: Any) -> float:
    """The loss at x = (0.6, 0.4), label 0, ε = 0.1, where each method's adversarial point is (0.5, 0.5)."""
    recipe = Recipe.default(method, eps=0.1).with_overrides(
        tiny.read_by(method, {"attack.steps": 4, "attack.step": 1.0, "attack.decay": 1.0})
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    objective = methods()[method].build(TrainingGraphs(two_pixels()), recipe)
    x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    moment = Moment(0, eps=0.1, kappa=recipe.schedule.kappa_end, learning_rate=0.0)
    return objective(x, y, moment, Draws(torch.Generator().manual_seed(0))).loss.item()


def cross_entropy(margin: float) -> float:
    return F.softplus(torch.tensor(-margin, dtype=torch.float64)).item()


CLEAN, WORST = cross_entropy(0.2), cross_entropy(0.0)


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("standard", {}, CLEAN),
        ("ibp", {"schedule__kappa_end": 0.25}, 0.25 * CLEAN + 0.75 * WORST),
        ("fast-ibp", {}, WORST),
        ("convex-polygon", {}, WORST),
        ("crown-ibp", {"linear__beta_end": 1.0, "linear__rows": "margins"}, 0.5 * CLEAN + 0.5 * WORST),
        ("crown-ibp", {"linear__beta_end": 1.0}, 0.5 * CLEAN + 0.5 * WORST),
        ("pgd", {}, WORST),
        ("pgd", {"attack__eps_factor": 2.0}, cross_entropy(-0.2)),
        # the box of radius 0.04 inside the ball next to (0.5, 0.5) is around (0.54, 0.46): its worst point is that one
        ("sabr", {"box__share": 0.4}, WORST),
        ("sabr", {"box__share": 0.0}, WORST),
        ("mtl-ibp", {"attack__eps_factor": 2.0, "combination__alpha": 0.25}, 0.75 * cross_entropy(-0.2) + 0.25 * WORST),
        ("cc-ibp", {"attack__eps_factor": 2.0, "combination__alpha": 0.25}, cross_entropy(-0.15)),
        (
            "exp-ibp",
            {"attack__eps_factor": 2.0, "combination__alpha": 0.25},
            cross_entropy(-0.2) ** 0.75 * WORST**0.25,
        ),
        ("taps", {}, WORST**2),
        ("staps", {}, WORST**2),
    ],
)
def test_the_loss_worked_by_hand(method, changes, expected):
    assert loss_of(method, **changes) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", sorted(methods()))
def test_at_radius_0_every_method_sees_the_clean_point_alone(method):
    net = tiny.network()
    terms = terms_of(net, recipe_of(method, regularization__tightness=0, regularization__balance=0), eps=0.0)
    logits, _ = reference(net, leaves(net), *batch(), 0.0)
    expected = F.cross_entropy(logits, batch()[1]).item()
    if method == "convex-polygon":
        others = (logits - logits.gather(1, batch()[1][:, None])).scatter(1, batch()[1][:, None], -torch.inf)
        expected = F.softplus(others).sum().item() / 18
    assert terms.loss.item() == pytest.approx(expected, rel=1e-5)


# ── what holds for every method on every network ────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", sorted(methods()))
def test_gradients_reach_every_parameter(method, name):
    net = NETWORKS[name]()
    terms = terms_of(net, recipe_of(method), kappa=0.5)
    torch.autograd.backward(terms.loss)
    for parameter in net.parameters.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert any((parameter.grad != 0).any() for parameter in net.parameters.parameters())
    assert (terms.margins is not None) == (method in BOUNDED)


@pytest.mark.parametrize("method", sorted(methods()))
def test_running_statistics_move_by_the_clean_batch_and_once(method):
    net, other = tiny.network(NORMALIZED), tiny.network(NORMALIZED)
    terms_of(net, recipe_of(method, regularization__tightness=0.5))
    TrainingGraphs(other).nominal(batch()[0])
    for role in ("running_mean", "running_var"):
        moved, expected = (net.snapshot().state[f"batchnorm1.{role}"] for net in (net, other))
        torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("method", sorted(methods()))
def test_all_randomness_comes_from_the_generator(method):
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(losses))
        changes = {"attack__steps": 1, "attack__step": 0.1, "box__share": 0.1}
        losses.append(terms_of(tiny.network(), recipe_of(method, **changes), seed=seed).loss.item())
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == (method in RANDOM)


class Waits(TorchDispatchMode):
    """Fails if the host would wait for a value from the device."""

    NAMES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(func.name().split("::")[1].split(".")[0] == name for name in self.NAMES), func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", sorted(methods()))
def test_no_step_waits_for_the_device(method):
    net = tiny.network(NORMALIZED)
    recipe = recipe_of(method)
    with Waits():
        terms = terms_of(net, recipe, eps=EPS)
        torch.autograd.backward(terms.loss)
        terms_of(net, recipe, eps=EPS / 2)
    with Waits(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        terms.loss.item()


# ── single methods ──────────────────────────────────────────────────────────────────────────────────────────────
def test_an_attack_beats_the_clean_point_and_stays_in_the_ball():
    net = residual()
    x, y = batch()
    graphs = TrainingGraphs(net)
    before = net.snapshot().state
    recipe = recipe_of("pgd", attack__restarts=2)
    points = graphs.adversarial(x, y, EPS, recipe.attack, Draws(torch.Generator()))
    ball = graphs.ball(x, EPS)
    assert ball.contains(points).all()
    with evaluating(net.parameters):
        losses = [F.cross_entropy(net.nominal(value), y, reduction="none") for value in (x, points)]
    assert (losses[1] > losses[0]).all()
    assert equal(before, net.snapshot().state)
    assert net.parameters.training


def test_sabr_with_the_whole_box_is_ibp():
    sabr = terms_of(tiny.network(), recipe_of("sabr", box__share=1.0))
    ibp = terms_of(tiny.network(), recipe_of("fast-ibp"))
    assert sabr.loss.item() == pytest.approx(ibp.loss.item(), rel=1e-5)


@pytest.mark.parametrize(("alpha", "part"), [(0.0, "adversarial_loss"), (1.0, "robust_loss")])
@pytest.mark.parametrize("method", ["mtl-ibp", "cc-ibp", "exp-ibp"])
def test_the_ends_of_a_combination(method, alpha, part):
    terms = terms_of(tiny.network(), recipe_of(method, combination__alpha=alpha))
    assert terms.loss.item() == pytest.approx(terms.parts[part].item(), rel=1e-5)


def test_fast_ibp_is_ibp_with_regularizers_that_fade():
    losses = {
        (method, eps): terms_of(tiny.network(), recipe_of(method, schedule__kappa_end=0), eps=eps)
        for method in ("ibp", "fast-ibp")
        for eps in (EPS / 2, EPS)
    }
    assert losses["fast-ibp", EPS].loss.item() == pytest.approx(losses["ibp", EPS].loss.item())
    half = losses["fast-ibp", EPS / 2]
    assert half.parts["warm_up_loss"] > 0
    expected = losses["ibp", EPS / 2].loss + half.parts["warm_up_loss"]
    assert half.loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("layers", "name"), [(1, "add"), (2, "relu"), (3, "input"), (9, "input")])
def test_where_a_residual_network_is_cut(layers, name):
    """Never inside the residual block, which two paths lead through."""
    assert CutGraphs(TrainingGraphs(residual()), recipe_of("taps", cut__layers=layers).cut).name == name


@pytest.mark.parametrize("name", ["plain", "BatchNorm", "residual"])
@pytest.mark.parametrize("layers", [1, 2])
def test_estimated_margins_lie_between_the_certain_and_the_clean_ones(name, layers):
    net = NETWORKS[name]()
    graphs = TrainingGraphs(net)
    x, y = batch()
    recipe = recipe_of("taps", cut__layers=layers, attack__steps=8, attack__restarts=2)
    for _ in range(40):
        graphs.nominal(x)
    halves = CutGraphs(graphs, recipe.cut)
    before = net.snapshot().state
    front = halves.front(x, graphs.ball(x, EPS), y)
    after = net.snapshot().state
    margins = halves.estimate(front, y, recipe.attack, Draws(torch.Generator()))
    clean = front.logits.gather(1, y[:, None]) - front.logits
    assert (margins >= front.margins - 1e-5).all()
    assert (margins <= clean + 1e-5).all()
    assert (margins.gather(1, y[:, None]) == 0).all()
    assert equal(after, net.snapshot().state)
    logits, expected = graphs.paired(x, graphs.ball(x, EPS), y)
    torch.testing.assert_close(front.margins, expected)
    torch.testing.assert_close(front.logits, logits)
    assert equal(before, after) == (name == "plain")


def test_taps_without_a_box_has_the_gradient_of_the_squared_loss():
    """At radius 0 both factors are the clean loss L: the gradient is (w + 1) L ∇L."""
    net = tiny.network()
    recipe = recipe_of("taps", cut__gradient_scale=3.0, eps=0.0)
    torch.autograd.backward(terms_of(net, recipe, eps=0.0).loss)
    values = leaves(net)
    logits, _ = reference(net, values, *batch(), 0.0)
    loss = F.cross_entropy(logits, batch()[1])
    loss.backward()
    for name, parameter in net.parameters.named_parameters():
        expected = 4.0 * loss.detach() * values[name].grad
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-3, atol=1e-5, msg=name)


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────
DIGITS = ROOT / "specs" / "digits_small.json"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.mark.parametrize("method", sorted(set(methods()) - {"standard", "ibp"}))
def test_a_short_training_makes_digits_robust(tmp_path, digits, method):
    """Certified accuracy for methods with a robust loss, else attacked accuracy: both begin near 0."""
    net = Network(graph_from_spec(read_json(DIGITS), "digits"))
    changes = {
        "epochs": 4,
        "attack.steps": 2,
        "attack.step": 1.0,
        "box.share": 0.8,
        "combination.alpha": 0.5,
        "schedule.warmup": 0,
        "schedule.ramp": 0.5,
        "schedule.eps_multiplier": 1.0,
        "schedule.kappa_end": 0.0,
        "optimizer.learning_rate": 3e-3,
        "validation.every": 9,
    }
    recipe = Recipe.default(method, 0.03, "digits").with_overrides(tiny.read_by(method, changes))
    graphs = TrainingGraphs(net)
    before = attacked(graphs, digits, recipe)
    run = train(net, recipe, digits, tmp_path / "run")
    assert run.validation is not None
    if "robust_loss" in run.records[-1].losses:
        assert run.validation.certified > 0.3
    else:
        assert attacked(graphs, digits, recipe) > before + 0.5


def attacked(graphs: TrainingGraphs, data: Dataset, recipe: Recipe) -> float:
    x, y = data.test.images[:200].float(), data.test.labels[:200]
    x = x / 255 if x.max() > 1 else x
    points = graphs.adversarial(x, y, recipe.eps, recipe.attack, Draws(torch.Generator()))
    with evaluating(graphs.network.parameters):
        return (graphs.network.nominal(points).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize(("method", "kind"), [("pgd", "ema"), *((method, "swa") for method in RANDOM)])
def test_a_stopped_run_ends_with_the_very_same_weights(tmp_path, method, kind):
    changes = {"averaging.kind": kind, "averaging.start": 0.3, "averaging.every": 2, "attack.steps": 2, "epochs": 3}
    base = tiny.recipe(augmentation="crop-flip").to_json()
    recipe = Recipe.from_json({**base, "method": method}).with_overrides(tiny.read_by(method, changes))
    whole = train(tiny.network(EVERYTHING), recipe, tiny.blobs(), tmp_path / "whole", seed=7)
    with pytest.raises(TrainingError, match="interrupted"):
        train(tiny.network(EVERYTHING), recipe, tiny.blobs(), tmp_path / "parts", seed=7, reporter=Stops(12))
    resumed = train(tiny.network(EVERYTHING), recipe, tiny.blobs(), tmp_path / "parts", seed=7, resume=True)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert whole.validation == resumed.validation
    again = train(tiny.network(EVERYTHING), recipe, tiny.blobs(), tmp_path / "parts", seed=7, resume=True)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert again.validation == whole.validation


def test_fast_ibp_says_where_batch_normalization_is_missing():
    bare = tiny.network().graph
    assert methods()["fast-ibp"].advice(bare) == (
        "Shi et al. have a BatchNormalization in front of every rectifier; here there is none behind linear1",
    )
    layers = ({"type": "Conv2d", "out_channels": 2, "kernel_size": 3}, {"type": "BatchNorm2d"}, {"type": "ReLU"})
    whole = tiny.network((*layers, {"type": "Flatten"}, {"type": "Linear", "out_features": 3})).graph
    assert methods()["fast-ibp"].advice(whole) == ()
    assert all(method.advice(bare) == () for name, method in methods().items() if name != "fast-ibp")
