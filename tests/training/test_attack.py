"""The attack inside a training step, the small boxes around its points, and the gradient connector."""

from __future__ import annotations

import pytest
import torch

from ibpc.interval import Interval
from ibpc.training.attack import AttackOptions, AttackScore, ascend, small_box
from ibpc.training.draws import Draws
from ibpc.training.latent import connect


def interval(lower: list[float], upper: list[float]) -> Interval:
    return Interval.bounds(torch.tensor([lower]), torch.tensor([upper]))


def test_ascent_of_a_linear_score_ends_in_its_corner():
    box = interval([-1.0, 0.0, 2.0], [1.0, 0.0, 6.0])
    weights = torch.tensor([1.0, 1.0, -1.0])
    points = ascend(AttackScore(lambda x: x @ weights), box, AttackOptions(steps=8, step=0.5), Draws(torch.Generator()))
    assert points.tolist() == [[1.0, 0.0, 2.0]]
    assert not points.requires_grad


def test_the_best_visited_point_is_kept():
    """Steps that are far too long jump over the peak at 0 from end to end, so the start is the best point."""
    box = interval([-1.0], [1.0])
    start = torch.rand(1, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    long = AttackOptions(steps=5, step=4.0)
    points = ascend(AttackScore(lambda x: -x[:, 0].abs()), box, long, Draws(torch.Generator().manual_seed(0)))
    assert points.item() == pytest.approx(start.item())


def test_a_single_step_is_taken_without_looking_back():
    box = interval([-1.0], [1.0])
    points = ascend(
        AttackScore(lambda x: -x[:, 0].abs()),
        box,
        AttackOptions(steps=1, step=4.0),
        Draws(torch.Generator().manual_seed(0)),
    )
    assert points.abs().item() == 1.0


def test_restarts_find_the_higher_of_two_peaks():
    box = Interval.bounds(torch.full((64, 1), -1.0), torch.full((64, 1), 1.0))

    def score(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] > 0.2, 2.0 * x[:, 0], -x[:, 0])

    found = [
        (ascend(AttackScore(score), box, AttackOptions(steps=20, restarts=n), Draws(torch.Generator())) > 0)
        .sum()
        .item()
        for n in (1, 8)
    ]
    assert found[0] < 40
    assert found[1] > 60


def test_steps_shrink_where_the_source_says():
    """After the fourth and the seventh of eight (Müller et al. 2023)."""
    attack = AttackOptions(steps=8, step=0.5, decay=0.1)
    lengths = [attack.length(number) for number in range(8)]
    assert lengths == pytest.approx([0.5] * 4 + [0.05] * 3 + [0.005])


def test_a_small_box_lies_inside_the_ball():
    ball = interval([0.0, 0.3, 0.9], [0.2, 0.5, 1.0])
    points = torch.tensor([[0.2, 0.4, 0.9]])
    box = small_box(points, ball, 0.06)
    torch.testing.assert_close(box.lower, torch.tensor([[0.08, 0.34, 0.9]]))
    torch.testing.assert_close(box.upper, torch.tensor([[0.2, 0.46, 1.0]]))
    assert (box.lower >= ball.lower).all()
    assert (box.upper <= ball.upper).all()


def test_connector_moves_the_bound_that_a_point_is_next_to():
    """c = 1/4 over [0, 4]: a point within distance 1 of a bound passes gradient to it, more the closer it is."""
    lower = torch.zeros(1, 5, requires_grad=True)
    upper = torch.full((1, 5), 4.0, requires_grad=True)
    points = torch.tensor([[[0.0, 0.5, 2.0, 3.25, 4.0]]])
    linked = connect(points, Interval.bounds(lower, upper), 0.25)
    assert torch.equal(linked, points)
    (linked * torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0])).sum().backward()
    assert lower.grad[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.0], abs=1e-4)
    assert upper.grad[0].tolist() == pytest.approx([0.0, 0.0, 0.0, 0.5, 3.0], abs=1e-4)


def test_connector_of_a_box_without_width_shares_the_gradient():
    lower, upper = (torch.ones(1, 2, requires_grad=True) for _ in range(2))
    connect(torch.ones(1, 3, 2), Interval.bounds(lower, upper), 0.5).sum().backward()
    torch.testing.assert_close(lower.grad, torch.full((1, 2), 1.5))
    torch.testing.assert_close(upper.grad, torch.full((1, 2), 1.5))
