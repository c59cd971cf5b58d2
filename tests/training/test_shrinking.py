"""Boxes that shrink at unstable rectifiers: worked by hand, used by training only, never reported as bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ibpc.data import Split
from ibpc.frontends.spec import graph_from_spec
from ibpc.interval import Interval, Paired
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods import Terms, methods
from ibpc.training.recipe import Recipe
from ibpc.training.schedules import Moment
from ibpc.training.shrinking import shrinking_rules, shrunk
from tests.training import tiny

EPS = 0.1


def bent() -> Network:
    """The logits are relu(pixel − 0.55): around (0.6, 0.4) the first neuron is unstable, the second dead."""
    layers = [
        {"type": "Linear", "out_features": 2, "name": "first"},
        {"type": "ReLU"},
        {"type": "Linear", "out_features": 2, "name": "second"},
    ]
    spec = {"ibpc": 1, "name": "two", "input": {"shape": [2]}, "classes": 2, "layers": layers}
    net = Network(graph_from_spec(spec, "two"))
    one, zero = torch.eye(2), torch.zeros(2)
    net.assign({"first.weight": one, "first.bias": zero - 0.55, "second.weight": one, "second.bias": zero})
    return net


X, LABEL = torch.tensor([[0.6, 0.4]]), torch.tensor([1])


def terms_of(method: str, **changes: Any) -> Terms:
    overrides = {"box.share": 1.0, "attack.restarts": 4, "attack.step": 1.0, "attack.decay": 1.0, "cut.layers": 1}
    named = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = Recipe.default(method, eps=EPS).with_overrides(tiny.read_by(method, overrides) | named)
    objective = methods()[method].build(TrainingGraphs(bent()), recipe)
    return objective(X, LABEL, Moment(0, EPS, 0.0, 0.0), Draws(torch.Generator().manual_seed(0)))


def cross_entropy(margin: float) -> float:
    return F.softplus(torch.tensor(-margin)).item()


def rules_and_call(share: float) -> tuple[Any, Call]:
    return shrinking_rules(share), Call({}, (), {}, ())


def test_only_what_straddles_zero_shrinks():
    """[−1, 2] → [0, 1], [1, 3] → [1, 3], [−2, −1] → [0, 0], [0, 4] → [0, 4]; the nominal value is unchanged."""
    rules, call = rules_and_call(0.5)
    box = Interval.bounds(torch.tensor([-1.0, 1, -2, 0]), torch.tensor([2.0, 3, -1, 4]))
    found = rules.paired(call, Paired.separate(torch.tensor([2.0, 3, -1, 4]), box))
    assert found.interval.lower.tolist() == [0, 1, 0, 0]
    assert found.interval.upper.tolist() == [1, 3, 0, 4]
    assert found.nominal.tolist() == [2, 3, 0, 4]


def test_gradients_of_shrunk_bounds_shrink_too():
    rules, call = rules_and_call(0.5)
    upper = torch.tensor([2.0, 3.0], requires_grad=True)
    rules.interval(call, Interval.bounds(torch.tensor([-1.0, 1.0]), upper)).upper.sum().backward()
    assert upper.grad is not None
    assert upper.grad.tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("method", "share", "expected"),
    [
        # the first logit is in [0, 0.15] over the ball, the second is 0: the margin of label 1 is at least −0.15
        ("sabr", 1.0, cross_entropy(-0.15)),
        ("sabr", 0.5, cross_entropy(-0.075)),
        # behind the cut before the ReLU nothing shrinks: the point that is found there keeps its margin
        ("taps", 1.0, cross_entropy(-0.15) ** 2),
        ("taps", 0.5, cross_entropy(-0.15) * cross_entropy(-0.075)),
        ("staps", 0.5, cross_entropy(-0.15) * cross_entropy(-0.075)),
    ],
)
def test_losses_worked_by_hand(method, share, expected):
    assert terms_of(method, box__shrinking=share).loss.item() == pytest.approx(expected, rel=1e-5)


def test_what_shrank_is_not_reported_as_a_bound():
    assert terms_of("taps").margins is not None
    assert terms_of("taps", box__shrinking=0.5).margins is None
    assert terms_of("taps", box__shrinking=0.5, schedule__eps_multiplier=2.0).margins is None  # ε still climbs


def test_held_out_images_are_judged_by_whole_boxes():
    """The label's logit is 0.1. Over the ball the other one reaches 0.15, shrunk 0.0015; at radius 0.02 it is 0.07."""
    net = bent()
    net.assign({"second.bias": torch.tensor([0.0, 0.1])})
    graphs = shrunk(TrainingGraphs(net), 0.01)
    margins = graphs.paired(X, graphs.ball(X, EPS), LABEL)[1]
    assert margins[0, 0].item() == pytest.approx(0.0985, rel=1e-3)
    assert graphs.accuracy(Split(X, LABEL), EPS, 1).certified == 0
    assert graphs.accuracy(Split(X, LABEL), 0.02, 1).certified == 1


def test_the_operator_itself_keeps_its_rules():
    before = operators()["Relu"].rules
    shrunk(TrainingGraphs(bent()), 0.5)
    assert operators()["Relu"].rules is before


def test_a_share_of_one_is_no_change():
    graphs = TrainingGraphs(bent())
    assert shrunk(graphs, 1.0) is graphs


def test_shipped_recipes_shrink_where_the_papers_do():
    shares = {
        (method, data): Recipe.default(method, eps=eps, dataset=data).box.shrinking
        for method in ("sabr", "taps", "staps", "ibp")
        for data, eps in (("mnist", 0.1), ("cifar10", 2 / 255))
    }
    assert {key for key, share in shares.items() if share == 0.8} == {
        (method, "cifar10") for method in ("sabr", "taps", "staps")
    }
    assert set(shares.values()) == {0.8, 1.0}
