"""Averages of weights, and the BatchNormalization statistics for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibpc.network import Network
from ibpc.training.averaging import Averaging, WeightAverage, population_statistics
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.runner import train
from tests.training import tiny
from tests.training.test_graphs import NORMALIZED


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def averaged(**options: object) -> float:
    """The mean over ten steps after which the weight is 1, 2, …, 10."""
    model = One()
    average = WeightAverage(Averaging(**options), model, total=10)
    for step in range(10):
        with torch.no_grad():
            model.weight.fill_(step + 1.0)
        average.update(step)
    average.apply()
    return model.weight.item()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "none"}, 10.0),
        ({"kind": "swa", "start": 0.5, "every": 1}, (6 + 7 + 8 + 9 + 10) / 5),
        ({"kind": "swa", "start": 0.5, "every": 2}, (7 + 9) / 2),
        ({"kind": "swa", "start": 0.0, "every": 20}, 10.0),
        ({"kind": "ema", "start": 0.7, "every": 1, "decay": 0.75}, (8 * 0.75 + 9 * 0.25) * 0.75 + 10 * 0.25),
    ],
)
def test_means_worked_by_hand(options, expected):
    assert averaged(**options) == pytest.approx(expected)


def first_layer(net: Network, x: torch.Tensor) -> torch.Tensor:
    state = net.snapshot().state
    return x.flatten(1) @ state["linear1.weight"].T + state["linear1.bias"]


def test_population_statistics_are_those_of_all_batches():
    net, x = tiny.network(NORMALIZED), torch.rand(24, 1, 4, 4)
    population_statistics(net, torch.split(x, 8))
    hidden = first_layer(net, x).double()
    parts = hidden.split(8)
    within = torch.stack([part.var(0) + part.mean(0) ** 2 for part in parts]).mean(0)
    state = net.snapshot().state
    torch.testing.assert_close(state["batchnorm1.running_mean"].double(), hidden.mean(0), rtol=1e-5, atol=1e-6)
    expected = within - hidden.mean(0) ** 2
    torch.testing.assert_close(state["batchnorm1.running_var"].double(), expected, rtol=1e-4, atol=1e-6)


def test_a_mean_of_weights_ends_the_run_with_its_own_statistics(tmp_path):
    """The saved network is the one validated last: mean weights with statistics of the training images under them."""
    recipe = tiny.recipe(averaging__kind="swa", averaging__start=0.5, averaging__every=1)
    net, data = tiny.network(NORMALIZED), tiny.blobs()
    run = train(net, recipe, data, tmp_path / "run")
    kept, held = data.hold_out(recipe.validation.images, recipe.validation.seed)
    hidden = first_layer(net, kept.images[:80])
    state = net.snapshot().state
    torch.testing.assert_close(state["batchnorm1.running_mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    assert TrainingGraphs(Network.load(tmp_path / "run")).accuracy(held, recipe.eps, batch=5) == run.validation


def test_population_statistics_without_a_mean(tmp_path):
    net, data = tiny.network(NORMALIZED), tiny.blobs()
    train(net, tiny.recipe(averaging__statistics="population"), data, tmp_path / "run")
    kept, _ = data.hold_out(12, 0)
    hidden = first_layer(net, kept.images[:80])
    mean = net.snapshot().state["batchnorm1.running_mean"]
    torch.testing.assert_close(mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
