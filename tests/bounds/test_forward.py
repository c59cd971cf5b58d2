"""Forward linear bounds: what they rest on, and points inside them for random networks of all operators."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds import forward as forward_bounds
from ibpc.bounds.backward import Backward
from ibpc.bounds.forms import dense
from ibpc.bounds.pushed_forms import Forward, numbers
from ibpc.bounds.refinement import refined_values
from ibpc.bounds.values import advance, start, walk_of
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
    linear, plain = (
        METHODS[name].bounder(walk_of(graph), torch.eye(2), arithmetic)(box) for name in ("forward", "ibp")
    )
    points = center + 0.8 * (torch.rand(20000, 5, 3) - 0.5)
    with torch.no_grad():
        y = module.double()(points.double())
    assert bool((y >= linear.lower).all() and (y <= linear.upper).all())
    assert bool((linear.lower >= plain.lower).all() and (linear.upper <= plain.upper).all())
    assert float((linear.upper - linear.lower).sum()) < float((plain.upper - plain.lower).sum())


@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_inputs_that_do_not_vary_are_constants(arithmetic):
    """Bounds over a face of a box hold its points, and are those of the network with these inputs put in."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)]
    module = torch.nn.Sequential(*layers).eval()
    center, radius = torch.randn(5, 4), torch.tensor([0.3, 0.0, 0.2, 0.0])
    graph = ibpc.compile(module, torch.zeros(1, 4)).snapshot()
    found = METHODS["forward"].bounder(walk_of(graph), torch.eye(2), arithmetic)(
        Interval.bounds(center - radius, center + radius)
    )
    with torch.no_grad():
        y = module.double()(center.double() + radius.double() * (2 * torch.rand(20000, 5, 4, dtype=torch.float64) - 1))
    assert bool((y >= found.lower).all() and (y <= found.upper).all())
    assert float((found.upper - found.lower).max()) < 2 * float((y.amax(0) - y.amin(0)).max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_forms_of_few_inputs_leave_backward_bounds_less_to_do_and_lose_nothing(seed, arithmetic, monkeypatch):
    torch.manual_seed(seed)
    layers = [module for _ in range(4) for module in (torch.nn.Linear(12, 12), torch.nn.ReLU())]
    module = torch.nn.Sequential(torch.nn.Linear(3, 12), *layers, torch.nn.Linear(12, 1)).eval()
    walk = walk_of(ibpc.compile(module, torch.zeros(1, 3)).snapshot())
    boxes, rows = (Interval.bounds(torch.zeros(2, 3), torch.ones(2, 3)),), []

    class Counting(Backward):
        def lower(self, forms):
            rows.append(len(dense(next(iter(forms.values())))))
            return super().lower(forms)

    pushed = refined_values(walk, boxes, arithmetic, pull=Counting)
    with_forms, _ = sum(rows), rows.clear()
    monkeypatch.setattr(sys.modules["ibpc.bounds.refinement"], "FEW_INPUTS", -1)
    alone = refined_values(walk, boxes, arithmetic, pull=Counting)
    assert with_forms < sum(rows)
    for name in walk.steps:
        one, other = pushed.box(name), alone.box(name)
        unstable = (one.lower < 0) & (one.upper > 0)
        assert bool((one.lower >= other.lower - 1e-6)[unstable].all())
        assert bool((one.upper <= other.upper + 1e-6)[unstable].all())


def test_boxes_that_intervals_bound_exactly_are_not_bounded_again(monkeypatch):
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(70, 9), torch.nn.ReLU(), torch.nn.Linear(9, 8), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(8, 2)).eval()
    walk = walk_of(ibpc.compile(module, torch.zeros(1, 7, 10)).snapshot())
    boxes, names = (Interval.bounds(-torch.ones(1, 7, 10), torch.ones(1, 7, 10)),), []

    class Counting(Backward):
        def lower(self, forms):
            names.extend(forms)
            return super().lower(forms)

    less = refined_values(walk, boxes, Arithmetic.REAL, pull=Counting)
    first, second = (step.operands[0] for step in walk.steps.values() if step.node.operator == "Relu")
    assert set(names) == {second}
    monkeypatch.setattr(sys.modules["ibpc.bounds.refinement"], "_is_exact", lambda *_: False)
    more = refined_values(walk, boxes, Arithmetic.REAL, pull=Counting)
    assert first in names
    for name in walk.steps:
        torch.testing.assert_close(less.box(name).lower, more.box(name).lower, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(less.box(name).upper, more.box(name).upper, rtol=1e-12, atol=1e-12)


def test_a_node_that_reads_an_input_twice_is_not_taken_for_exact():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x - x.reshape(1, 70)) + 0.0

    walk = walk_of(ibpc.compile(Twice().eval(), torch.zeros(1, 70)).snapshot())
    values = refined_values(walk, (Interval.bounds(-torch.ones(1, 70), torch.ones(1, 70)),), Arithmetic.REAL)
    relu = next(step for step in walk.steps.values() if step.node.operator == "Relu")
    assert float(values.box(relu.operands[0]).width.max()) < 1e-9


