"""Exact bounds: against an enumeration of activation patterns, and as the judge of all other methods."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import ibpc
from benchmarks.hierarchy import ACTIVATIONS, faults, random_module
from ibpc.bounds import METHODS
from ibpc.bounds.mip import program_bounds
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

CPU = torch.device("cpu")


def relu_module(seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)]
    return torch.nn.Sequential(*layers).eval()


def least_by_patterns(module: torch.nn.Sequential, low: np.ndarray, high: np.ndarray, sign: float) -> float:
    """Return the least value of sign · y: one linear program for each pattern of active neurons."""
    weights = [layer.weight.detach().double().numpy() for layer in module[::2]]
    biases = [layer.bias.detach().double().numpy() for layer in module[::2]]
    best = np.inf
    for pattern in itertools.product((0, 1), repeat=7):
        a, b, rows, ends = np.eye(2), np.zeros(2), [], []
        for layer, active in ((0, np.array(pattern[:4])), (1, np.array(pattern[4:]))):
            a, b = weights[layer] @ a, weights[layer] @ b + biases[layer]
            signs = np.where(active, -1.0, 1.0)
            rows.append(signs[:, None] * a)
            ends.append(-signs * b)
            a, b = active[:, None] * a, active * b
        a, b = weights[2] @ a, weights[2] @ b + biases[2]
        bounds = list(zip(low, high, strict=True))
        found = linprog(sign * a[0], A_ub=np.concatenate(rows), b_ub=np.concatenate(ends), bounds=bounds)
        if found.status == 0:
            best = min(best, found.fun + sign * b[0])
    return float(best)


@pytest.mark.parametrize("seed", range(6))
def test_mip_is_the_best_of_all_activation_patterns(seed):
    module = relu_module(seed)
    box = program_bounds(walk_of(ibpc.compile(module, torch.zeros(1, 2)).snapshot()), torch.eye(1), Arithmetic.REAL)(
        Interval.bounds(-torch.ones(1, 2), torch.ones(1, 2))
    )
    ends = -np.ones(2), np.ones(2)
    assert float(box.lower) == pytest.approx(least_by_patterns(module, *ends, 1.0), abs=1e-5)
    assert float(box.upper) == pytest.approx(-least_by_patterns(module, *ends, -1.0), abs=1e-5)


def test_alpha_crown_is_not_what_waits_for_time(monkeypatch):
    """Else mip would be looser than it where the programs use up all there is."""
    begun = []

    def noted(method):
        def bounder(*given):
            bound = method(*given)
            return lambda *boxes: (begun.append(method.__name__), bound(*boxes))[1]

        return bounder

    module = sys.modules["ibpc.bounds.mip"]
    for name in ("alpha_crown", "program_bounds"):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    graph, ends = ibpc.compile(relu_module(0), torch.zeros(1, 2)).snapshot(), torch.ones(1, 2)
    METHODS["mip"].bounder(walk_of(graph), torch.eye(1), Arithmetic.REAL)(Interval.bounds(-ends, ends))
    assert begun == ["alpha_crown", "program_bounds"]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("seed", range(4))
def test_each_method_lies_inside_the_one_before_and_holds_the_exact_bounds(activation, seed):
    assert list(faults(random_module(activation, seed), seed, boxes=4)) == []


def test_the_binary32_bounds_of_mip_pay_for_rounding():
    """Halves that cancel: a thousand-fold weight makes E visible."""
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1e4, -1e4]])
    graph = ibpc.compile(torch.nn.Sequential(layer).eval(), torch.zeros(1, 2)).snapshot()
    x = torch.tensor([[0.7, 0.7]])
    real, float32 = (
        METHODS["mip"].bounder(walk_of(graph), torch.eye(1), arithmetic)(Interval.bounds(x, x))
        for arithmetic in Arithmetic
    )
    assert float(float32.upper) > float(real.upper) + 1e-4
    assert float(float32.lower) < float(real.lower) - 1e-4
