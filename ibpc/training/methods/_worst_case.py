"""The loss of IBP, SABR and, while ε climbs, TAPS and STAPS: κ · nominal + (1 − κ) · worst case over a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch

from ibpc.interval import Interval
from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Objective, Terms
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe

# From images (B, …), labels (B,) and a radius: the box to propagate.
Region: TypeAlias = Callable[[torch.Tensor, torch.Tensor, float, Draws], Interval]


def worst_case(graphs: TrainingGraphs, recipe: Recipe, region: Region) -> Objective:
    """Return κ · nominal loss + (1 − κ) · worst-case loss over the `region`, with the regularization of the warm-up.

    The margins of its terms are those over the region.
    """
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        bounded = bounding(x, region(x, labels, bounding.eps(moment), draws), labels, moment)
        nominal, robust = nominal_loss(bounded.logits, labels), robust_loss(bounded.margins, labels)
        loss = bounded.regularized(blend(nominal, robust, moment.kappa))
        return Terms(loss, bounded.logits, bounded.margins, bounded.parts(nominal_loss=nominal, robust_loss=robust))

    return objective
