"""Pulling linear forms back: what is done to save time changes no bound."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import ibpc
from ibpc.bounds import METHODS, backward, coefficients
from ibpc.bounds.ascent import Ends, Start, ascend
from ibpc.bounds.backward import Backward
from ibpc.bounds.crown import bounds_of
from ibpc.bounds.forms import dense, unit_forms
from ibpc.bounds.refinement import interval_values, refined_values
from ibpc.bounds.values import Values, walk_of
from ibpc.interval import Interval
from ibpc.ops.rules import Plane
from ibpc.rounding import Arithmetic


class Residual(nn.Module):
    """Convolutions with stride, groups and padding, a sum, pooling, a transposed convolution, and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1, groups=2)
        self.back, self.last = nn.ConvTranspose2d(4, 2, 2, 2), nn.Linear(32, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = torch.relu(self.second(y) + y)
        return self.last(nn.functional.avg_pool2d(self.back(y), 2).flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    x = torch.rand(2, 2, 8, 8)
    walk = walk_of(ibpc.compile(Residual().eval(), x).snapshot())
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), Arithmetic.FLOAT32)
    forms = {walk.graph.outputs[0]: torch.randn(4, 1, 3, dtype=torch.float64).expand(-1, 2, -1)}
    return walk, values, forms


def pulled(walk, values, forms):
    kind = Backward(walk, values)
    with torch.no_grad():
        return [kind.lower(forms), *kind.forms.values()]


def test_one_point_for_all_forms_gives_what_a_point_for_each_gives(network, monkeypatch):
    monkeypatch.setattr(backward, "_WORTH_A_SINGLE_POINT", torch.inf)
    many = pulled(*network)
    monkeypatch.setattr(backward, "_WORTH_A_SINGLE_POINT", 0.0)
    single = pulled(*network)
    assert len(many) == len(single) > 3
    for one, other in zip(single, many, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_slopes_climb_alike_from_one_point_and_from_many(network, monkeypatch):
    walk, values, forms = network
    found = []
    for worth in (torch.inf, 0.0):
        monkeypatch.setattr(backward, "_WORTH_A_SINGLE_POINT", worth)
        found.append(ascend(walk, values, forms, 5, start=Start()).lower)
    assert (found[0] > pulled(*network)[0]).any(), "the ascent climbs nowhere"
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


class Smooth(nn.Module):
    """Curved functions of one value, and of a value and a constant; a function of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, 2, 1), nn.Linear(64, 3)

    def forward(self, x):
        y = torch.tanh(self.first(x))
        y = torch.maximum(y * torch.sigmoid(y), torch.tensor(0.1))
        return self.last(nn.functional.leaky_relu(y, 0.2).flatten(1))


@pytest.mark.parametrize("module", [Residual, Smooth])
@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_both_planes_at_once_give_what_each_gives_by_itself(module, arithmetic, monkeypatch):
    torch.manual_seed(3)
    x = torch.rand(2, 2, 8, 8)
    walk = walk_of(ibpc.compile(module().eval(), x).snapshot())
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), arithmetic)
    forms = {walk.graph.outputs[0]: torch.randn(4, 1, 3, dtype=torch.float64).expand(-1, 2, -1)}
    once = pulled(walk, values, forms)
    used = []
    monkeypatch.setattr(Backward, "_bend", lambda *operands: used.append(operands))
    apart = pulled(walk, values, forms)
    assert len(used) >= 2
    for one, other in zip(once, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


class Attention(nn.Module):
    """Products of two boxes, Softmax along two axes, a product with an exact matrix, and one of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(4, 3)

    def forward(self, x):
        query, key, value = torch.relu(self.first(x)).reshape(-1, 2, 5, 12).split(4, -1)
        scores = query @ key.transpose(-1, -2)
        y = torch.softmax(scores, -1) @ value + torch.softmax(scores * 0.5, 2).transpose(-1, -2) @ value
        return self.last(torch.logsumexp(y, 2)).flatten(1) + (query[:, 0] @ y[:, 0, 0, :, None]).flatten(1).mean(
            1, True
        )


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(3)
    x = torch.rand(2, 10, 6)
    walk = walk_of(ibpc.compile(Attention().eval(), x).snapshot())
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), Arithmetic.FLOAT32)
    return walk, values, {walk.graph.outputs[0]: torch.randn(4, 1, 6, dtype=torch.float64).expand(-1, 2, -1)}


