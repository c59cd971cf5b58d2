"""Forms that see windows only: patches bound what all coefficients bound, and hold what the network computes."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
import torch
from torch import nn

import ibpc
from ibpc.bounds.backward import Backward
from ibpc.bounds.forms import dense, unit_forms
from ibpc.bounds.patches import Patches, Span, Window
from ibpc.bounds.refinement import dense_cost, interval_values, refined_values
from ibpc.bounds.values import walk_of
from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import BATCH
from ibpc.ops import operators
from ibpc.ops.rules import Call, Kernel
from ibpc.rounding import Arithmetic

CPU = torch.device("cpu")


class Branches(nn.Module):
    """Strides, pads on one side, dilations, groups, sums and differences of branches that see different windows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), (1, 2), padding=(1, 0))
        self.wide, self.narrow = nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(4, 6, 1, 2)
        self.holes = nn.Conv2d(6, 4, (2, 3), padding=(1, 2), dilation=(1, 2), bias=False)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x):
        y = torch.relu(self.first(nn.functional.pad(x, (1, 0, 0, 2))))
        y = torch.relu(nn.functional.avg_pool2d(nn.functional.pad(y, (2, -1, -1, 1)), (2, 3), (1, 1)))
        y = torch.relu(self.wide(y) - self.narrow(y))
        y = torch.sigmoid(self.holes(y))
        return torch.tanh(self.deep(y) + y).mean((2, 3))


class Steps(nn.Module):
    """Branches whose windows move at different paces meet."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Conv2d(1, 3, 3, 1, 1), nn.Conv2d(1, 3, 3, 2, 1)
        self.last = nn.Conv2d(3, 2, 3, 2, 1)

    def forward(self, x):
        return (torch.relu(self.last(torch.relu(self.slow(x)))) + torch.relu(self.fast(x)[:, :2])).flatten(1)


class Mixed(nn.Module):
    """Operators of two images, of an image and a constant, and ones that see more than a window."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.up, self.slopes = nn.ConvTranspose2d(4, 4, 3, 1, 1), nn.PReLU(4, 0.3)
        self.register_buffer("image", torch.linspace(-1, 1, 80).reshape(1, 1, 8, 10))

    def forward(self, x):
        y, z = torch.relu(self.first(x)), torch.tanh(self.other(x))
        w = self.last(torch.maximum(y * z, y - z) + self.image)
        w = self.slopes(torch.softmax(w, 1) - w / (2.0 + y))
        gate, row = w.mean((2, 3), keepdim=True), w[:, :, :1]
        w = torch.maximum(w * gate - row, gate) + torch.tanh(row)
        w = nn.functional.max_pool2d(self.up(w) * self.image, 3, 1, 1)
        return torch.relu(self.last(nn.functional.avg_pool2d(w, 2)) * 2.0 - 0.1).flatten(1)


@pytest.fixture(scope="module", params=[Branches, Steps, Mixed], ids=lambda kind: kind.__name__)
def network(request):
    torch.manual_seed(1)
    module = request.param().eval()
    channels = next(module.parameters()).shape[1]
    x = torch.rand(2, channels, *((8, 10) if request.param is Mixed else (24, 26)))
    return module, x, walk_of(ibpc.compile(module, x[:1]).snapshot())


def images(walk, values):
    return [name for name in walk.steps if name in walk.perturbed and values.box(name).lower.dim() == 4]


class Coarse(Backward):
    """A backward pass in a coarse arithmetic: what it pays for its own rounding shows in every bound."""

    slack = 2.0**-6


@pytest.mark.parametrize(
    ("arithmetic", "batch", "kind"),
    [(Arithmetic.REAL, 1, Backward), (Arithmetic.FLOAT32, 2, Backward), (Arithmetic.REAL, 2, Coarse)],
    ids=["real", "binary32", "coarse"],
)
def test_patches_bound_what_all_coefficients_bound(network, arithmetic, batch, kind):
    _, x, walk = network
    values = interval_values(walk, (Interval.bounds(x[:batch] - 0.1, x[:batch] + 0.1),), arithmetic)
    backward = kind(walk, values)
    for name in images(walk, values):
        box = values.box(name).lower
        elements = torch.cat([torch.arange(0, box[0].numel(), 7), torch.tensor([box[0].numel() - 1])])
        units = unit_forms(elements, torch.ones(len(elements)).double(), box.shape)
        assert isinstance(units, Patches)
        with torch.no_grad():
            for forms in (units, units.scaled(-1.0)):
                few, all = backward.lower({name: forms}), backward.lower({name: dense(forms)})
                torch.testing.assert_close(few, all, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [unit_forms, lambda *given: dense(unit_forms(*given))])
