"""Falsification: projected gradient descent on the margins (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ibpc.interval import Interval


@dataclass(frozen=True)
class Attack:
    """How to search a box: `restarts` random starts of `steps` signed gradient steps each.

    The step is `step` of the box's width (per feature) and falls to a tenth of that over the run.
    """

    steps: int = 40
    restarts: int = 3
    step: float = 0.1
    seed: int = 0

    def run(
        self, model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, box: Interval, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return for each sample the point of its box with the least margin found, (B, …), in the dtype of `x`.

        The clean `x` (clipped to the box) is the first candidate, so the result is never worse. Restarts go on with
        the samples that still have a positive margin. Every point lies exactly inside the box's bounds.
        """
        generator = torch.Generator(x.device).manual_seed(self.seed)
        best = _project(x, box)
        with torch.no_grad():
            worst = margin(model(best), labels)
        for _ in range(self.restarts):
            left = (worst > 0).nonzero()[:, 0]
            if not len(left):
                break
            part = Interval.bounds(box.lower[left], box.upper[left])
            noise = torch.rand(part.lower.shape, generator=generator, device=x.device, dtype=x.dtype)
            start = _project(part.lower + noise * part.width, part)
            points, margins = self._descend(model, start, part, labels[left])
            better = margins < worst[left]
            worst[left] = torch.where(better, margins, worst[left])
            best[left] = torch.where(_column(better, points), points, best[left])
        return best

    def _descend(
        self, model: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, box: Interval, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the points of least margin on the way down from `point`, and those margins."""
        best, worst = point, torch.full_like(labels, torch.inf, dtype=point.dtype)
        for step in range(self.steps + 1):
            point = point.detach().requires_grad_(True)
            margins = margin(model(point), labels)
            (gradient,) = torch.autograd.grad(margins.sum(), point)
            better = margins.detach() < worst
            worst = torch.where(better, margins.detach(), worst)
            best = torch.where(_column(better, point), point.detach(), best)
            size = self.step * (1.0 - 0.9 * step / max(self.steps, 1))
            point = _project(point.detach() - size * box.width * gradient.sign(), box)
        return best, worst


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return z_label − max over other classes, (B,): at most 0 where the prediction is wrong."""
    hot = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(hot, -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def _project(x: torch.Tensor, box: Interval) -> torch.Tensor:
    return torch.minimum(torch.maximum(x, box.lower), box.upper)


def _column(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return mask.reshape([-1, *[1] * (like.dim() - 1)])