@pytest.mark.parametrize("batch", [1, 2])
def test_sums_without_all_products_are_sums_of_products(batch, attention, monkeypatch):
    walk, values, forms = attention
    first = {
        name: Interval.bounds(*(end[:batch] for end in _ends(value))) if isinstance(value, Interval) else value
        for name, value in values.known.items()
    }
    errors = {name: error if error is None else error[:batch] for name, error in values.errors.items()}
    attention = walk, Values(first, errors), {name: form[:, :batch] for name, form in forms.items()}
    used = []

    def product_by_product(side, slope, along):
        used.append(along)
        return (side.unsqueeze(-1) * slope).sum(along, keepdim=True)

    once, climbed = pulled(*attention), ascend(*attention, 3)
    monkeypatch.setattr(coefficients, "_contracted", product_by_product)
    apart = pulled(*attention)
    assert len({tuple(along) for along in used}) >= 3
    for one, other in zip(once, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert (climbed.lower > once[0]).any(), "the ascent climbs nowhere"
    torch.testing.assert_close(climbed.lower, ascend(*attention, 3).lower, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ends", [(-0.5, 0.4), (-0.5, torch.inf), (-torch.inf, 0.4)])
def test_multipliers_of_any_ends_prove_no_more_than_is_so(ends):
    """At all samples where a value lies between its ends a form is at least what any multipliers say."""
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3)).double().eval()
    walk = walk_of(ibpc.compile(module.float(), torch.zeros(1, 2)).snapshot())
    values = interval_values(walk, (Interval.bounds(-torch.ones(1, 2), torch.ones(1, 2)),), Arithmetic.REAL)
    front, (output,) = next(iter(walk.steps)), walk.graph.outputs
    points = torch.rand(4000, 2, dtype=torch.float64) * 2 - 1
    inner = module.double()[0](points)
    inside = ((inner >= ends[0]) & (inner <= ends[1]))[:, :2].all(1)
    low, high = (torch.full((1, 5), side * torch.inf, dtype=torch.float64) for side in (-1, 1))
    low[:, :2], high[:, :2] = ends
    known, reached = Ends({front: (low, high)}), module(points[inside]) @ (rows := torch.randn(3, 6).double())
    values.tighten(front, low, high)
    for scale in (0.0, 0.1, 1.0, 10.0):
        multipliers = {front: scale * torch.randn(6, 1, 5, dtype=torch.float64)}
        known.clamp(multipliers)
        forms = known.applied({output: rows.T[:, None]}, multipliers)
        with torch.no_grad():
            bound = Backward(walk, values).lower(forms) + known.constant(multipliers, Backward.slack)
        assert bool((bound[:, 0] <= reached.amin(0) + 1e-9).all()) and len(reached) > 20
    coarse = known.constant(multipliers, 0.25) - known.constant(multipliers, 0.0)
    ends_of = torch.where(multipliers[front] > 0, low, high).nan_to_num(0.0, 0.0, 0.0)
    torch.testing.assert_close(coarse, -0.25 * (multipliers[front] * ends_of).abs().sum(2))
    wrong = {front: torch.zeros(1, 1, 5, dtype=torch.float64).index_fill(2, torch.tensor(4), 1.0)}
    assert known.constant(wrong, 0.0).tolist() == [[-torch.inf]]


def test_what_an_ascent_returns_pays_for_the_rounding_of_its_multipliers(network, monkeypatch):
    """The steps themselves prove nothing, and pay nothing."""
    walk, values, forms = network
    front, paid, constant = next(iter(walk.steps)), [], Ends.constant
    monkeypatch.setattr(Ends, "constant", lambda *given: paid.append(given[2]) or constant(*given))
    known = Ends({front: (values.box(front).lower, values.box(front).upper)})
    ascend(walk, values, forms, 2, known)
    assert paid == [0.0, 0.0, 0.0, Backward.slack]


