"""The paired graph with merged margins, and its gradients, against hand-written references in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ibpc.data import Split
from ibpc.errors import TrainingError
from ibpc.network import Network
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods import Terms, methods
from ibpc.training.recipe import Recipe
from ibpc.training.schedules import Moment
from ibpc.training.shrinking import shrunk
from tests.training.tiny import PERCEPTRON, network

NORMALIZED = (
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 12},
    {"type": "BatchNorm1d"},
    {"type": "ReLU"},
    {"type": "Linear", "out_features": 3},
)
EPS = 0.07


def batch(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(count, 1, 4, 4, generator=generator), torch.arange(count) % 3


def terms_of(method: str, net: Network, x: torch.Tensor, y: torch.Tensor, kappa: float = 0.3) -> Terms:
    objective = methods()[method].build(TrainingGraphs(net), Recipe.default(method, eps=EPS))
    return objective(x, y, Moment(0, eps=EPS, kappa=kappa, learning_rate=0.0), Draws(torch.Generator()))


def leaves(net: Network) -> dict[str, torch.Tensor]:
    """Return the trainable values in float64, as leaves of a separate autograd graph."""
    return {name: value.detach().double().requires_grad_() for name, value in net.parameters.named_parameters()}


def reference_margins(
    w: torch.Tensor, b: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Lower bounds of z_y − z_j by (w_y − w_j) directly, sample by sample."""
    rows = w[y][:, None, :] - w[None, :, :]
    offsets = b[y][:, None] - b[None, :]
    worst = torch.where(rows > 0, lower[:, None, :], upper[:, None, :])
    return (rows * worst).sum(2) + offsets


