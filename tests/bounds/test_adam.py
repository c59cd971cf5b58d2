"""Ascents of many forms and samples at once: each finds the length of its own steps."""

from __future__ import annotations

import pytest
import torch

from ibpc.bounds.adam import Adam, paced


def climbed(peaks: torch.Tensor, rate: float, steps: int) -> torch.Tensor:
    """Return how much of its way to the peak of −|x − peak| each x (R, B) has gone from 0."""
    adam, x = Adam(rate), torch.zeros(*peaks.shape, 1, requires_grad=True)
    best, pace = torch.full_like(peaks, -torch.inf), torch.ones_like(peaks)
    for number in range(1, steps + 2):
        value = -(x - peaks.unsqueeze(-1)).abs().sum(-1)
        better = value.detach() > best
        adam.keep({"x": x}, better)
        best, pace = torch.fmax(best, value.detach()), paced(pace, better)
        x.grad = None
        value.sum().backward()
        adam.step({"x": x}, number, pace)
    return 1.0 + best / peaks


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_steps_are_as_long_as_each_problem_wants_them(rate):
    """Peaks 1e-4 to 1 away from where they begin, in the same ascent: a rate for all would jump past the nearest."""
    assert (climbed(torch.tensor([[1e-4, 1e-3, 1e-2], [0.03, 0.1, 1.0]]), rate, 40) > 0.9).all()


def test_paces_recover():
    pace = torch.ones(1, 2)
    for better in ([True, False], [True, False], [False, True], [True, True]):
        pace = paced(pace, torch.tensor([better]))
    assert pace.flatten().tolist() == pytest.approx([1.0, 1.0])
    assert paced(torch.full((1, 1), 0.1), torch.tensor([[True]])).item() == pytest.approx(0.2)


def test_what_gained_nothing_is_taken_back():
    adam, better = Adam(0.5), torch.tensor([[True, False]])
    x = torch.zeros(1, 2, 1, requires_grad=True)
    adam.keep({"x": x}, torch.tensor([[True, True]]))
    with torch.no_grad():
        x += 1.0
    adam.keep({"x": x}, better)
    assert adam.best["x"].flatten().tolist() == [1.0, 0.0]
    x.grad = torch.zeros_like(x)
    adam.step({"x": x}, 1, torch.ones(1, 2))
    assert x.flatten().tolist() == [1.0, 0.0]


def test_gradients_that_are_no_numbers_pull_nowhere():
    adam, x = Adam(0.5), torch.zeros(1, 3, 1, requires_grad=True)
    adam.keep({"x": x}, torch.ones(1, 3, dtype=torch.bool))
    x.grad = torch.tensor([[[torch.nan], [torch.inf], [1.0]]])
    adam.step({"x": x}, 1, torch.ones(1, 3))
    assert x.flatten().tolist()[:2] == [0.0, 0.0]
    assert float(x.detach().flatten()[2]) == pytest.approx(0.5)
