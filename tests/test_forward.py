"""Forward linear bounds: what they rest on, and points inside them for random networks of all operators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ibpc
from ibpc.bounds import METHODS
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic
from tests.networks import faults, models

CPU = torch.device("cpu")


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(), st.integers(0, 2))
def test_points_of_random_networks_lie_inside(model, seed):
    assert list(faults(model, seed, ("forward",))) == []


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Tanh, torch.nn.Sigmoid, torch.nn.GELU])
@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_sampled_points_lie_inside_and_intervals_are_no_tighter(activation, arithmetic):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 8), activation(), torch.nn.Linear(8, 6), activation(), torch.nn.Linear(6, 2)]
    module = torch.nn.Sequential(*layers).eval()
    graph = ibpc.compile(module, torch.zeros(1, 3)).snapshot()
    center = torch.randn(5, 3)
    box = Interval.bounds(center - 0.4, center + 0.4)
    linear, plain = (METHODS[name](graph, torch.eye(2), arithmetic, CPU)(box) for name in ("forward", "ibp"))
    points = center + 0.8 * (torch.rand(20000, 5, 3) - 0.5)
    with torch.no_grad():
        y = module.double()(points.double())
    assert bool((y >= linear.lower).all() and (y <= linear.upper).all())
    assert bool((linear.lower >= plain.lower).all() and (linear.upper <= plain.upper).all())
    assert float((linear.upper - linear.lower).sum()) < float((plain.upper - plain.lower).sum())


def test_a_linear_network_is_bounded_exactly():
    """y = x₀ − x₀ after two layers: intervals lose the cancellation, forms of the inputs do not."""
    first, second = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False)
    first.weight.data, second.weight.data = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, -1.0]])
    graph = ibpc.compile(torch.nn.Sequential(first, second).eval(), torch.zeros(1, 1)).snapshot()
    box = METHODS["forward"](graph, torch.eye(1), Arithmetic.REAL, CPU)(
        Interval.bounds(-torch.ones(1, 1), torch.ones(1, 1))
    )
    assert float(box.upper) == pytest.approx(0.0, abs=1e-9)
    assert float(box.lower) == pytest.approx(0.0, abs=1e-9)
