"""Quadratic forms hold for all points of a box, are exact for quadratic networks, and decide properties of products."""

from __future__ import annotations

import copy
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from onnx import helper

from ibpc.bounds.quadratic import Quadratics, monomials, quadratics
from ibpc.bounds.values import walk_of
from ibpc.frontends.onnx import graph_from_onnx
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.rounding import Arithmetic
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from ibpc.verify.search.branching import Branching
from ibpc.verify.search.product_parts import ProductParts
from ibpc.verify.search.roots import Roots
from tests.onnx_models import model, normal

CPU = torch.device("cpu")
INPUTS = 3


def network(seed: int) -> Network:
    """y = (2 relu(A x) · sin(B x), x · C x, (x · C x) · (A x)₀ + 1 / (4 + (x₀)²)): all kinds of products."""
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["x", "B"], ["b"]),
        helper.make_node("Sin", ["b"], ["s"]),
        helper.make_node("Mul", ["r", "s"], ["rs"]),
        helper.make_node("Mul", ["rs", "two"], ["first"]),
        helper.make_node("MatMul", ["x", "C"], ["c"]),
        helper.make_node("Mul", ["x", "c"], ["second"]),
        helper.make_node("Mul", ["second", "a"], ["cubic"]),
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("Add", ["squares", "four"], ["positive"]),
        helper.make_node("Div", ["one", "positive"], ["quotient"]),
        helper.make_node("Add", ["cubic", "quotient"], ["third"]),
        helper.make_node("Concat", ["first", "second", "third"], ["y"], axis=1),
    ]
    weights = {name: normal(INPUTS, INPUTS, seed=10 * seed + i) for i, name in enumerate("ABC")}
    numbers = {"two": np.float32(2), "four": np.float32(4), "one": np.float32(1)}
    constants = {**weights, **{name: np.asarray([value]) for name, value in numbers.items()}}
    return Network(graph_from_onnx(model(nodes, {"x": [1, INPUTS]}, constants=constants), "products"))


def quadratic(matrix: np.ndarray) -> Network:
    """y = Σ xᵢ (M x)ᵢ."""
    nodes = [
        helper.make_node("MatMul", ["x", "M"], ["m"]),
        helper.make_node("Mul", ["x", "m"], ["p"]),
        helper.make_node("MatMul", ["p", "ones"], ["y"]),
    ]
    size = len(matrix)
    constants = {"M": matrix.astype(np.float32), "ones": np.ones((size, 1), np.float32)}
    return Network(graph_from_onnx(model(nodes, {"x": [1, size]}, constants=constants), "quadratic"))


def boxes(count: int, width: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = 2.0 * torch.rand(count, INPUTS, generator=generator, dtype=torch.float64) - 1.0
    radius = width * torch.rand(count, INPUTS, generator=generator, dtype=torch.float64)
    return (center - radius).float().double(), (center + radius).float().double()


def points(count: int, size: int, seed: int) -> torch.Tensor:
    """Return points of [−1, 1]ⁿ, half of them corners."""
    inside = 2.0 * torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1.0
    return torch.cat([inside, inside.sign()])


def outputs_at(net: Network, arithmetic: Arithmetic, inputs: torch.Tensor) -> torch.Tensor:
    """Return what binary32 computes, or for claims about real numbers what binary64 does."""
    if arithmetic is Arithmetic.FLOAT32:
        return net.nominal(inputs.float()).detach().double()
    return copy.deepcopy(net.nominal).double()(inputs).detach()


@pytest.mark.parametrize("arithmetic", list(Arithmetic))
@pytest.mark.parametrize("width", [1e-3, 0.3, 1.5])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0), (1,)])
def test_no_point_of_a_box_is_below_its_form(axes, width, arithmetic):
    rows = torch.cat([torch.eye(9, dtype=torch.float64), -torch.eye(9, dtype=torch.float64)])
    for seed in range(2):
        net = network(seed)
        lower, upper = boxes(20, width, seed)
        forms = quadratics(walk_of(net.graph), (Interval.bounds(lower, upper),), axes, arithmetic, rows)
        center, radius = (0.5 * (upper + sign * lower)[:, None] for sign in (1, -1))
        inputs = (center + radius * points(100, INPUTS, seed)).float().double()
        inputs = torch.maximum(torch.minimum(inputs, upper[:, None]), lower[:, None])
        judged = outputs_at(net, arithmetic, inputs.flatten(0, 1)).reshape(20, 200, 9) @ rows.T
        delta = ((inputs - center) / radius)[..., list(axes)]
        bent = torch.einsum("rbnm,bpn,bpm->bpr", forms.square, delta, delta)
        found = forms.constant.T[:, None] + torch.einsum("rbn,bpn->bpr", forms.slope, delta) + bent
        assert bool((found <= judged + 1e-12).all())
        number, slope = forms.least()
        tangent = (number + slope.abs().sum(2)).T[:, None] + torch.einsum("rbn,bpn->bpr", slope, delta)
        assert bool((tangent <= found + 1e-12).all())


