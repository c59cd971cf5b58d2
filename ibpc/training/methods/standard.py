"""Standard training: the cross-entropy of the logits, no bounds."""

from __future__ import annotations

import torch

from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Method, Objective, Terms, register
from ibpc.training.objectives import nominal_loss
from ibpc.training.schedules import Moment


def build(graphs: TrainingGraphs) -> Objective:
    """Return the objective."""

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment) -> Terms:
        logits = graphs.nominal(x)
        return Terms(nominal_loss(logits, labels), logits)

    return objective


METHOD = register(Method("standard", "Cross-entropy of the logits", build))
