"""Schedules against values worked by hand."""

from __future__ import annotations

import pytest

from ibpc.training.schedules import SHAPES, LearningRate, Schedule, Timeline, annealed, constant, smooth, steps


def timeline(**schedule: float) -> Timeline:
    return Timeline(Schedule(**schedule), LearningRate(), eps=0.1, rate=1e-3, epochs=10, per_epoch=10)


def test_ramp_of_half_the_steps():
    line = timeline(ramp=0.5, eps_multiplier=1.3, kappa_start=1.0, kappa_end=0.3)
    values = {step: line.at(step) for step in (0, 25, 49, 50, 99)}
    assert [values[step].eps for step in values] == pytest.approx([0, 0.065, 0.1274, 0.13, 0.13])
    assert [values[step].kappa for step in values] == pytest.approx([1, 0.65, 0.314, 0.3, 0.3])


def test_warmup_counts_epochs_and_the_ramp_shares_what_remains():
    line = timeline(warmup=2, ramp=0.25)
    assert [line.progress(step) for step in (0, 19, 20, 30, 40, 41)] == pytest.approx([0, 0, 0, 0.5, 1, 1])


def test_without_a_ramp_everything_starts_at_once():
    line = timeline(ramp=0, kappa_end=0.5)
    assert (line.at(0).eps, line.at(0).kappa) == (0.1, 0.5)


def test_a_ramp_over_the_whole_run_never_quite_ends():
    line = timeline(ramp=1)
    assert line.progress(99) == pytest.approx(0.99)


def test_epsilon_never_falls_and_never_passes_its_end():
    line = timeline(warmup=1, ramp=0.37, eps_multiplier=1.1)
    eps = [line.at(step).eps for step in range(line.total)]
    assert eps == sorted(eps)
    assert max(eps) == pytest.approx(0.11)


def test_learning_rate_steps_at_shares_of_the_run():
    line = timeline()
    rates = [line.at(step).learning_rate for step in (0, 74, 75, 89, 90, 99)]
    assert rates == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4, 4e-5, 4e-5])


def test_the_learning_rate_climbs_over_its_warm_up_and_then_keeps_its_steps():
    line = Timeline(Schedule(), LearningRate(warmup=2.5), eps=0.1, rate=1e-3, epochs=10, per_epoch=10)
    rates = [line.at(step).learning_rate for step in (0, 9, 23, 24, 25, 74, 75)]
    assert rates == pytest.approx([4e-5, 4e-4, 9.6e-4, 1e-3, 1e-3, 1e-3, 2e-4])


def test_decays():
    assert constant(0.99, (0.5,), 0.1) == 1.0
    assert steps(0.5, (), 0.1) == 1.0
    assert steps(0.5, (0.5, 0.5), 0.1) == pytest.approx(0.01)
    assert [annealed(p, (), 0.5) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_climb_from_0_to_1(name):
    values = [SHAPES[name](number / 100) for number in range(101)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == pytest.approx((0, 1))


def test_smooth_bends_into_a_line_without_a_jump():
    """With α = 1 / (3/4 · 4 / 64 + 1/256) = 256/13: 1/13 at the bend, where both slopes are 16/13."""
    assert smooth(0.25) == pytest.approx(1 / 13)
    assert smooth(0.125) == pytest.approx(1 / 13 / 16)
    assert smooth(0.625) == pytest.approx((1 / 13 + 1) / 2)
    before, after = (smooth(0.25) - smooth(0.2499)) / 1e-4, (smooth(0.2501) - smooth(0.25)) / 1e-4
    assert before == pytest.approx(after, rel=1e-2) == pytest.approx(16 / 13, rel=1e-2)
