"""The cone of influence: what a few outputs depend on, and that their bounds need nothing else."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

import ibpc
from ibpc.bounds.backward import Backward
from ibpc.bounds.cone import cone_of, read_by
from ibpc.bounds.crown import bounds_of
from ibpc.bounds.refinement import interval_values, refined_values
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic
from ibpc.verify.properties import Box, Case, DeclaredTensor, Property, Row
from ibpc.verify.search.roots import Roots

CPU = torch.device("cpu")


class Detector(nn.Module):
    """An answer for every place of an image, and one branch that sees all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.last, self.deep = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = torch.sigmoid(nn.functional.avg_pool2d(self.second(y), 2)) - 0.1
        y = torch.relu(self.deep(y) * y)
        return self.last(torch.relu(y)).flatten(1)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(3)
    module = Detector().eval()
    x = torch.rand(2, 2, 12, 12)
    walk = walk_of(ibpc.compile(module, x[:1]).snapshot())
    return module, x, walk, (Interval.bounds(x - 0.03, x + 0.03),)


def one_of(count, *chosen):
    wanted = torch.zeros(count, dtype=torch.bool)
    wanted[list(chosen)] = True
    return wanted


def test_the_cone_holds_what_has_a_gradient_and_is_narrow(detector):
    """Against gradients of the nominal rules at random points; a corner of 6×6 sees 9 of the 12 rows of the image."""
    _, x, walk, boxes = detector
    values = interval_values(walk, boxes, Arithmetic.REAL)
    wanted = one_of(72, 0, 37)
    cone = cone_of(walk, values, wanted)
    for seed in range(20):
        torch.manual_seed(seed)
        known = {walk.inputs[0]: torch.rand(1, *x.shape[1:], dtype=torch.float64).requires_grad_()}
        for name, step in walk.steps.items():
            known[name] = step.operator.rules.nominal(step.call, *map(known.get, step.operands), **step.parameters)
        (output,) = walk.graph.outputs
        read = known[output][:, wanted].sum()
        for name, mark in cone.items():
            if not known[name].requires_grad:
                continue
            slopes = torch.autograd.grad(read, known[name], retain_graph=True)[0]
            assert bool(mark[slopes.flatten() != 0].all()), name
    first = next(step.operands[0] for step in walk.steps.values() if step.node.operator == "Relu")
    assert 0 < int(cone[first].sum()) < 0.7 * len(cone[first])


def test_bounds_of_the_outputs_in_question_do_not_change(detector):
    _, _, walk, boxes = detector
    (output,) = walk.graph.outputs
    rows = torch.eye(72, dtype=torch.float64)[[5, 40]]
    with torch.no_grad():
        cone = cone_of(walk, interval_values(walk, boxes, Arithmetic.FLOAT32), read_by(rows))
        whole = refined_values(walk, boxes, Arithmetic.FLOAT32)
        part = refined_values(walk, boxes, Arithmetic.FLOAT32, cone=cone)
        ends = [bounds_of(walk, Backward(walk, values), values, rows, float("inf")) for values in (whole, part)]
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    outside = ~read_by(rows)
    width = [values.box(output).width[:, outside].mean() for values in (whole, part)]
    assert width[0] < width[1]


def test_all_outputs_have_no_cone_but_what_everybody_sees(detector):
    _, _, walk, boxes = detector
    assert cone_of(walk, interval_values(walk, boxes, Arithmetic.REAL), one_of(72, *range(72))) == {}


def test_an_operator_that_mixes_elements_reads_all_of_them():
    module = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 6), nn.ReLU()).eval()
    x = torch.rand(1, 4)
    walk = walk_of(ibpc.compile(module, x).snapshot())
    cone = cone_of(walk, interval_values(walk, (Interval.bounds(x - 0.1, x + 0.1),), Arithmetic.REAL), one_of(6, 2))
    relu, softmax = (
        next(step for step in walk.steps.values() if step.node.operator == operator) for operator in ("Relu", "Softmax")
    )
    assert cone[relu.operands[0]].nonzero().flatten().tolist() == [2]
    assert not {softmax.node.name, softmax.operands[0]} & set(cone)


def test_a_search_tightens_what_its_property_reads(detector):
    module, x, _, _ = detector
    ends = (tuple(map(Fraction, side.flatten().tolist())) for side in (x[0] - 0.03, x[0] + 0.03))
    case = Case(Box(*ends), ((Row(((7, Fraction(1)),), (), Fraction(0)),),))
    prop = Property("one", (DeclaredTensor("x", (2, 12, 12)),), (DeclaredTensor("y", (72,)),), (case,))
    assert prop.read_outputs().nonzero().flatten().tolist() == [7]
    roots = Roots(walk_of(ibpc.compile(module, x[:1]).snapshot()), prop, Arithmetic.REAL)
    assert roots.cone
    with torch.no_grad():
        plain, tight = roots.plain(0), roots.values(0)
    rectified = [step.operands[0] for step in roots.walk.steps.values() if step.node.operator == "Relu"][1:]
    for name in rectified:
        narrower = (tight.box(name).width < plain.box(name).width - 1e-9).flatten()
        assert bool(narrower[roots.cone[name]].any()), name


def test_values_without_features_are_in_the_cone_or_not():
    """A network of numbers to numbers on one branch: values (B,)."""

    class Numbers(nn.Module):
        def forward(self, x):
            y = torch.relu(x - 0.5).sum(1)
            return torch.stack([torch.relu(y), torch.relu(x[:, 0])], 1)

    x = torch.rand(1, 3)
    walk = walk_of(ibpc.compile(Numbers().eval(), x).snapshot())
    cone = cone_of(walk, interval_values(walk, (Interval.bounds(x - 0.4, x + 0.4),), Arithmetic.REAL), one_of(2, 1))
    assert any(len(mark) == 1 and not bool(mark.any()) for mark in cone.values())
