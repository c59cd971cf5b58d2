"""Constraints hold in every graph while weights are trained, and baking keeps the weights that were used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parametrize

from ibpc.errors import TrainingError
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.training.constraints import CONSTRAINTS, bake, constrain
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.objectives import nominal_loss
from tests.training.tiny import network


def restrained(**extra: str) -> Network:
    layers = (
        {"type": "Conv2d", "out_channels": 4, "kernel_size": 3, **extra},
        {"type": "ReLU"},
        {"type": "Flatten"},
        {"type": "Linear", "out_features": 3, **extra},
    )
    return network(layers)


def weights(net: Network) -> dict[str, torch.Tensor]:
    return {key: value for key, value in net.snapshot().state.items() if key.endswith("weight")}


def step(net: Network, times: int = 1) -> None:
    net.parameters.train()
    optimizer = torch.optim.SGD(net.parameters.parameters(), lr=0.05)
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(times):
        optimizer.zero_grad()
        nominal_loss(net.nominal_training(x), torch.arange(8) % 3).backward()
        optimizer.step()
    net.parameters.eval()


def test_nonnegative_weights_stay_so_although_what_is_trained_does_not():
    net = restrained(constraint="nonnegative")
    before = weights(net)
    constrain(net)
    assert all(torch.equal(value, before[key]) for key, value in weights(net).items())
    with torch.no_grad():
        for parameter in net.parameters.parameters():
            parameter.sub_(0.1)
    step(net)
    assert any((parameter < 0).any() for parameter in net.parameters.parameters())
    assert all((value >= 0).all() for value in weights(net).values())
    assert any(not torch.equal(value, before[key]) for key, value in weights(net).items())


def test_spectral_weights_have_norm_one():
    net = restrained(norm="spectral")
    constrain(net)
    step(net, times=60)
    for value in weights(net).values():
        assert torch.linalg.matrix_norm(value.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)


def test_spectral_norm_of_a_transposed_convolution_takes_its_outputs():
    layers = (
        {"type": "ConvTranspose2d", "out_channels": 5, "kernel_size": 2, "norm": "spectral"},
        {"type": "Flatten"},
        {"type": "Linear", "out_features": 3},
    )
    net = network(layers, (2, 3, 3))
    constrain(net)
    net.parameters.train()
    for _ in range(60):
        net.nominal_training(torch.rand(2, 2, 3, 3))
    net.parameters.eval()
    (weight,) = (value for value in weights(net).values() if value.dim() == 4)
    matrix = weight.transpose(0, 1).flatten(1)
    assert matrix.shape == (5, 8)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1.0, abs=1e-4)


def test_both_constraints_at_once():
    net = restrained(constraint="nonnegative", norm="spectral")
    constrain(net)
    step(net, times=60)
    for value in weights(net).values():
        assert (value >= 0).all()
        assert torch.linalg.matrix_norm(value.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("extra", [{"constraint": "nonnegative"}, {"norm": "spectral"}])
def test_every_graph_uses_the_constrained_weights(extra):
    net = restrained(**extra)
    constrain(net)
    step(net, times=3)
    plain = Network(net.snapshot())
    x = torch.rand(4, 1, 4, 4)
    box = Interval.ball(x, 0.1)
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.equal(net.nominal(x), plain.nominal(x))
    assert torch.equal(net.interval(box).lower, plain.interval(box).lower)
    pairs = [TrainingGraphs(each).paired(x, box, labels) for each in (net, plain)]
    assert all(torch.equal(mine, its) for mine, its in zip(*pairs, strict=True))


@pytest.mark.parametrize("extra", [{"constraint": "nonnegative"}, {"norm": "spectral"}])
def test_baked_weights_are_those_that_evaluation_used(extra):
    net = restrained(**extra)
    constrain(net)
    step(net, times=3)
    net.parameters.eval()
    x = torch.rand(4, 1, 4, 4)
    before, logits = weights(net), net.nominal(x)
    net.parameters.train()
    bake(net)
    assert not any(parametrize.is_parametrized(module) for module in net.parameters.modules())
    assert all(torch.equal(value, before[key]) for key, value in weights(net).items())
    assert torch.equal(net.nominal(x), logits)
    assert sorted(name for name, _ in net.parameters.named_parameters()) == sorted(net.graph.state)


def test_constraining_twice_and_baking_twice_change_nothing():
    net = restrained(constraint="nonnegative")
    constrain(net)
    count = len(list(net.parameters.modules()))
    constrain(net)
    assert len(list(net.parameters.modules())) == count
    bake(net)
    bake(net)


def test_a_network_without_constraints_is_left_alone():
    net = network()
    constrain(net)
    assert not any(parametrize.is_parametrized(module) for module in net.parameters.modules())


def test_an_unknown_constraint_names_the_nearest():
    net = network()
    name = net.graph.outputs[0]
    net.graph.replace(name, constraints=("nonnegativ",))
    with pytest.raises(TrainingError, match="did you mean 'nonnegative'"):
        constrain(net)


def test_a_node_without_a_weight_cannot_be_constrained():
    net = network()
    relu = next(node for node in net.graph.order() if node.operator == "Relu")
    net.graph.replace(relu.name, constraints=tuple(CONSTRAINTS))
    assert replace(relu, constraints=tuple(CONSTRAINTS)) == net.graph.node(relu.name)
    with pytest.raises(TrainingError, match="no weight to constrain"):
        constrain(net)