def test_a_linear_network_is_bounded_exactly():
    """y = x₀ − x₀ after two layers: intervals lose the cancellation, forms of the inputs do not."""
    first, second = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False)
    first.weight.data, second.weight.data = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, -1.0]])
    graph = ibpc.compile(torch.nn.Sequential(first, second).eval(), torch.zeros(1, 1)).snapshot()
    box = METHODS["forward"].bounder(walk_of(graph), torch.eye(1), Arithmetic.REAL)(
        Interval.bounds(-torch.ones(1, 1), torch.ones(1, 1))
    )
    assert float(box.upper) == pytest.approx(0.0, abs=1e-9)
    assert float(box.lower) == pytest.approx(0.0, abs=1e-9)


def test_an_affine_operator_pays_for_the_rounding_of_all_that_it_adds(monkeypatch):
    """Worked by hand for y = 2 x₁ − 3 x₂ + 1, |x| ≤ 1, in an arithmetic of slack 2⁻⁴.

    Moduli of x, 1 each, make 5; two coefficients may be off by the rounding of 1, each times a modulus of 1.
    """
    monkeypatch.setattr(sys.modules["ibpc.bounds.pushed_forms"], "SLACK", 2.0**-4)
    layer = torch.nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[2.0, -3.0]]), torch.tensor([1.0])
    walk = walk_of(ibpc.compile(layer.eval(), torch.zeros(1, 2)).snapshot())
    values = start(walk, (Interval.bounds(-torch.ones(1, 2), torch.ones(1, 2)),))
    forms = Forward(walk, values)
    for step in walk.steps.values():
        advance(values, step, Arithmetic.REAL)
        forms.push(step)
    (output,) = walk.graph.outputs
    coefficients = forms._forms[output].coefficients
    assert coefficients[:, :2, 0, 0].tolist() == [[2.0, -3.0]] * 2
    pushed = 2.0**-4 * (5.0 + 1.0 + 2.0 * 1.0)
    assert coefficients[:, 2, 0, 0].tolist() == [1.0 - pushed, 1.0 + pushed]
    total = 2.0 * 2.0**-4 * (5.0 + 1.0 + pushed)
    assert [end.item() for end in forms.bounds(output, torch.zeros(1, 1).double())] == [-0.0, 0.0]
    assert [end.item() for end in forms._forms[output].concretized()] == [-4.0 - pushed - total, 6.0 + pushed + total]


@pytest.mark.parametrize("arithmetic", Arithmetic)
@pytest.mark.parametrize("method", ["forward", "crown"])
@pytest.mark.parametrize(("size", "radius"), [(1e9, 1e6), (1e12, 1e9)])
def test_inputs_far_from_zero_are_paid_for_beside_large_constants(arithmetic, method, size, radius):
    """Coefficients of 1/size beside constants of 1000, against exact arithmetic at the corners."""
    torch.manual_seed(0)
    first, last = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False)
    first.weight.data, first.bias.data = torch.rand(3, 4) / size, 1e3 * (1.0 + torch.rand(3))
    last.weight.data = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 0.25, 1.0]])
    x = torch.full((1, 4), size)
    graph = ibpc.compile(torch.nn.Sequential(first, torch.nn.ReLU(), last).eval(), x).snapshot()
    ends = x - radius, x + radius
    found = METHODS[method].bounder(walk_of(graph), torch.eye(2), arithmetic)(Interval.bounds(*ends))

    def applied(layer, values):
        rows = [[Fraction(float(w)) for w in row] for row in layer.weight.tolist()]
        return [sum(w * v for w, v in zip(row, values, strict=True)) for row in rows]

    for corner in product((0, 1), repeat=4):
        point = [Fraction(float(ends[side][0, index])) for index, side in enumerate(corner)]
        offsets = [Fraction(float(b)) for b in first.bias.tolist()]
        hidden = [max(Fraction(0), v + b) for v, b in zip(applied(first, point), offsets, strict=True)]
        for index, y in enumerate(applied(last, hidden)):
            assert Fraction(float(found.lower[0, index])) <= y <= Fraction(float(found.upper[0, index]))


def test_only_inputs_that_vary_take_room(monkeypatch):
    """Forms have a number for each of them; where these are too many, intervals are left."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(40, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    net = ibpc.compile(module, torch.zeros(1, 40))
    center = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(forward_bounds, "MOST_NUMBERS", numbers(walk_of(net.snapshot()), 5))
    rows = torch.tensor([[1.0, -1.0]])
    for varying in (5, 6):
        radius = torch.zeros(40).index_fill(0, torch.arange(varying), 0.3)
        box = Interval.around(center, radius.expand(3, 40))
        quick, found = (ibpc.bound(net, box, rows, method=method) for method in ("ibp", "forward"))
        assert bool((found.width < quick.width).all()) == (varying == 5)
