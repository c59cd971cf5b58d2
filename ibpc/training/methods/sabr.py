"""SABR: the worst case over a small box around an adversarial point (Müller et al. 2023, arXiv 2210.04871)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.interval import Interval
from ibpc.training.attack import small_box
from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import WARM_UP, Method, Objective, Terms, register
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment
from ibpc.training.shrinking import shrunk

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def region(
    graphs: TrainingGraphs,
    recipe: Recipe,
    x: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    draws: Draws,
) -> Interval:
    """Return the box of radius λ ε inside the ball of radius ε, around an adversarial point of that ball."""
    points = graphs.adversarial(x, labels, eps, recipe.attack, draws)
    return small_box(points, graphs.ball(x, eps), recipe.box.share * eps)


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective."""
    return over(shrunk(graphs, recipe.box.shrinking), recipe)


def over(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective over graphs as they are."""
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        box = region(graphs, recipe, x, labels, bounding.eps(moment), draws)
        found = bounding(x, box, labels, moment)
        nominal, robust = nominal_loss(found.logits, labels), robust_loss(found.margins, labels)
        loss = found.regularized(blend(nominal, robust, moment.kappa))
        return Terms(loss, found.logits, None, found.parts(nominal_loss=nominal, robust_loss=robust))

    return objective


METHOD = register(
    Method(
        "sabr",
        "Worst case over a small box around an adversarial point",
        build,
        {**WARM_UP, "attack.step": 0.5, "attack.decay": 0.1},
    )
)