def test_the_least_value_over_a_box_pays_for_its_rounding(form):
    """Of one element with center c and radius r: c − r, less the slack of what is summed, |c| + r."""
    low, high = torch.full((1, 1, 4, 4), -3.0), torch.full((1, 1, 4, 4), 1.0)
    walk = walk_of(ibpc.compile(nn.Conv2d(1, 1, 1).eval(), low).snapshot())
    values = interval_values(walk, (Interval.bounds(low, high),), Arithmetic.REAL)
    (name,) = walk.inputs
    found = Coarse(walk, values).lower(
        {name: form(torch.arange(16), torch.ones(16).double(), values.box(name).lower.shape)}
    )
    assert found.tolist() == [[-3.0 - Coarse.slack * (1.0 + 2.0)]] * 16


@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_boxes_tightened_by_patches_hold_the_values_of_samples(network, arithmetic):
    _, x, walk = network
    eps = 0.02
    with torch.no_grad():
        low, high = x - eps, x + eps
        values = refined_values(walk, (Interval.bounds(low, high),), arithmetic)
        points = torch.cat([torch.rand(30, *x.shape), torch.randint(2, (30, *x.shape)).float()])
        known = {walk.inputs[0]: torch.lerp(low.double(), high.double(), points.double()).flatten(0, 1)}
        for name, step in walk.steps.items():
            result = step.operator.rules.nominal(step.call, *map(known.get, step.operands), **step.parameters)
            known[name] = result
            if name in walk.perturbed:
                box, found = values.box(name), result.reshape(60, 2, *result.shape[1:])
                assert bool((found >= box.lower - 1e-12).all() and (found <= box.upper + 1e-12).all()), name


def test_patches_tighten_boxes(network):
    _, x, walk = network
    boxes = (Interval.bounds(x - 0.02, x + 0.02),)
    with torch.no_grad():
        plain, tight = interval_values(walk, boxes, Arithmetic.REAL), refined_values(walk, boxes, Arithmetic.REAL)
    (output,) = walk.graph.outputs
    assert float(tight.box(output).width.mean()) < float(plain.box(output).width.mean())


def test_a_form_of_a_window_costs_less_than_one_of_the_image(network):
    """Hand-worked for the first convolution of each: for each channel a kernel of 3·2·2, 3·3·1 or 3·3·2 products."""
    module, x, walk = network
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), Arithmetic.REAL)
    backward = Backward(walk, values)
    costs = {name: backward.cost(name) for name in images(walk, values)}
    first = next(name for name, step in walk.steps.items() if step.node.operator == "Conv")
    assert costs[first].work == {"Branches": 12 * 4, "Steps": 9 * 3, "Mixed": 18 * 4}[type(module).__name__]
    whole = {name: dense_cost(walk, name) for name in costs}
    assert all(cost.work <= whole[name].work for name, cost in costs.items())
    rectifiers = [name for name in costs if walk.steps[name].node.operator == "Relu"]
    assert all(costs[name].work < 0.1 * whole[name].work for name in rectifiers[:1])


def test_windows_of_convolutions_are_those_of_the_hand():
    """A neuron of a 3×3 convolution with stride 2 and pad 1, after one with a 5×5 kernel and pad 2, sees 7×7."""
    first, second = (
        Kernel(torch.ones(1, 1, k, k), None, (s, s), (p, p), (1, 1), 1) for k, s, p in ((5, 1, 2), (3, 2, 1))
    )
    window = Window().through(second).through(first)
    assert window == Window(Span(7, 2, 3), Span(7, 2, 3))
    assert window.rows.indices(torch.tensor([0, 4])).tolist() == [list(range(-3, 4)), list(range(5, 12))]
    assert window.joined(Window(Span(1, 2, -1), Span(2, 2, 5))) == Window(Span(7, 2, 3), Span(9, 2, 5))
    assert window.joined(Window(Span(1, 1, 0), Span(1, 2, 0))) is None


