"""Standard training: the cross-entropy of the logits, no bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Objective, Terms, TrainingMethod, register
from ibpc.training.objectives import nominal_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the cross-entropy of the logits."""

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        logits = graphs.nominal(x)
        return Terms(nominal_loss(logits, labels), logits)

    return objective


METHOD = register(TrainingMethod("standard", "Cross-entropy of the logits", build))
