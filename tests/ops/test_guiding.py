"""Guiding rules: values of the nominal rules, with gradients that attacks can follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import ibpc
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.ops.rules import Call
from ibpc.verify.attack import Attack
from tests.onnx_models import chain

GUIDING = sorted(name for name, operator in operators().items() if operator.rules.guiding is not None)
ATTRIBUTES = {"Cast": {"to": "int32"}, "Softmax": {"axis": 1}}


@pytest.mark.parametrize("name", GUIDING)
def test_values_are_those_of_the_nominal_rule_and_gradients_lead_on(name: str) -> None:
    record = operators()[name]
    call = Call(record.complete(ATTRIBUTES.get(name, {})), ((-1, 5),), {}, (-1, 5))
    x = (100.0 * torch.randn(40, 5)).requires_grad_()
    assert record.rules.guiding is not None
    guided = record.rules.guiding(call, x)
    assert torch.equal(guided.detach(), record.rules.nominal(call, x.detach()))
    (gradient,) = torch.autograd.grad((guided * torch.randn(40, 5)).sum(), x)
    assert bool((gradient != 0).any(1).all())


def test_these_have_one() -> None:
    assert {"Cast", "Ceil", "Floor", "Round", "Sign", "Softmax"} == set(GUIDING)


def test_attacks_lead_through_signs_and_saturated_shares() -> None:
    """All gradients are 0, and one corner of thousands is the counterexample."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(12, 40)).astype(np.float32),
        "v": (60.0 * rng.normal(size=(40, 2))).astype(np.float32),
    }
    steps = [("MatMul", "w"), ("Sign",), ("MatMul", "v"), ("Softmax", {"axis": 1})]
    network = Network(graph_from_onnx(chain(*steps, start=["N", 12], constants=constants), "net.onnx"))
    assert network.guiding is not network.nominal
    corners = torch.from_numpy(rng.choice([-1.0, 1.0], size=(4096, 12)).astype(np.float32))
    with torch.no_grad():
        shares = network.nominal(corners)[:, 0]
    label = int(shares.mean() < 0.5)
    x = torch.zeros(1, 12).requires_grad_()
    assert not bool(torch.autograd.grad(network.nominal(x + 0.1)[0, 0], x)[0].any())
    found = _most_wrong(network, label)
    assert found > 0.99


def _most_wrong(network: ibpc.Network, label: int) -> float:
    """Return the greatest probability of the other class that a short attack from the center finds."""

    def score(points: tuple[Tensor, ...], items: Tensor) -> Tensor:
        return -network.guiding(points[0])[:, 1 - label]

    box = Interval.bounds(-torch.ones(1, 12), torch.ones(1, 12))
    found = Attack(steps=40, restarts=1).run(score, (torch.zeros(1, 12) + 0.1,), (box,))
    return -float(found.scores)
