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

        The clean `x` (clipped to the box) is the first candidate, so the result is never worse. Every point lies
        exactly inside the box's bounds.
        """
        generator = torch.Generator(x.device).manual_seed(self.seed)
        best = _project(x, box)
        with torch.no_grad():
            worst = margin(model(best), labels)
        for _ in range(self.restarts):
            noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            point = _project(box.lower + noise * box.width, box)
            best, worst = self._descend(model, point, box, labels, best, worst)
        return best

    def _descend(
        self,
        model: Callable[[torch.Tensor], torch.Tensor],
        point: torch.Tensor,
        box: Interval,
        labels: torch.Tensor,
        best: torch.Tensor,
        worst: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
