"""Projected gradient ascent in a training step (Madry et al. 2018, arXiv 1706.06083), and boxes around its points.

Nothing here waits for the device, and every random number comes from the generator passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

import torch

from ibpc.interval import Interval
from ibpc.training.draws import Draws
from ibpc.training.fields import value

Values: TypeAlias = Callable[..., torch.Tensor]
Repeated: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]


# ── options of a recipe ─────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class AttackOptions:
    """How a training step searches for adversarial points."""

    steps: int = value(
        8, "Steps of one search (8: Müller et al. 2023; De Palma et al. 2024 for CIFAR-10)", type="integer", minimum=1
    )
    step: float = value(
        0.25,
        "Length of a step per pixel, in units of the searched radius (0.25: De Palma et al. 2024)",
        type="number",
        exclusiveMinimum=0,
    )
    restarts: int = value(1, "Searches, each from a random start; the best point counts", type="integer", minimum=1)
    eps_factor: float = value(
        1.0,
        "The searched radius, in units of ε (2.1: De Palma et al. 2024 for CIFAR-10 at 2/255)",
        type="number",
        exclusiveMinimum=0,
        maximum=10,
    )
    decay: float = value(
        1.0,
        "Factor of the step length at each of decay_at (0.1: Müller et al. 2023)",
        type="number",
        exclusiveMinimum=0,
        maximum=1,
    )
    decay_at: tuple[float, ...] = value(
        (0.5, 0.8),
        "When the step length shrinks, as shares of the steps (of 8 steps: after the 4th and the 7th)",
        type="array",
        items={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    )

    def length(self, number: int) -> float:
        """Return the length of step `number`, counted from 0, in units of the radius."""
        return self.step * float(self.decay ** sum(number >= ceil(share * self.steps) for share in self.decay_at))


@dataclass(frozen=True)
class SmallBox:
    """The small box that is propagated in place of the whole ball, and how boxes shrink at ReLUs."""

    share: float = value(
        0.4,
        "λ: its radius as a share of ε (Müller et al. 2023: 0.4 and 0.6 for MNIST at 0.1 and 0.3, 0.1 and 0.7 for "
        "CIFAR-10 at 2/255 and 8/255)",
        type="number",
        minimum=0,
        maximum=1,
    )
    shrinking: float = value(
        1.0,
        "c: factor of the upper bound of a ReLU's input if the lower one is negative, in training (0.8: "
        "Müller et al. 2023; Mao et al. 2023 for CIFAR-10 at 2/255); 1: boxes stay whole",
        type="number",
        exclusiveMinimum=0,
        maximum=1,
    )


# ── searching ───────────────────────────────────────────────────────────────────────────────────────────────────
class AttackScore:
    """What an attack maximizes: `values(points, *others)` maps points (B, …) to (B,), row by row.

    `others` are further tensors that the values depend on, such as labels. `repeat` wraps a function of tensors as the
    engine runs it.
    """

    def __init__(self, values: Values, repeat: Callable[[Repeated], Repeated] = lambda function: function) -> None:
        self._values = values
        self.at = repeat(self._at)
        self.slopes_at = repeat(self._slopes_at)

    @torch.no_grad()
    def _at(self, points: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor]:
        return (self._values(points, *others),)

    @torch.enable_grad()
    def _slopes_at(self, points: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = points.detach().requires_grad_(True)
        values = self._values(leaf, *others)
        (slopes,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), slopes


def ascend(
    score: AttackScore, box: Interval, attack: AttackOptions, draws: Draws, *others: torch.Tensor
) -> torch.Tensor:
    """Return points (B, …) of the box with a high score, without gradients.

    `others` are what the score depends on besides the points. Starts are uniform in the box. The best of all visited
    points is returned, except that a single step of a single search is taken unconditionally.
    """
    inside = box.map(torch.Tensor.detach)
    radius = inside.width / 2
    best = _Best()
    for _ in range(attack.restarts):
        noise = draws.uniform(inside.lower)
        points = inside.nearest(inside.lower + noise * inside.width)
        for number in range(attack.steps):
            scores, slopes = score.slopes_at(points, *others)
            best.offer(points, scores)
            points = inside.nearest(points + attack.length(number) * radius * slopes.sign())
        if attack.steps * attack.restarts == 1:
            return points
        best.offer(points, *score.at(points, *others))
    return best.points


class _Best:
    """The points with the highest score so far, row by row."""

    points: torch.Tensor
    _scores: torch.Tensor | None = None

    def offer(self, points: torch.Tensor, scores: torch.Tensor) -> None:
        if self._scores is None:
            self.points, self._scores = points, scores
            return
        better = scores > self._scores
        self.points = torch.where(better.reshape([-1, *[1] * (points.dim() - 1)]), points, self.points)
        self._scores = torch.where(better, scores, self._scores)


def small_box(points: torch.Tensor, box: Interval, radius: float) -> Interval:
    """Return the box of `radius` around `points` (B, …), moved to lie inside `box` (Müller et al. 2023, section 3).

    Where `box` is narrower than 2 · radius, the result is all of it.
    """
    reach = ((box.upper - box.lower) / 2).clamp(max=radius)
    middle = Interval.bounds(box.lower + reach, box.upper - reach).nearest(points)
    return Interval.bounds(torch.maximum(middle - reach, box.lower), torch.minimum(middle + reach, box.upper))