@pytest.mark.parametrize("fixture", ["network", "attention"])
def test_boxes_are_tightened_from_both_sides_where_it_matters(fixture, request):
    """In front of Softmax, and where a Relu is unstable, boxes are those of two backward passes; signs are found."""
    walk, _, _ = request.getfixturevalue(fixture)
    x = torch.rand(2, *walk.graph.node(walk.inputs[0]).shape[1:], generator=torch.Generator().manual_seed(2))
    found = refined_values(walk, (Interval.bounds(x - 0.03, x + 0.03),), Arithmetic.REAL)
    backward, kinds = Backward(walk, found), set()
    for step in walk.steps.values():
        if step.operator.name not in ("Relu", "Softmax"):
            continue
        box = found.box(step.operands[0])
        units = torch.eye(box.lower[0].numel(), dtype=torch.float64).reshape(-1, 1, *box.lower.shape[1:])
        units = units.expand(-1, 2, *units.shape[2:])
        with torch.no_grad():
            low, high = backward.lower({step.operands[0]: units}).T, -backward.lower({step.operands[0]: -units}).T
        lower, upper = box.lower.flatten(1), box.upper.flatten(1)
        matters = (lower < 0) & (upper > 0) if step.operator.name == "Relu" else lower < upper
        assert bool((lower >= low - 1e-9)[matters].all() and (upper <= high + 1e-9)[matters].all())
        assert bool((upper <= 0)[high <= 0].all() and (lower >= 0)[low >= 0].all())
        kinds |= {
            name for name, some in (("dead", high <= 0), ("active", low >= 0), ("unstable", matters)) if some.any()
        }
    assert kinds == {"dead", "active", "unstable"}


@pytest.mark.parametrize("fixture", ["network", "attention"])
def test_boxes_and_bounds_are_the_same_however_many_forms_go_back_at_once(fixture, request, monkeypatch):
    walk, _, forms = request.getfixturevalue(fixture)
    x = torch.rand(2, *walk.graph.node(walk.inputs[0]).shape[1:], generator=torch.Generator().manual_seed(2))
    box, rows = Interval.bounds(x - 0.03, x + 0.03), next(iter(forms.values()))[:, 0]

    def found():
        with torch.no_grad():
            values = refined_values(walk, (box,), Arithmetic.REAL)
            ends = bounds_of(walk, Backward(walk, values), values, rows, torch.inf)
        return [*ends, *(end for name in walk.steps if name in walk.perturbed for end in _ends(values.box(name)))]

    together = found()
    for most in (1, 150):
        monkeypatch.setattr(sys.modules["ibpc.bounds.batching"], "MOST_COEFFICIENTS_ON_A_CPU", most)
        for one, other in zip(found(), together, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_after_the_deadline_boxes_are_those_of_intervals(attention, monkeypatch):
    monkeypatch.setattr(sys.modules["ibpc.bounds.refinement"], "FEW_INPUTS", 0)
    walk, *_ = attention
    box = Interval.bounds(torch.full((1, 10, 6), 0.4), torch.full((1, 10, 6), 0.6))
    with torch.no_grad():
        found, plain = (
            refined_values(walk, (box,), Arithmetic.REAL, 0.0),
            interval_values(walk, (box,), Arithmetic.REAL),
        )
    for name in walk.steps:
        if name in walk.perturbed:
            assert all(map(torch.equal, _ends(found.box(name)), _ends(plain.box(name))))


def _ends(box):
    return box.lower, box.upper


@pytest.mark.parametrize("shape", [(2, 5), (1, 5), (3, 2, 5)], ids=["batch", "shared", "rows"])
@pytest.mark.parametrize("worst", [0.0, torch.inf, torch.nan])
def test_a_weighed_form_is_the_sum_of_its_products(shape, worst):
    generator = torch.Generator().manual_seed(0)
    form = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    factor = torch.rand(shape, generator=generator, dtype=torch.float64)
    form[1, :, 2] = 0.0
    factor[..., 2] = worst
    expected = torch.where(form == 0, 0.0, form * factor).sum(2)
    for finite in (lambda values: bool(values.isfinite().all()), lambda _: False):
        torch.testing.assert_close(coefficients.weighed(form, factor, finite), expected, equal_nan=True)
    assert bool(expected[1].isfinite().all()), "a coefficient of 0 meets the worst factor"


class Scalars(nn.Module):
    """Values without dimensions beside the batch: a sum, what is made of it, and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)

    def forward(self, x):
        total = torch.relu(self.first(x)).sum(-1)
        return torch.sigmoid(0.3 * total - 1.0) * 2.0 + 1.0


@pytest.mark.parametrize("worth", [0.0, torch.inf])
@pytest.mark.parametrize("few", [-1, 64])
@pytest.mark.parametrize("method", ["forward", "crown-ibp", "crown", "alpha-crown"])
def test_values_without_dimensions_are_bounded(method, few, worth, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(backward, "_WORTH_A_SINGLE_POINT", worth)
    monkeypatch.setattr(sys.modules["ibpc.bounds.refinement"], "FEW_INPUTS", few)
    module, x = Scalars().eval(), torch.rand(4, 3)
    graph = ibpc.compile(module, x).snapshot()
    bound = METHODS[method].bounder(walk_of(graph), torch.eye(1), Arithmetic.FLOAT32)
    box = bound(Interval.bounds(x - 0.2, x + 0.2))
    with torch.no_grad():
        y = module(x + 0.4 * torch.rand(500, 4, 3) - 0.2)
    assert bool((y >= box.lower[:, 0]).all() and (y <= box.upper[:, 0]).all())
    assert float((box.upper - box.lower).max()) < 1.0


class Exponential(nn.Module):
    """exp(W x) for the rows of W."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Linear(2, len(rows), bias=False)
        self.rows.weight = nn.Parameter(torch.tensor(rows))

    def forward(self, x):
        return torch.exp(self.rows(x))


def bounds_of_each_output(module, arithmetic):
    x = torch.ones(1, 2)
    walk = walk_of(ibpc.compile(module.eval(), x).snapshot())
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), arithmetic)
    (output,) = walk.graph.outputs
    count = values.box(output).lower.shape[1]
    return pulled(walk, values, {output: torch.eye(count, dtype=torch.float64).unsqueeze(1)})[0]


