"""EXP-IBP: the adversarial and the certified loss, each to a power (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import WARM_UP, Method, Objective, Terms, register
from ibpc.training.objectives import blend, exponential_loss, nominal_loss, robust_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective."""
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        points = graphs.adversarial(x, labels, moment.eps, recipe.attack, draws)
        found = bounding(x, graphs.ball(x, bounding.eps(moment)), labels, moment)
        nominal, robust = nominal_loss(found.logits, labels), robust_loss(found.margins, labels)
        adversarial = nominal_loss(graphs.logits_of(points), labels)
        joint = exponential_loss(adversarial, robust, recipe.combination.alpha)
        parts = found.parts(nominal_loss=nominal, adversarial_loss=adversarial, robust_loss=robust)
        return Terms(found.regularized(blend(nominal, joint, moment.kappa)), found.logits, found.margins, parts)

    return objective


METHOD = register(Method("exp-ibp", "Product of powers of the adversarial and the IBP loss", build, WARM_UP))
