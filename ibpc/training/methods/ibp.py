"""Interval bound propagation: κ · nominal + (1 − κ) · worst case over the box (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Method, Objective, Terms, register
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective."""
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        found = bounding(x, graphs.ball(x, bounding.eps(moment)), labels, moment)
        nominal, robust = nominal_loss(found.logits, labels), robust_loss(found.margins, labels)
        loss = found.regularized(blend(nominal, robust, moment.kappa))
        return Terms(loss, found.logits, found.margins, found.parts(nominal_loss=nominal, robust_loss=robust))

    return objective


METHOD = register(Method("ibp", "Cross-entropy of the logits and of their worst case over the box", build))