def affine_bounds(
    w: torch.Tensor, b: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    positive, negative = w.clamp(min=0), w.clamp(max=0)
    return lower @ positive.T + upper @ negative.T + b, upper @ positive.T + lower @ negative.T + b


def reference(
    net: Network, values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and margins of a perceptron; a BatchNorm uses the nominal batch."""
    first, *_, last = (node.name for node in net.graph.order() if node.operator == "Gemm")
    norm = next((node.name for node in net.graph.order() if node.operator == "BatchNormalization"), None)
    flat = x.double().flatten(1)
    lower, upper = affine_bounds(
        values[f"{first}.weight"], values[f"{first}.bias"], (flat - eps).clamp(0, 1), (flat + eps).clamp(0, 1)
    )
    hidden = flat @ values[f"{first}.weight"].T + values[f"{first}.bias"]
    if norm:
        mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)
        scale = values[f"{norm}.weight"] / (variance + 1e-5).sqrt()
        shift = values[f"{norm}.bias"] - mean * scale
        hidden = hidden * scale + shift
        ends = lower * scale + shift, upper * scale + shift
        lower, upper = torch.minimum(*ends), torch.maximum(*ends)
    logits = hidden.relu() @ values[f"{last}.weight"].T + values[f"{last}.bias"]
    margins = reference_margins(values[f"{last}.weight"], values[f"{last}.bias"], lower.relu(), upper.relu(), y)
    return logits, margins


@pytest.mark.parametrize("layers", [PERCEPTRON, NORMALIZED], ids=["plain", "BatchNorm"])
@pytest.mark.parametrize("kappa", [0.3, 0.0])
def test_logits_margins_and_gradients_of_the_ibp_loss(layers, kappa):
    net = network(layers)
    if layers is NORMALIZED:
        net.assign({"batchnorm1.weight": torch.linspace(-1, 1, 12), "batchnorm1.bias": torch.linspace(0.2, -0.1, 12)})
    x, y = batch()
    values = leaves(net)
    terms = terms_of("ibp", net, x, y, kappa)
    logits, margins = reference(net, values, x, y, EPS)
    expected = kappa * F.cross_entropy(logits, y) + (1 - kappa) * F.cross_entropy(-margins, y)
    torch.testing.assert_close(terms.logits.double(), logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.margins.double(), margins, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.loss.double(), expected, rtol=1e-5, atol=1e-6)
    terms.loss.backward()
    expected.backward()
    for name, parameter in net.parameters.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), values[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_undescended_graphs_differ_in_the_gradient_of_their_logits_alone(share):
    found = []
    x, y = batch()
    for choose in (lambda graphs: graphs, lambda graphs: graphs.undescended):
        net = network()
        graphs = choose(shrunk(TrainingGraphs(net), share))
        logits, margins, boxes = graphs.observed(x, graphs.ball(x, EPS), y)
        (margins.square().sum() + sum(box.width.square().sum() for box in boxes)).backward()
        found.append((logits, margins, *(parameter.grad for parameter in net.parameters.parameters())))
    assert [logits.requires_grad for logits, *_ in found] == [True, False]
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-6)


def test_boxes_that_hang_on_the_nominal_batch_are_not_computed_apart_from_it():
    graphs = TrainingGraphs(network(NORMALIZED))
    assert graphs.undescended is graphs


def test_standard_descends_the_nominal_loss_alone():
    net = network()
    x, y = batch()
    values = leaves(net)
    terms = terms_of("standard", net, x, y)
    logits, _ = reference(net, values, x, y, EPS)
    assert terms.margins is None
    torch.testing.assert_close(terms.loss.double(), F.cross_entropy(logits, y), rtol=1e-5, atol=1e-6)


def test_running_statistics_move_once_a_step():
    net = network(NORMALIZED)
    x, y = batch()
    hidden = F.linear(
        x.flatten(1), *(net.parameters.get_submodule("linear1").get_parameter(role) for role in ("weight", "bias"))
    )
    TrainingGraphs(net).paired(x, TrainingGraphs(net).ball(x, EPS), y)
    state = net.snapshot().state
    torch.testing.assert_close(state["batchnorm1.running_mean"], 0.1 * hidden.mean(0).detach())
    torch.testing.assert_close(state["batchnorm1.running_var"], 0.9 + 0.1 * hidden.var(0).detach())


def test_merging_margins_leaves_the_networks_own_parameters_alone():
    net = network()
    before = [name for name, _ in net.parameters.named_parameters()], list(net.parameters.state_dict())
    graphs = TrainingGraphs(net)
    x, y = batch()
    graphs.paired(x, graphs.ball(x, EPS), y)
    assert ([name for name, _ in net.parameters.named_parameters()], list(net.parameters.state_dict())) == before
    assert net.graph.outputs == ("linear2",)


def test_margins_follow_the_weights_as_they_move():
    net = network()
    graphs = TrainingGraphs(net)
    x, y = batch()
    graphs.paired(x, graphs.ball(x, EPS), y)
    with torch.no_grad():
        for parameter in net.parameters.parameters():
            parameter.mul_(1.5)
    _, margins = graphs.paired(x, graphs.ball(x, EPS), y)
    _, expected = reference(net, leaves(net), x, y, EPS)
    torch.testing.assert_close(margins.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_node_called_margins_is_no_obstacle():
    net = network((*PERCEPTRON[:3], {"type": "Linear", "out_features": 3, "name": "margins"}))
    x, y = batch()
    graphs = TrainingGraphs(net)
    _, margins = graphs.paired(x, graphs.ball(x, EPS), y)
    _, expected = reference(net, leaves(net), x, y, EPS)
    torch.testing.assert_close(margins.double(), expected, rtol=1e-5, atol=1e-6)


def test_accuracy_counts_what_the_reference_proves():
    net = network()
    x, y = batch(50)
    values = leaves(net)
    shares = set()
    for eps in (0.0, 0.05, 0.2):
        logits, margins = reference(net, values, x, y, eps)
        found = TrainingGraphs(net).accuracy(Split((x * 1.0), y), eps, batch=16)
        assert found.images == 50
        assert found.nominal == pytest.approx((logits.argmax(1) == y).double().mean().item())
        proved = (margins.scatter(1, y[:, None], 1.0) > 0).all(1)
        assert found.certified == pytest.approx(proved.double().mean().item())
        shares.add(found.certified)
    assert len(shares) == 3


def test_accuracy_uses_running_statistics_and_leaves_them_alone():
    net = network(NORMALIZED)
    x, y = batch()
    before = net.snapshot().state
    TrainingGraphs(net).accuracy(Split(x, y), EPS, batch=4)
    assert all(torch.equal(value, before[key]) for key, value in net.snapshot().state.items())


def test_one_step_runs_without_looking_at_a_value():
    """On the meta device there are no values: any wait for one raises."""
    net = network(NORMALIZED).to("meta")
    x, y = torch.empty(8, 1, 4, 4, device="meta"), torch.empty(8, dtype=torch.int64, device="meta")
    terms = terms_of("ibp", net, x, y)
    torch.autograd.backward(terms.loss)
    assert terms.margins.shape == (8, 3)
    with pytest.raises(RuntimeError, match="meta"):
        terms.loss.item()


def test_a_network_with_two_outputs_is_refused():
    net = network()
    net.graph.outputs = ("linear1", "linear2")
    with pytest.raises(TrainingError, match="1 inputs and 2 outputs"):
        TrainingGraphs(net)