def test_spans_meet_in_the_least_span_around_both():
    for one in (Span(2, 1, 0), Span(3, 1, -4), Span(1, 1, 6)):
        for other in (Span(2, 1, 0), Span(5, 1, 3)):
            joined = one.joined(other)
            seen = sorted({*one.indices(torch.tensor([0]))[0].tolist(), *other.indices(torch.tensor([0]))[0].tolist()})
            assert joined is not None
            assert joined.indices(torch.tensor([0]))[0].tolist() == list(range(seen[0], seen[-1] + 1))


def test_a_form_that_ignores_what_overflows_is_not_lost():
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        module[0].weight[1] = 3e38
    x = torch.rand(1, 1, 16, 16)
    walk = walk_of(ibpc.compile(module.eval(), x).snapshot())
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), Arithmetic.FLOAT32)
    name = next(iter(walk.steps))
    forms = unit_forms(torch.arange(4), torch.ones(4).double(), values.box(name).lower.shape)
    with torch.no_grad():
        few = Backward(walk, values).lower({name: forms})
    assert bool(few.isfinite().all())
    torch.testing.assert_close(few, Backward(walk, values).lower({name: dense(forms)}).detach())


LOCAL = [name for name, operator in operators().items() if operator.rules.local is not None]


def test_operators_that_say_what_they_see():
    assert set(LOCAL) == {"Add", "AveragePool", "Conv", "Pad", "Sub"}


@pytest.mark.parametrize("seed", range(4))
def test_what_an_operator_says_it_sees_is_what_it_computes(seed):
    """Every operator of the two networks with a local rule, at random points."""
    torch.manual_seed(seed)
    graphs = [
        ibpc.compile(kind().eval(), torch.rand(1, c, 12, 13)).snapshot() for kind, c in ((Branches, 2), (Steps, 1))
    ]
    seen = set()
    for graph in graphs:
        for step in walk_of(graph).steps.values():
            if step.operator.rules.local is None or len(step.call.output) != 4:
                continue
            seen.add(step.node.operator)
            points = [torch.randn(2, *shape[1:], dtype=torch.float64) for shape in step.call.operands]
            told = step.operator.rules.local(step.call, **step.parameters)
            expected = step.operator.rules.nominal(step.call, *points, **step.parameters)
            torch.testing.assert_close(_as_told(told, points, expected.shape[2:]), expected)
    assert seen == set(LOCAL)


@pytest.mark.parametrize(
    ("operator", "attributes", "says"),
    [
        ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 0, 0, 0]}, True),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, True),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [2, 1]}, True),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, False),
        ("Pad", {"pads": [0, 0, 1, -2, 0, 0, -3, 4]}, True),
        ("Pad", {"pads": [0, 0, 1, 0, 0, 0, 0, 0], "value": 0.5}, False),
        ("Pad", {"pads": [0, 0, 1, 0, 0, 0, 0, 0], "mode": "edge"}, False),
        ("Pad", {"pads": [0, 1, 0, 0, 0, 0, 0, 0]}, False),
    ],
)
def test_pools_and_pads_that_are_convolutions_and_those_that_are_not(operator, attributes, says):
    found = operators()[operator]
    defaults = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "ceil_mode": 0, "count_include_pad": 0}
    defaults = defaults if operator == "AveragePool" else {"mode": "constant", "value": 0.0}
    attributes, operand = {**defaults, **attributes}, (BATCH, 3, 9, 7)
    call = Call(attributes, (operand,), {}, found.shape(attributes, (operand,), {}))
    told = found.rules.local(call)
    assert (told is not None) == says
    if told is not None:
        x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
        expected = found.rules.nominal(call, x)
        torch.testing.assert_close(_as_told(told, [x], expected.shape[2:]), expected)


def _as_told(told, points, sizes):
    if not isinstance(told, Kernel):
        return sum(factor * point for factor, point in zip(told, points, strict=True))
    top, left = told.pads
    padded = nn.functional.pad(points[0], (left, 50, top, 50))  # A negative pad crops.
    found = nn.functional.conv2d(padded, told.weight, told.bias, told.strides, 0, told.dilations, told.group)
    return found[..., : sizes[0], : sizes[1]]


