"""Interval bounds of rows of the outputs, as a training loop of one's own asks for them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import ibpc
from ibpc.errors import GraphError, UsageError
from ibpc.margins import class_differences

ROWS = class_differences(3)
MODULES = {
    "gemm": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
    "batch": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Sigmoid(), nn.Linear(6, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
    "conv": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten()),
    "image": lambda: nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1, 1))),
}


def network(kind: str = "gemm", dtype: torch.dtype = torch.float64) -> ibpc.Network:
    torch.manual_seed(0)
    found = ibpc.compile(MODULES[kind]().eval(), torch.zeros(1, 4))
    found.parameters.to(dtype)
    return found


def ball(dtype: torch.dtype = torch.float64, radius: float = 0.2) -> ibpc.Interval:
    return ibpc.Interval.ball(torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=dtype), radius)


@pytest.mark.parametrize("kind", MODULES)
def test_rows_are_bounded_no_looser_than_from_the_box_of_the_outputs(kind):
    net, box = network(kind), ball()
    outputs, found = net.interval(box), net.interval(box, rows=ROWS)
    center, radius = outputs.center.flatten(1) @ ROWS.double().T, outputs.radius.flatten(1) @ ROWS.double().abs().T
    assert found.lower.shape == (5, 3)
    assert bool((found.lower >= center - radius - 1e-12).all() and (found.upper <= center + radius + 1e-12).all())
    is_merged = kind in ("gemm", "batch")
    assert bool((found.lower > center - radius + 1e-6).any()) == is_merged


@pytest.mark.parametrize("kind", MODULES)
def test_rows_hold_at_points_of_the_box(kind):
    net, box = network(kind), ball()
    found = net.interval(box, rows=ROWS)
    share = torch.rand(200, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).round(decimals=1)
    for points in box.lower + share * box.width:
        values = net.nominal(points).flatten(1) @ ROWS.double().T
        assert bool(((found.lower - 1e-12 <= values) & (values <= found.upper + 1e-12)).all())


def test_an_affine_network_is_bounded_exactly():
    """The radius of C W x is |C W| r; |C| |W| r is that of the box of the outputs, which is larger."""
    torch.manual_seed(0)
    module = nn.Linear(4, 3).eval()
    net, box = ibpc.compile(module, torch.zeros(1, 4)), ball(torch.float32)
    merged = ROWS @ module.weight
    found = net.interval(box, rows=ROWS)
    center, radius = box.center @ merged.T + ROWS @ module.bias, box.radius @ merged.abs().T
    torch.testing.assert_close(found.lower, center - radius)
    torch.testing.assert_close(found.upper, center + radius)


@pytest.mark.parametrize("kind", MODULES)
def test_gradients_are_those_of_finite_differences(kind):
    net, box, step = network(kind), ball(), 1e-6

    def loss() -> torch.Tensor:
        found = net.interval(box, rows=ROWS)
        return found.lower.square().sum() + found.upper.sum()

    loss().backward()
    for name, parameter in net.parameters.named_parameters():
        assert parameter.grad is not None, name
        for place in range(parameter.numel()):
            values = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    parameter.view(-1)[place] += sign * step
                    values.append(loss().item())
                    parameter.view(-1)[place] -= sign * step
            expected = (values[0] - values[1]) / (2 * step)
            assert parameter.grad.view(-1)[place].item() == pytest.approx(expected, abs=1e-5, rel=1e-5), name


def test_rows_follow_the_weights_and_what_they_are_made_of():
    net, box = network(dtype=torch.float32), ball(torch.float32)
    before = net.interval(box, rows=ROWS)
    with torch.no_grad():
        for parameter in net.parameters.parameters():
            parameter.mul_(2)
    after = net.interval(box, rows=ROWS)
    assert not torch.allclose(before.lower, after.lower)
    net.parameters.double()
    wide = net.interval(ball(), rows=ROWS)
    assert wide.lower.dtype == torch.float64
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        found = other.interval(ball(), rows=ROWS)
        assert torch.equal(found.lower, wide.lower)
        found.lower.sum().backward()
        assert all(parameter.grad is not None for parameter in other.parameters.parameters())
        assert all(parameter.grad is None for parameter in net.parameters.parameters())


def test_each_table_of_rows_has_its_own_bounds():
    """Also when more of them come than are kept."""
    net, box = network(), ball()
    for scale in (*range(1, 20), 1):
        found, expected = net.interval(box, rows=ROWS * scale), net.interval(box, rows=ROWS)
        torch.testing.assert_close(found.lower, expected.lower * scale)


def test_the_rows_are_about_the_first_output_and_the_network_stays_as_it_was():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 7)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.first(x), self.second(self.first(x).relu())

    net = ibpc.compile(Two().eval(), torch.zeros(1, 4))
    before, names = net.graph.to_text(), list(net.parameters.state_dict())
    assert net.interval(ball(torch.float32), rows=ROWS).lower.shape == (5, 3)
    assert (net.graph.to_text(), list(net.parameters.state_dict())) == (before, names)


def test_normalization_of_several_inputs_is_refused():
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    net = ibpc.compile(Sum().eval(), (torch.zeros(1, 4), torch.zeros(1, 4)))
    with pytest.raises(UsageError, match="2 inputs; expected a network of one input"):
        ibpc.normalized(net, 0.5, 0.2)


def test_what_does_not_fit_is_refused():
    net, box = network(), ball()
    with pytest.raises(GraphError, match=r"a specification of shape 2×4 for N×3; expected \(rows, 3\)"):
        net.interval(box, rows=torch.ones(2, 4))
    with pytest.raises(GraphError, match="shape 5×2×3"):
        net.interval(box, rows=torch.ones(5, 2, 3))
    with pytest.raises(UsageError, match=r"found \(Tensor\); expected 1 Interval, one an input"):
        net.interval(torch.zeros(1, 4))
    with pytest.raises(UsageError, match=r"found \(Interval, Interval\)"):
        net.interval(box, box)