@pytest.mark.parametrize("seed", range(5))
def test_a_convex_form_is_bounded_by_its_minimum(seed):
    root = np.random.default_rng(seed).normal(size=(4, 4))
    matrix = root @ root.T + np.eye(4)
    net = quadratic(matrix)
    lower, upper = (torch.tensor([[end - 0.3] * 4], dtype=torch.float64) for end in (0.0, 1.0))
    rows = torch.ones(1, 1, dtype=torch.float64)
    forms = quadratics(walk_of(net.graph), (Interval.bounds(lower, upper),), range(4), Arithmetic.REAL, rows)
    number, _ = forms.least()
    assert -0.01 * np.abs(matrix).sum() <= float(number) <= 0.0
    found = forms.constant + forms.radius
    assert float(found) == pytest.approx(float((lower + upper)[0] @ torch.from_numpy(matrix) @ (lower + upper)[0] / 4))


@pytest.mark.parametrize("seed", range(20))
def test_the_least_value_of_a_form_is_below_it_wherever_it_is_curved_down(seed):
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    square = square + square.mT
    slope = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    constant = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    forms = Quadratics(constant, slope, square, torch.zeros_like(constant))
    delta = points(500, 4, seed)
    for weights in (torch.eye(2, dtype=torch.float64), torch.tensor([[0.3, 2.0]], dtype=torch.float64)):
        summed = forms.weighted(weights[..., None].expand(-1, -1, 3))
        number, tangent = summed.least()
        bent = torch.einsum("rbnm,pn,pm->rbp", square, delta, delta)
        values = weights @ (constant[..., None] + torch.einsum("rbn,pn->rbp", slope, delta) + bent).flatten(1)
        values = values.reshape(-1, 3, len(delta))
        line = (number + tangent.abs().sum(2))[..., None] + torch.einsum("rbn,pn->rbp", tangent, delta)
        assert bool((line <= values).all())


def test_values_that_are_not_finite_claim_nothing():
    infinite = torch.full((1, 1), torch.inf, dtype=torch.float64)
    forms = Quadratics(infinite, infinite[..., None], infinite[..., None, None], infinite)
    assert float(forms.least()[0]) == -torch.inf


def test_forms_have_a_coefficient_for_each_monomial():
    assert [monomials(count) for count in (0, 1, 2, 6)] == [1, 3, 6, 28]


# ── search ──────────────────────────────────────────────────────────────────────────────────────────────────────
def unsafe(bound: float, reach: float) -> Property:
    """Unsafe over [−1, 1]³: y₀ ≥ bound, and y₃ ≤ reach."""
    box = Box((Fraction(-1),) * INPUTS, (Fraction(1),) * INPUTS)
    rows = (Row(((0, Fraction(-1)),), (), -Fraction(bound)), Row(((3, Fraction(1)),), (), Fraction(reach)))
    return Property("p", (DeclaredTensor("X", (INPUTS,)),), (DeclaredTensor("Y", (9,)),), (Case(box, (rows,)),))


def searched(net: Network, prop: Property, parts: int) -> Branching:
    branching = Branching(Roots(walk_of(net.snapshot()), prop, Arithmetic.FLOAT32), 0, 0)
    while branching.bounded < parts and not branching.is_over:
        branching.run(time.monotonic() + 0.01)
    assert isinstance(branching._parts, ProductParts)
    return branching


@pytest.mark.parametrize("seed", range(4))
def test_what_is_out_of_reach_is_refuted_and_what_is_not_is_never(seed):
    net = network(seed)
    sampled = 2.0 * torch.rand(200_000, INPUTS, generator=torch.Generator().manual_seed(seed)) - 1.0
    outputs = net.nominal(sampled).detach()
    reach = float(outputs[:, 3].quantile(0.3))
    most = float(outputs[outputs[:, 3] <= reach, 0].max())
    assert searched(net, unsafe(most + 0.1 + 0.1 * abs(most), reach), 100_000).is_refuted
    attained = unsafe(np.nextafter(np.float32(most), np.float32(-np.inf)).item(), reach)
    assert not searched(net, attained, 3000).is_refuted


def test_no_slab_with_a_counterexample_is_left_out():
    """Wherever the one counterexample lies, the parts that wait hold it."""
    matrix = np.asarray([[2.0, 0.5], [0.5, 1.0]])
    net = quadratic(matrix)
    for seed in range(10):
        point = 0.9 * (2.0 * torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1.0)
        value = float(net.nominal(point.float()[None])[0, 0].detach())
        box = Box(
            tuple(Fraction(min(float(x), 0.0) - 0.1 * seed) for x in point.float()),
            tuple(Fraction(max(float(x), 0.0) + 0.1 * seed) for x in point.float()),
        )
        row = Row(((0, Fraction(1)),), (), Fraction(value))
        above = Row(((0, Fraction(-1)),), (), -Fraction(value))
        prop = Property("p", (DeclaredTensor("X", (2,)),), (DeclaredTensor("Y", (1,)),), (Case(box, ((row, above),)),))
        branching = searched(net, prop, 400)
        parts = branching._parts
        assert isinstance(parts, ProductParts)
        held = ((parts._lower <= point.float()) & (point.float() <= parts._upper)).all(1)
        assert bool(held.any())
