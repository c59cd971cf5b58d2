"""Falsification: projected gradient descent over boxes (Madry et al. 2018, arXiv 1706.06083) with momentum.

The signed steps follow an average of normalized gradients (Dong et al. 2018, arXiv 1710.06081, algorithm 1). Many
searches run side by side, each an *item* of the batch: an example, one of its target classes, a disjunct of a property.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.interval import Interval

Points: TypeAlias = tuple[Tensor, ...]
Score: TypeAlias = Callable[[Points, Tensor], Tensor]

_ENDLESS: Final = float("inf")
_TINY: Final = 1e-30


class Until(Enum):
    """When an attack is done: after a success for every item, or after the first success of any item."""

    EVERY = "every"
    ONE = "one"


@dataclass(frozen=True)
class Found:
    """The best point of each item, (items, …) per input of the network, and its score, (items,)."""

    points: Points
    scores: Tensor


class Descent(Enum):
    """How a step follows the gradient: by its signs (Madry et al. 2018), or by Adam's direction (Kingma, Ba 2015).

    Signs move every feature by the full step, which suits a single margin; where several constraints have to hold at
    once they overshoot, and Adam's smaller steps succeed.
    """

    SIGNED = "signed"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class Attack:
    """How to search a box: `restarts` random starts of `steps` gradient steps each.

    The step is `step` times the box's width (per feature) and falls to a tenth of that over the run; `momentum` is the
    weight of earlier gradients; `descent` turns them into steps. Starts are uniform in the box or, every other time,
    corners of it: each is the best of `samples` such points. A descent ends early when nothing moves any more.
    """

    steps: int = 40
    restarts: int = 3
    step: float = 0.1
    momentum: float = 0.75
    seed: int = 0
    goal: Until = Until.EVERY
    descent: Descent = Descent.SIGNED
    samples: int = 1

    def run(self, score: Score, starts: Points, boxes: Sequence[Interval], deadline: float = _ENDLESS) -> Found:
        """Return for each item the point of its box with the least score found; at most 0 is a success, NaN is not.

        `score(points, items)` scores points of the named items, each row on its own. The start, clipped to its box, is
        the first candidate, so the result is never worse. Restarts continue with the items that have no success yet,
        and end at `deadline` (`time.monotonic`). Every point lies exactly inside the bounds of its box.
        """
        generator = torch.Generator(starts[0].device).manual_seed(self.seed)
        best = tuple(box.nearest(x) for x, box in zip(starts, boxes, strict=True))
        with torch.no_grad():
            least = score(best, torch.arange(len(best[0]), device=best[0].device))
            least = least.masked_fill(least.isnan(), torch.inf)
        for restart in range(self.restarts):
            left = (least > 0).nonzero()[:, 0]
            if self._is_reached(least) or time.monotonic() >= deadline:
                break
            parts = [Interval.bounds(box.lower[left], box.upper[left]) for box in boxes]

            def draw(corner: int = restart % 2, parts: Sequence[Interval] = parts) -> Points:
                """Return a random point of each remaining box."""
                return tuple(_random(part, generator, corner) for part in parts)

            found = self._descend(score, self._drawn(draw, score, left, deadline), parts, left, deadline)
            better = found.scores < least[left]
            least[left] = torch.where(better, found.scores, least[left])
            for x, point in zip(best, found.points, strict=True):
                x[left] = torch.where(_column(better, point), point, x[left])
        return Found(best, least)

    def _is_reached(self, scores: Tensor) -> bool:
        success = scores <= 0
        return bool(success.any() if self.goal is Until.ONE else success.all())

    @torch.no_grad()
    def _drawn(self, draw: Callable[[], Points], score: Score, items: Tensor, deadline: float) -> Points:
        """Return the point of least score among `samples` of each item."""
        if self.samples == 1:
            return draw()
        best = Found(first := draw(), score(first, items))
        for _ in range(self.samples - 1):
            if time.monotonic() >= deadline or self._is_reached(best.scores):
                break
            best = _better(best, Found(other := draw(), score(other, items)))
        return best.points

    def _descend(
        self, score: Score, points: Points, boxes: Sequence[Interval], items: Tensor, deadline: float
    ) -> Found:
        """Return the points of least score on the way down from `points`."""
        best = Found(points, points[0].new_full([len(items)], torch.inf))
        directions = [_DIRECTIONS[self.descent](self.momentum) for _ in points]
        for step in range(self.steps + 1):
            leaves = tuple(x.detach().requires_grad_(True) for x in points)
            scores = score(leaves, items)
            best = _better(best, Found(tuple(x.detach() for x in leaves), scores.detach()))
            if not scores.requires_grad or time.monotonic() >= deadline or self._is_reached(best.scores):
                break
            gradients = torch.autograd.grad(scores.sum(), leaves, allow_unused=True)
            slopes = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
            moves = [direction(slope) for direction, slope in zip(directions, slopes, strict=True)]
            if not any(bool((move * box.width).any()) for move, box in zip(moves, boxes, strict=True)):
                break
            size = self.step * (1.0 - 0.9 * step / max(self.steps, 1))
            points = tuple(
                box.nearest(x.detach() - size * box.width * move)
                for x, move, box in zip(leaves, moves, boxes, strict=True)
            )
        return best


class _Signed:
    """Signs of a mean of gradients in which older ones decay by `momentum` per step (Dong et al. 2018)."""

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self._velocity: Tensor | None = None

    def __call__(self, slope: Tensor) -> Tensor:
        before = torch.zeros_like(slope) if self._velocity is None else self._velocity
        self._velocity = self._momentum * before + _normalized(slope)
        return self._velocity.sign()


class _Adaptive:
    """Adam's direction: the mean of gradients over the root mean square, both bias-corrected."""

    _SQUARES: Final = 0.99

    def __init__(self, momentum: float) -> None:
        self._momentum, self._step = momentum, 0
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def __call__(self, slope: Tensor) -> Tensor:
        clean = _normalized(slope)
        self._step += 1
        first = torch.zeros_like(clean) if self._first is None else self._first
        second = torch.zeros_like(clean) if self._second is None else self._second
        self._first = self._momentum * first + (1.0 - self._momentum) * clean
        self._second = self._SQUARES * second + (1.0 - self._SQUARES) * clean * clean
        mean = self._first / (1.0 - self._momentum**self._step)
        square = self._second / (1.0 - self._SQUARES**self._step)
        return mean / (square.sqrt() + _TINY)


_DIRECTIONS: Final[Mapping[Descent, Callable[[float], Callable[[Tensor], Tensor]]]] = MappingProxyType(
    {Descent.SIGNED: _Signed, Descent.ADAPTIVE: _Adaptive}
)


def _better(old: Found, new: Found) -> Found:
    better = (new.scores < old.scores) | old.scores.isnan()
    points = (torch.where(_column(better, x), x, y) for x, y in zip(new.points, old.points, strict=True))
    return Found(tuple(points), torch.where(better, new.scores, old.scores))


def _random(box: Interval, generator: torch.Generator, corner: int) -> Tensor:
    noise = torch.rand(box.lower.shape, generator=generator, device=box.lower.device, dtype=box.lower.dtype)
    return box.nearest(box.lower + (noise.round() if corner else noise) * box.width)


def _normalized(gradient: Tensor) -> Tensor:
    clean = gradient.nan_to_num(0.0, 0.0, 0.0)
    return clean / clean.abs().reshape(len(clean), -1).sum(1).clamp(min=_TINY).reshape([-1, *[1] * (clean.dim() - 1)])


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape([-1, *[1] * (like.dim() - 1)])