def random_convolution(generator, channels=None, image=(7, 9)):
    """Any strides, dilations, groups and pads to each side, over an image that may be smaller than a kernel."""

    def number(least, most):
        return int(torch.randint(least, most + 1, (), generator=generator))

    conv = operators()["Conv"]
    while True:
        group = number(1, 2) if channels is None or channels % 2 == 0 else 1
        operand = (BATCH, channels or group * number(1, 2), *image)
        weight = torch.randn(group * number(1, 2), operand[1] // group, number(1, 4), number(1, 4), generator=generator)
        parameters = {"weight": weight.double(), "bias": torch.randn(len(weight), generator=generator).double()}
        shapes = {role: tuple(value.shape) for role, value in parameters.items()}
        pairs = {name: [number(1, 3), number(1, 3)] for name in ("strides", "dilations")}
        attributes = {**pairs, "pads": [number(0, 3) for _ in range(4)], "group": group}
        try:
            return Call(attributes, (operand,), shapes, conv.shape(attributes, (operand,), shapes)), parameters
        except GraphError:
            continue  # The window is larger than the image with its pads.


@pytest.mark.parametrize("seed", range(60))
def test_windows_of_any_two_convolutions_are_pulled_back_as_all_of_the_image_is(seed):
    """Forms of elements in any order, some of them twice, against the values and gradients of the nominal rules."""
    generator = torch.Generator().manual_seed(seed)
    conv, batch = operators()["Conv"], 2
    first = random_convolution(generator)
    second = random_convolution(generator, first[0].output[1], first[0].output[2:])
    shape = second[0].output[1:]
    elements = torch.randint(prod(shape), (30,), generator=generator)
    mean, half = torch.randn(2, batch, *shape, generator=generator).double()
    half = half[:1, :, :1, :1].abs()
    units = Patches.units(elements, torch.ones(len(elements)).double(), batch, shape)
    forms = units.bent(*units.windows_of(mean, half))
    constant = torch.zeros(30, batch, dtype=torch.float64)
    x = torch.randn(batch, *first[0].operands[0][1:], generator=generator).double().requires_grad_()
    y = conv.rules.nominal(second[0], conv.rules.nominal(first[0], x, **first[1]), **second[1])
    for call, parameters in (second, first):
        kernel = conv.rules.local(call, **parameters)
        constant = constant + forms.dotted(kernel.bias[:, None, None])
        forms = forms.through(kernel, call.operands[0][1:])
    wanted = ((mean + half) * y).flatten(1)[:, elements].T
    torch.testing.assert_close(constant + forms.dotted(x.detach()), wanted.detach())
    torch.testing.assert_close(forms.dense().sum(0), *torch.autograd.grad(wanted.sum(), x))


@pytest.mark.parametrize("seed", range(30))
def test_forms_of_two_convolutions_of_one_image_add_up(seed):
    """Whatever their windows: added where they move alike, refused where they do not."""
    generator = torch.Generator().manual_seed(seed)
    units = Patches.units(torch.tensor([0, 5, 8]), torch.ones(3).double(), 1, (1, 3, 3))
    parts = []
    for strides in ((1, 2), (1, 2), (2, 2)):
        kernel, pads, dilations = torch.randint(1, 4, (3, 2), generator=generator).tolist()
        weight = torch.randn(1, 1, *kernel, generator=generator).double()
        parts.append(units.through(Kernel(weight, None, strides, tuple(pads), tuple(dilations), 1), (1, 12, 13)))
    one, other, faster = parts
    total = one.plus(other)
    assert total is not None
    torch.testing.assert_close(total.dense(), one.dense() + other.dense())
    assert one.plus(faster) is None


def test_forms_that_begin_at_several_nodes_are_added(network):
    """Row by row, although the windows of a row begin at other pixels at each node."""
    _, x, walk = network
    values = interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), Arithmetic.REAL)
    backward = Backward(walk, values)
    generator = torch.Generator().manual_seed(0)
    names = images(walk, values)
    for name, other in pairwise(names):
        boxes = {node: values.box(node).lower for node in (name, other)}
        forms = {
            node: unit_forms(
                torch.randint(box[0].numel(), (5,), generator=generator), torch.ones(5).double(), box.shape
            )
            for node, box in boxes.items()
        }
        with torch.no_grad():
            few = backward.lower(forms)
            all = backward.lower({node: dense(form) for node, form in forms.items()})
        torch.testing.assert_close(few, all, rtol=1e-12, atol=1e-12)
