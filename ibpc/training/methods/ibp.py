"""Interval bound propagation: κ · nominal + (1 − κ) · worst case over the box (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

import torch

from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Method, Objective, Terms, register
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment


def build(graphs: TrainingGraphs) -> Objective:
    """Return the objective."""

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment) -> Terms:
        logits, margins = graphs.paired(x, graphs.ball(x, moment.eps), labels)
        nominal, robust = nominal_loss(logits, labels), robust_loss(margins, labels)
        parts = {"nominal_loss": nominal, "robust_loss": robust}
        return Terms(blend(nominal, robust, moment.kappa), logits, margins, parts)

    return objective


METHOD = register(Method("ibp", "Cross-entropy of the logits and of their worst case over the box", build))
