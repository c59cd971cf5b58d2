"""Rows and boxes as tensors, at the very edge: what bounds say of a conjunction, which points lie in a box."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.verify.properties import Box, Case, Row
from ibpc.verify.specification import Refutation, Specification

ABOVE, BELOW = float(torch.finfo(torch.float32).tiny), -float(torch.finfo(torch.float32).tiny)


def refutation(factor: int, strict: bool, lower: float, upper: float) -> Refutation:
    """What [lower, upper] of y says of factor · y ≤ 0, or < 0."""
    box = Box((Fraction(0),), (Fraction(1),))
    row = Row(((0, Fraction(factor)),), (), Fraction(0), strict)
    (found,) = Specification([Case(box, ((row,),))], 1).refutations(0, torch.tensor([lower]), torch.tensor([upper]))
    return found


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("factor", [1, 3, -1, -3])
def test_a_bound_at_the_edge_refutes_only_what_is_strict(factor, strict):
    beyond, before = (ABOVE, BELOW) if factor > 0 else (BELOW, ABOVE)
    for end, refuted in ((beyond, True), (0.0, strict), (before, False)):
        ends = (end, 1.0) if factor > 0 else (-1.0, end)
        assert refutation(factor, strict, *ends).refuted is refuted


@pytest.mark.parametrize("end", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_refutes_nothing(end):
    assert refutation(1, False, end, 1.0) == Refutation(float("-inf"), False)
    assert refutation(-1, True, -1.0, end) == Refutation(float("-inf"), False)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_point_lies_in_a_box_where_exact_numbers_say_so(is_open):
    intervals = [(Fraction(1, 10), Fraction(2, 3)), (Fraction(-1, 3), Fraction(1, 7)), (Fraction(1, 4), Fraction(1, 2))]
    for low, high in intervals:
        opened = frozenset({0}) if is_open else frozenset()
        box = Box((low,), (high,), opened, opened)
        near = torch.tensor([float(low), float(high)])
        candidates = torch.cat([near, *(near.nextafter(torch.tensor(end)) for end in (-torch.inf, torch.inf))])
        for point in candidates:
            x = Fraction(float(point))
            assert box.inside(point[None]) is (low < x < high if is_open else low <= x <= high)
        ends = [Fraction(float(end)) for end in box.inner]
        assert all(low < end < high if is_open else low <= end <= high for end in ends)


def test_margins_are_those_of_the_label():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 1, 2])
    differences = logits @ class_differences(4).T
    found = margins_of(differences - 0.25, differences + 0.25, labels, margin_index(4))
    expected = logits.gather(1, labels[:, None]) - logits - 0.25
    torch.testing.assert_close(found, expected.scatter(1, labels[:, None], 0.0))