@pytest.mark.parametrize(("arithmetic", "weight"), [(Arithmetic.FLOAT32, 200.0), (Arithmetic.REAL, 2000.0)])
def test_a_form_that_ignores_what_overflows_is_bounded_as_if_that_were_not_there(arithmetic, weight):
    rows = [[1.0, -1.0], [0.5, 2.0]]
    alone = bounds_of_each_output(Exponential(rows), arithmetic)
    beside = bounds_of_each_output(Exponential([[weight, 0.0], *rows]), arithmetic)
    assert not beside[0].isfinite(), "nothing overflows"
    assert bool(alone.isfinite().all())
    torch.testing.assert_close(beside[1:], alone, rtol=1e-12, atol=1e-12)


class Coarse(Backward):
    """A backward pass in a coarse arithmetic, whose roundings can be counted by hand."""

    slack = 2.0**-6


WAYS = {
    "windows": (lambda form: form, True),
    "both planes at once": (dense, True),
    "each plane": (dense, False),
}


@pytest.mark.parametrize(
    ("low", "high", "sign", "least", "slacks", "errors"),
    [
        (-3.0, 1.0, 1.0, 0.0, {True: 2.75, False: 1.0}, 0.25),
        (-3.0, 1.0, -1.0, -1.0, {True: 4.5, False: 4.375}, 0.3125),
        (0.0, 2.0, 1.0, -1.0, {True: 17.0, False: 13.0}, 0.75),
        (0.0, 2.0, -1.0, -3.0, {True: 15.0, False: 11.25}, 0.625),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_every_node_pays_for_its_own_rounding_and_its_planes(way, low, high, sign, least, slacks, errors, monkeypatch):
    """Worked by hand for z = relu(y), y = 2 x − 1, which binary32 computes with errors of up to 1/4 and 1/2.

    The first box gives −7 ≤ y ≤ 1 and 0 ≤ z ≤ (y + 7) / 8. A form −z has −1/8 at y and −1/4 at x, at least
    −7/8 + 1/8 + 1/4 − 1/2 = −1. Slacks: |z| ≤ 1, the planes' 7/8 + 7/8, |y| / 8 ≤ 7/8, and (|center| + radius) / 4 at
    x, 3/4. A form z meets the lower plane 0. The second box gives −1 ≤ y ≤ 3 and y ≤ z ≤ 3 (y + 1) / 4. Where both
    planes are applied at once, both are paid for, and so is the constant −1 of y times the slope, 1/8, 1 or 3/4.
    """
    make, is_at_once = WAYS[way]
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    nn.init.constant_(module[0].weight, 2.0)
    nn.init.constant_(module[0].bias, -1.0)
    ends = [torch.full((1, 1, 4, 4), end) for end in (low, high)]
    walk = walk_of(ibpc.compile(module.eval(), ends[0]).snapshot())
    values = interval_values(walk, (Interval.bounds(*ends),), Arithmetic.REAL)
    inner, outer = list(walk.steps)[:2]
    for name, error in ((inner, 0.5), (outer, 0.25)):
        values.errors[name] = torch.full((1, 1, 4, 4), error, dtype=torch.float64)
    if not is_at_once:
        monkeypatch.setattr(Backward, "_bend", lambda *_: None)
    form = make(unit_forms(torch.arange(16), torch.full((16,), sign).double(), values.box(outer).lower.shape))
    found = Coarse(walk, values).lower({outer: form})
    wanted = least - Coarse.slack * slacks[is_at_once] - errors * (1.0 + 2.0**-8)
    assert found.tolist() == [[wanted]] * 16


class Several(nn.Module):
    """Affine nodes with one nonlinear reader, with two, with one and a sum, and one that is spread over an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(2, 3, 3, 1, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(2, 3, 4)
        self.flat, self.last = nn.Linear(48, 5), nn.Linear(5, 2)

    def forward(self, x):
        y = self.first(x)
        z = self.second(torch.relu(y) * 0.5 + torch.tanh(y))
        w = torch.maximum(self.third(x), torch.relu(z) + z)
        return self.last(torch.relu(self.flat(w.flatten(1))))


class Chain(nn.Module):
    """Each value has one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, 1, 1), nn.Conv2d(3, 3, 2)
        self.flat, self.last = nn.Linear(27, 5), nn.Linear(5, 2)

    def forward(self, x):
        y = torch.relu(self.second(torch.tanh(self.first(x))))
        return self.last(torch.relu(self.flat(y.flatten(1))))


class Never(Backward):
    """A backward pass in which every affine node pays for itself."""

    def __init__(self, walk, values):
        super().__init__(walk, values)
        self._payments.ahead = frozenset()


@pytest.mark.parametrize("module", [Several, Chain])
@pytest.mark.parametrize("is_at_once", [True, False])
@pytest.mark.parametrize("error", [0.0, 0.25])
def test_whoever_adds_to_a_form_pays_for_the_node_as_it_would_itself(module, is_at_once, error, monkeypatch):
    """Constants are the same; what rounding takes is, of a sum of forms, that of each of them: no less."""
    torch.manual_seed(5)
    x = torch.rand(2, 2, 4, 4)
    walk = walk_of(ibpc.compile(module().eval(), x).snapshot())
    values = interval_values(walk, (Interval.bounds(x - 0.3, x + 0.3),), Arithmetic.REAL)
    for name in walk.steps.keys() & walk.perturbed if error else ():
        values.errors[name] = error * torch.rand_like(values.box(name).lower)
    if not is_at_once:
        monkeypatch.setattr(Backward, "_bend", lambda *_: None)
    assert len(Backward(walk, values)._payments.ahead) >= 3
    for name in (node for node, step in walk.steps.items() if step.operator.is_affine and node in walk.perturbed):
        sizes = values.box(name).lower.shape
        elements = torch.arange(sizes[1:].numel()).repeat_interleave(2)
        forms = unit_forms(elements, torch.tensor([1.0, -2.0]).double().repeat(len(elements) // 2), sizes)
        weights = torch.randn(4, 1, *sizes[1:], dtype=torch.float64).expand(-1, 2, *sizes[1:])
        for form in (forms, dense(forms), weights):
            ahead, never = Backward(walk, values).lower({name: form}), Never(walk, values).lower({name: form})
            assert bool((ahead <= never + 1e-9).all())
            if module is Chain or not error:
                torch.testing.assert_close(ahead, never, rtol=1e-9, atol=1e-9)
        picked, spelled_out = (Backward(walk, values).lower({name: form}) for form in (forms, dense(forms)))
        torch.testing.assert_close(picked, spelled_out, rtol=1e-9, atol=1e-9)


def test_the_size_of_a_plane_is_that_of_all_that_is_summed():
    """Worked by hand for a box, one constant and windows: |offset| + Σ |slope| · the greatest modulus."""
    x = Interval.bounds(torch.tensor([[-3.0, 0.5]]), torch.tensor([[1.0, 4.0]]))
    y, offset = torch.tensor([-5.0, 0.5]), torch.tensor([[-1.0, 2.0]])
    plane = Plane((torch.tensor([[0.5, -2.0]]), torch.tensor([[1.0, -1.0]])), offset)
    assert coefficients.plane_size(plane, (x, y)).tolist() == [[1.0 + 1.5 + 5.0, 2.0 + 8.0 + 0.5]]
    viewed = Plane((torch.tensor([[[0.5, -2.0]]]),), torch.tensor([[-1.0]]), (lambda value: value.unsqueeze(1),))
    assert coefficients.plane_size(viewed, (x,)).tolist() == [[1.0 + 1.5 + 8.0]]


def test_where_there_is_nothing_to_choose_an_ascent_stays_where_it_is():
    """Over lines of HardSwish, x here, both planes are the only ones there are."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Hardswish(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        module[0].bias.fill_(20.0)
    graph = ibpc.compile(module, torch.zeros(1, 3)).snapshot()
    box = Interval.bounds(torch.zeros(1, 3), torch.ones(1, 3))
    bounds = [
        METHODS[method].bounder(walk_of(graph), torch.eye(2), Arithmetic.REAL)(box)
        for method in ("crown", "alpha-crown")
    ]
    weight = (module[2].weight @ module[0].weight).clamp(min=0.0).sum(1)
    point = module(torch.zeros(1, 3))
    assert torch.allclose(bounds[1].upper.float(), point + weight, atol=1e-4)
    assert torch.equal(bounds[0].lower, bounds[1].lower) and torch.equal(bounds[0].upper, bounds[1].upper)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.SELU, nn.Softplus, nn.Hardswish])
def test_slopes_of_curves_that_are_chosen_bound_more_closely(activation):
    """And hold what points give; boxes are wide enough to have turns inside."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3.0)
    graph = ibpc.compile(module, torch.zeros(1, 3)).snapshot()
    box = Interval.bounds(torch.full((1, 3), -0.4), torch.full((1, 3), 0.6))
    plain, chosen = (
        METHODS[method].bounder(walk_of(graph), torch.eye(2), Arithmetic.REAL)(box)
        for method in ("crown", "alpha-crown")
    )
    assert bool((chosen.upper - chosen.lower < 0.97 * (plain.upper - plain.lower)).all())
    points = torch.rand(20000, 3) * (box.upper - box.lower) + box.lower
    with torch.no_grad():
        values = module(points)
    assert bool((values >= chosen.lower - 1e-4).all()) and bool((values <= chosen.upper + 1e-4).all())


def test_constants_of_binary32_stay_out_of_bounds_in_binary64():
    """Ascents compare choices in binary32 over a walk of their own: what it keeps must not reach the bound itself."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)]
    walk = walk_of(ibpc.compile(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3)).snapshot())
    values = interval_values(walk, (Interval.bounds(torch.zeros(1, 3), torch.ones(1, 3)),), Arithmetic.FLOAT32)
    (output,) = walk.graph.outputs
    ascend(walk, values, {output: torch.eye(2, dtype=torch.float64).unsqueeze(1)}, 3)
    kept = [known for known in walk.constants.values() if known is not None]
    assert kept and all(known.dtype == torch.float64 for known in kept)
    rough = [known for known in walk.rough.constants.values() if known is not None]
    assert rough and all(known.dtype == torch.float32 for known in rough)
