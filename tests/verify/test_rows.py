"""Sums of rows, which both a search and the checker rest on: at every point what the rows themselves say, exactly."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from ibpc.errors import PropertyError
from ibpc.verify.properties import Row
from ibpc.verify.rows import summed, weighted, whole_coefficients, whole_scale, with_sum

INPUTS, OUTPUTS = 3, 4


def random_row(draw: random.Random) -> Row:
    """Return a row of some outputs and inputs; some bounds are 0."""
    outputs, inputs = (
        tuple((i, Fraction(draw.randint(1, 9) * draw.choice((-1, 1)), draw.randint(1, 7))) for i in sorted(chosen))
        for chosen in (draw.sample(range(OUTPUTS), draw.randint(1, 3)), draw.sample(range(INPUTS), draw.randint(0, 2)))
    )
    return Row(outputs, inputs, Fraction(draw.randint(-5, 5), draw.randint(1, 4)), draw.random() < 0.3)


def random_point(draw: random.Random) -> tuple[list[float], list[float]]:
    return [draw.uniform(-3, 3) for _ in range(INPUTS)], [draw.uniform(-3, 3) for _ in range(OUTPUTS)]


@pytest.mark.parametrize("seed", range(20))
def test_a_weighted_sum_exceeds_by_the_weighted_sum_of_excesses(seed):
    draw = random.Random(seed)
    rows = tuple(random_row(draw) for _ in range(3))
    weights = [draw.choice((0.0, 0.25, 1.0, 3.0)) for _ in rows[1:]] + [2.0]
    total = weighted(rows, weights)
    for _ in range(5):
        x, y = random_point(draw)
        assert total.excess(x, y) == sum(Fraction(w) * row.excess(x, y) for w, row in zip(weights, rows, strict=True))
    assert total.strict == any(row.strict for w, row in zip(weights, rows, strict=True) if w)
    assert [index for index, _ in total.outputs] == sorted({index for index, _ in total.outputs})
    assert all(value for _, value in (*total.outputs, *total.inputs))


def test_a_sum_by_hand():
    """2 (y₀ − y₁ + x₀ ≤ 1) + (3 y₁ < 4) is 2 y₀ + y₁ + 2 x₀ < 6; what cancels is gone."""
    one, half = Fraction(1), Fraction(1, 2)
    first = Row(((0, one), (1, -one)), ((0, one),), one)
    second = Row(((1, 3 * one),), (), 4 * one, strict=True)
    assert weighted((first, second), [2.0, 1.0]) == Row(((0, 2 * one), (1, one)), ((0, 2 * one),), 6 * one, True)
    gone = summed([(one, first), (half, Row(((1, 2 * one),), ((0, -2 * one),), half))])
    assert gone == Row(((0, one),), (), Fraction(5, 4))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0], [1.0, 1.0, 1.0]])
def test_weights_that_make_no_row_are_refused(weights):
    rows = tuple(random_row(random.Random(seed)) for seed in range(2))
    with pytest.raises(PropertyError, match="weights"):
        weighted(rows, weights)


@pytest.mark.parametrize("seed", range(10))
def test_the_sum_that_is_tried_holds_where_all_rows_do(seed):
    """Each is scaled to a greatest coefficient of 1 first."""
    draw = random.Random(seed)
    rows = tuple(random_row(draw) for _ in range(3))
    *alone, total = with_sum(rows)
    assert tuple(alone) == rows
    scales = [1 / max(abs(value) for _, value in row.outputs) for row in rows]
    x, y = random_point(draw)
    assert total.excess(x, y) == sum(scale * row.excess(x, y) for scale, row in zip(scales, rows, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_whole_coefficients_are_the_rows_own_times_their_scale(seed):
    row = random_row(random.Random(seed))
    scale, found = whole_scale(row), whole_coefficients(row, OUTPUTS)
    assert scale > 0
    assert [Fraction(value) for value in found] == [scale * dict(row.outputs).get(i, 0) for i in range(OUTPUTS)]
    assert all(value.is_integer() for value in found)


def test_coefficients_that_binary64_would_round_have_no_scale():
    row = Row(((0, Fraction(2**60 + 1)), (1, Fraction(1, 3))), (), Fraction(0))
    assert whole_scale(row) == 0 and not whole_coefficients(row, OUTPUTS).any()
