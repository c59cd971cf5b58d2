"""Linear bounds in training: worked by hand, against certification and samples, and their gradients."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.frontends.spec import graph_from_spec
from ibpc.interval import Interval
from ibpc.margins import margins_of
from ibpc.network import Network
from ibpc.rounding import Arithmetic
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.linear import LOSS, MARGINS, LinearGraphs, fused_losses, margin_bounds
from ibpc.training.methods import crown_ibp, methods
from ibpc.training.schedules import Moment
from tests.training import tiny
from tests.training.test_graphs import batch
from tests.training.test_methods import EPS, NETWORKS, recipe_of, terms_of

ROWS = [LOSS, MARGINS]
GRADES = (0.25, 0.5, 1.0)


def bent() -> Network:
    """Margin z₀ − z₁ = relu(x) − relu(x + 2) / 2 + 1, which is relu(x) − x / 2 for x ≥ −2."""
    layers = [
        {"type": "Linear", "out_features": 2, "name": "first"},
        {"type": "ReLU"},
        {"type": "Linear", "out_features": 2, "name": "second"},
    ]
    spec = {"ibpc": 1, "name": "bent", "input": {"shape": [1]}, "classes": 2, "layers": layers}
    net = Network(graph_from_spec(spec, "bent"))
    weights = {"first.weight": [[1.0], [1.0]], "first.bias": [0.0, 2.0]}
    weights |= {"second.weight": [[1.0, 0.0], [0.0, 0.5]], "second.bias": [1.0, 0.0]}
    net.assign({name: torch.tensor(value) for name, value in weights.items()})
    return net


def bounded(net: Network, x: torch.Tensor, box: Interval, y: torch.Tensor):
    """Return the graphs, the propagated boxes, and the interval margins."""
    graphs = TrainingGraphs(net)
    found = LinearGraphs(graphs)(x, box)
    certain = margins_of(found.differences.lower, found.differences.upper, y, graphs.index)
    return graphs, found, certain


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────────────────────
def by_hand():
    x, y = torch.tensor([[0.25]]), torch.tensor([0])
    return (*bounded(bent(), x, Interval.bounds(torch.tensor([[-0.5]]), torch.tensor([[1.0]])), y), y)


def test_a_margin_worked_by_hand():
    """Over [−1/2, 1] relu(x) ≥ x, so the margin is at least x / 2 ≥ −1/4; intervals say 0 − 3/2 + 1."""
    _, found, certain, y = by_hand()
    assert certain[0].tolist() == pytest.approx([0.0, -0.5])
    assert margin_bounds(found, y)[0].tolist() == pytest.approx([0.0, -0.25])


def test_a_fused_loss_worked_by_hand():
    """The margin lies in [−1/2, 5/4]: exp(−m) is at most the chord, which is greatest at m = −1/4."""
    graphs, found, _, y = by_hand()
    slope = (exp(0.5) - exp(-1.25)) / 1.75
    linear, interval = exp(0.5) - slope * 0.25, exp(0.5)
    for beta in (0.0, 0.25, 1.0):
        expected = log(1 + beta * linear + (1 - beta) * interval)
        assert fused_losses(found, y, graphs.index, beta).tolist() == pytest.approx([expected])


def test_beta_falls_as_eps_climbs():
    recipe = recipe_of("crown-ibp", linear__beta_start=0.8, linear__beta_end=0.2)
    betas = [crown_ibp.weight(recipe, Moment(0, eps, 0.0, 0.0)) for eps in (0.0, EPS / 2, EPS)]
    assert betas == pytest.approx([0.8, 0.5, 0.2])


# ── against certification, samples and each other ───────────────────────────────────────────────────────────────
def test_margins_are_those_of_certification():
    net = tiny.network()
    x, y = batch()
    graphs = TrainingGraphs(net)
    box = graphs.ball(x, EPS)
    found = LinearGraphs(graphs)(x, box)
    rows = torch.eye(3)[y][:, None, :] - torch.eye(3)[None]
    for sample in range(len(x)):
        bound = METHODS["crown-ibp"].bounder(walk_of(net.snapshot()), rows[sample], Arithmetic.REAL)
        part = Interval.bounds(box.lower[sample : sample + 1], box.upper[sample : sample + 1])
        intervals = METHODS["ibp"].bounder(walk_of(net.snapshot()), rows[sample], Arithmetic.REAL)(part)
        mixed = torch.maximum(margin_bounds(found, y)[sample].double(), intervals.lower[0].double())
        torch.testing.assert_close(mixed, bound(part).lower[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", GRADES)
def test_bounds_hold_at_samples_of_the_training_network(name, share):
    """Points get the same batch statistics and dropout as the boxes, through a paired graph over point boxes."""
    net = NETWORKS[name]()
    x, y = batch()
    graphs = TrainingGraphs(net)
    box = graphs.ball(x, share * EPS)
    linear = LinearGraphs(graphs)
    torch.manual_seed(5)
    found = untouched_call(linear, x, box)
    margins = margin_bounds(found, y)
    losses = fused_losses(found, y, graphs.index, 1.0)
    generator = torch.Generator().manual_seed(2)
    for trial in range(30):
        noise = torch.rand(x.shape, generator=generator)
        point = box.lower + (noise.round() if trial % 2 else noise) * (box.upper - box.lower)
        torch.manual_seed(5)
        at = untouched_call(linear, x, Interval.bounds(point, point)).differences
        reached = margins_of(at.lower, at.upper, y, graphs.index)
        assert (reached >= margins - 1e-5).all()
        assert (torch.logsumexp(-reached, 1) <= losses + 1e-5).all()


def untouched_call(linear: LinearGraphs, x: torch.Tensor, box: Interval):
    """Propagate in training mode, then restore running statistics and the state of spectral norms."""
    tree = linear._graphs.tree
    before = {name: buffer.clone() for name, buffer in tree.named_buffers()}
    found = linear(x, box)
    with torch.no_grad():
        for name, buffer in tree.named_buffers():
            buffer.copy_(before[name])
    return found


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_is_never_above_that_of_intervals_nor_below_the_clean_one(name, rows):
    """It also falls as β climbs."""
    losses = []
    for beta in (0.0, 0.5, 1.0):
        torch.manual_seed(5)
        recipe = recipe_of("crown-ibp", linear__rows=rows, linear__beta_start=beta, linear__beta_end=beta)
        terms = terms_of(NETWORKS[name](), recipe, kappa=0.0, eps=EPS / 2)
        losses.append(terms.parts["robust_loss"].item())
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] > terms.parts["nominal_loss"].item()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["plain", "BatchNorm", "residual"])
def test_gradients_are_those_of_differences(name, rows):
    """Along a random direction of all weights, in binary64."""
    net = NETWORKS[name]()
    net.parameters.double()
    x, y = batch()
    graphs = TrainingGraphs(net)
    graphs.tree.double()
    recipe = recipe_of("crown-ibp", linear__rows=rows, linear__beta_end=0.7)
    objective = methods()["crown-ibp"].build(graphs, recipe)
    parameters = list(net.parameters.parameters())
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def loss(step: float) -> torch.Tensor:
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.add_(part, alpha=step)
        draws = Draws(torch.Generator())
        return objective(x.double(), y, Moment(0, EPS, 0.3, 0.0), draws).loss

    torch.autograd.backward(loss(0.0))
    slope = sum((p.grad * part).sum() for p, part in zip(parameters, direction, strict=True))
    difference = (loss(1e-6) - loss(-2e-6)) / 2e-6
    torch.testing.assert_close(slope, difference.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("eps", [1e-6, 1.0])
def test_gradients_are_finite_at_narrow_and_at_wide_boxes(rows, eps):
    """With every neuron at its kink, and with margins whose exponentials overflow."""
    net = tiny.network()
    net.assign({"linear1.bias": torch.zeros(12)})
    if eps == 1.0:
        net.assign({"linear2.weight": 100 * net.snapshot().state["linear2.weight"]})
    terms = terms_of(net, recipe_of("crown-ibp", linear__rows=rows, linear__beta_end=1.0), eps=eps)
    torch.autograd.backward(terms.loss)
    assert terms.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters.parameters())


def test_a_norm_of_weights_moves_on_once_a_step():
    """Weights under a constraint are computed once for both passes."""
    states = []
    for method in ("ibp", "crown-ibp"):
        torch.manual_seed(3)
        net = NETWORKS["everything"]()
        terms_of(net, recipe_of(method), eps=EPS / 2)
        states.append([buffer.clone() for _, buffer in sorted(net.parameters.named_buffers())])
    for first, second in zip(*states, strict=True):
        torch.testing.assert_close(first, second)


def test_without_linear_bounds_it_is_ibp():
    losses = [terms_of(tiny.network(), recipe_of(method), kappa=0.4).loss for method in ("ibp", "crown-ibp")]
    assert torch.equal(*losses)


def test_the_regularizers_of_the_warm_up_join_it():
    on = {"regularization__tightness": 0.5, "regularization__balance": 0.5}
    recipes = [recipe_of("crown-ibp", **changes) for changes in ({}, on)]
    terms = [terms_of(tiny.network(), recipe, eps=EPS / 2) for recipe in recipes]
    expected = terms_of(tiny.network(), recipe_of("ibp", **on), eps=EPS / 2).parts["warm_up_loss"]
    assert (terms[1].loss - terms[0].loss).item() == pytest.approx(expected.item(), rel=1e-5)
