"""Interval propagation in a training step, regularized while ε climbs (Shi et al. 2021, arXiv 2103.17268)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from ibpc.interval import Interval
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.regularizers import balance, tightness
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe

LEAST_EPS: Final = 1e-6


@dataclass(frozen=True)
class Bounded:
    """Logits and margins (B, K), and the weighted regularization, a scalar or None."""

    logits: torch.Tensor
    margins: torch.Tensor
    warm_up: torch.Tensor | None

    def regularized(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss plus the regularization, if there is one."""
        return loss if self.warm_up is None else loss + self.warm_up

    def parts(self, **parts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the named parts of the loss, with the regularization if there is one."""
        return parts if self.warm_up is None else {**parts, "warm_up_loss": self.warm_up}


class Bounding:
    """Propagates boxes and, while ε climbs, regularizes them with weights that fall as 1 − ε / (final ε)."""

    def __init__(self, graphs: TrainingGraphs, recipe: Recipe) -> None:
        self._graphs = graphs
        self._options = recipe.regularization
        self._final = final_eps(recipe)
        self._is_on = bool(self._options.tightness or self._options.balance) and bool(graphs.rectified)

    def eps(self, moment: Moment) -> float:
        """Return the radius to propagate: the current ε, but more than 0 while boxes are regularized."""
        return max(moment.eps, LEAST_EPS) if self._strength(moment) > 0 else moment.eps

    def __call__(self, x: torch.Tensor, box: Interval, labels: torch.Tensor, moment: Moment) -> Bounded:
        """Return the logits at x (B, …), the bounds of the margins over the box, and the regularization.

        If κ is 0, the loss does not use the logits and they carry no gradient.
        """
        graphs = self._graphs if moment.kappa else self._graphs.undescended
        if self._strength(moment) == 0:
            return Bounded(*graphs.paired(x, box, labels), None)
        logits, margins, boxes = graphs.observed(x, box, labels)
        return Bounded(logits, margins, self.regularization(box, boxes, moment))

    def regularization(self, box: Interval, boxes: Sequence[Interval], moment: Moment) -> torch.Tensor | None:
        """Return the weighted regularization of the boxes that rectifiers read, or None once it has faded out."""
        strength = self._strength(moment)
        if strength == 0:
            return None
        tight = tightness(box, boxes, self._options.tolerance)
        balanced = balance(boxes, self._options.tolerance)
        return strength * (self._options.tightness * tight + self._options.balance * balanced)

    def _strength(self, moment: Moment) -> float:
        if not self._is_on or self._final == 0:
            return 0.0
        return max(0.0, 1.0 - moment.eps / self._final)


def final_eps(recipe: Recipe) -> float:
    """Return the ε of a step after the ramp."""
    return recipe.eps * recipe.schedule.eps_multiplier
