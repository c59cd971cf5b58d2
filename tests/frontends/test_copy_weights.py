"""Weights go back into the module that a network was compiled from, or nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ibpc
from ibpc.errors import UsageError

X = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Everything(nn.Module):
    """Convolutions with and without biases, BatchNormalization, a matrix on the right, one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4 * 36, 10)
        self.matrix = nn.Parameter(torch.randn(10, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.stem(x)))
        for _ in range(2):
            hidden = torch.relu(hidden + self.block(hidden))
        return torch.relu(self.head(hidden.flatten(1))) @ self.matrix


def moved(module: nn.Module) -> ibpc.Network:
    """The network of a module, every weight of which was changed."""
    network = ibpc.compile(module, X)
    generator = torch.Generator().manual_seed(1)
    values = {
        key: torch.as_tensor(value) + 0.1 * torch.rand(value.shape, generator=generator)
        for key, value in network.graph.state.items()
    }
    network.assign(values)
    return network


def test_a_module_gets_the_weights_of_its_network():
    torch.manual_seed(0)
    module = Everything().eval()
    network, before = moved(module), module(X)
    ibpc.copy_weights(network, module, X)
    assert torch.allclose(module(X), network.nominal(X), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, network.nominal(X), rtol=1e-2, atol=1e-2)
    assert network.is_changed
    assert not ibpc.compile(module, X).is_changed


def test_a_saved_network_still_fits(tmp_path):
    module = Everything().eval()
    network = moved(module)
    network.save(tmp_path / "saved")
    ibpc.copy_weights(ibpc.load(tmp_path / "saved"), module, X)
    assert torch.allclose(module(X), network.nominal(X), rtol=1e-5, atol=1e-5)


def test_another_module_is_refused_and_left_alone():
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 10)).eval()
    before = other(X)
    with pytest.raises(UsageError, match="the network is not that of this module"):
        ibpc.copy_weights(moved(Everything().eval()), other, X)
    assert torch.equal(other(X), before)


def test_computed_weights_are_refused_and_left_alone():
    module = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(36, 10)), nn.ReLU()).eval()
    before = module(X)
    with pytest.raises(UsageError, match="weight.original0: no weight of the network holds it"):
        ibpc.copy_weights(moved(module), module, X)
    assert torch.equal(module(X), before)
