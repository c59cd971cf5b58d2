"""Adversarial training: the cross-entropy at adversarial points (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import ROBUST_ALONE, Objective, Terms, TrainingMethod, register
from ibpc.training.objectives import blend, nominal_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return κ · nominal + (1 − κ) · adversarial loss."""

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        points = graphs.adversarial(x, labels, moment.eps, recipe.attack, draws)
        logits = graphs.nominal(x)
        nominal, adversarial = nominal_loss(logits, labels), nominal_loss(graphs.logits_of(points), labels)
        parts = {"nominal_loss": nominal, "adversarial_loss": adversarial}
        return Terms(blend(nominal, adversarial, moment.kappa), logits, None, parts)

    return objective


METHOD = register(
    TrainingMethod("pgd", "Cross-entropy at adversarial points", build, ROBUST_ALONE, frozenset({"attack"}))
)
