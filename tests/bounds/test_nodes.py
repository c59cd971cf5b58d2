"""Bounds of every value: points of the box lie inside, by every method, and nothing is said where one may be NaN."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ibpc
from ibpc.errors import UsageError
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.hints import INEXACT
from ibpc.interval import Interval
from ibpc.ir import INPUT
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.rounding import Arithmetic
from tests.networks import models

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")


def values_of(network: Network, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every value at points, node by node in binary32."""
    graph = network.snapshot()
    known = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.order():
        if node.operator != INPUT:
            parameters = {role: torch.as_tensor(value) for role, value in graph.parameters_of(node.name).items()}
            operands = [known[name] for name in graph.operands(node.name)]
            rule = operators()[node.operator].rules.nominal
            known[node.name] = rule(call_of(graph, node, Arithmetic.REAL), *operands, **parameters)
    return known


def points_of(boxes: list[Interval], share: torch.Tensor) -> list[torch.Tensor]:
    return [torch.lerp(box.lower, box.upper, share).clamp(box.lower, box.upper) for box in boxes]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(), st.sampled_from(METHODS), st.sampled_from([0.0, 0.05, 0.4]))
def test_points_of_random_networks_lie_inside(model, method, radius):
    network = Network(graph_from_onnx(model, "random"))
    graph = network.snapshot()
    generator = torch.Generator().manual_seed(0)
    centers = [torch.rand(2, *graph.node(name).shape[1:], generator=generator) for name in graph.inputs]
    boxes = [ibpc.outer_ball(center, radius) for center in centers]
    found = ibpc.node_bounds(network, boxes, method=method, timeout=20)
    for share in (0.0, 1.0, 0.5, 0.3):
        values = values_of(network, *points_of(boxes, torch.tensor(share)))
        for name, box in found.items():
            value = values[name].double()
            unknown = (box.lower == -math.inf) & (box.upper == math.inf)
            assert (unknown | ((box.lower <= value) & (value <= box.upper))).all(), name


def test_methods_are_tighter_in_turn_and_the_last_value_is_that_of_bound():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)]
    network = ibpc.compile(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3))
    box = ibpc.outer_ball(torch.rand(4, 3), 0.3)
    widths = {name: [b.width.sum() for b in ibpc.node_bounds(network, box, method=name).values()] for name in METHODS}
    assert all(x >= y for x, y in zip(widths["ibp"], widths["crown"], strict=True))
    assert widths["ibp"][2] > 1.05 * widths["crown"][2], "what the second Relu reads"
    assert list(ibpc.node_bounds(network, box)) == [node.name for node in network.graph.order()][1:]


def test_nothing_is_known_from_a_value_on_that_may_be_no_number():
    class Root(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.sqrt(2.0 * x) + 1.0)

    network = ibpc.compile(Root().eval(), torch.ones(1, 2))
    box = Interval.bounds(torch.tensor([[-1.0, 1.0], [1.0, 1.0]]), torch.full((2, 2), 2.0))
    found = list(ibpc.node_bounds(network, box).values())
    assert found[0].lower.isfinite().all()
    assert all(torch.equal(each.lower.isfinite().all(1), torch.tensor([False, True])) for each in found[1:])


def test_what_does_not_fit_is_refused():
    network = ibpc.compile(torch.nn.Linear(3, 2).eval(), torch.zeros(1, 3))
    with pytest.raises(UsageError, match="method: found 'forward'; expected a method that bounds every value"):
        ibpc.node_bounds(network, ibpc.outer_ball(torch.zeros(1, 3), 0.1), method="forward")
    with pytest.raises(UsageError):
        ibpc.node_bounds(network, ibpc.outer_ball(torch.zeros(1, 4), 0.1))


def test_nothing_is_known_in_float32_where_executions_take_different_constants():
    network = ibpc.compile(torch.nn.Linear(3, 2).eval(), torch.zeros(1, 3))
    network.graph.hints[INEXACT] = "a constant"
    box = ibpc.outer_ball(torch.zeros(1, 3), 0.1)
    finite = {
        arithmetic: all(bool(each.lower.isfinite().all()) for each in found.values())
        for arithmetic in ("real", "float32")
        for found in [ibpc.node_bounds(network, box, arithmetic=arithmetic)]
    }
    assert finite == {"real": True, "float32": False}
