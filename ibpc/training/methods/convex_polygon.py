"""The convex polygon loss: every certified margin on its own, and no nominal term."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Method, Objective, Terms, register
from ibpc.training.objectives import convex_polygon_loss, nominal_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective."""
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        found = bounding(x, graphs.ball(x, bounding.eps(moment)), labels, moment)
        polygon = convex_polygon_loss(found.margins, labels)
        parts = found.parts(nominal_loss=nominal_loss(found.logits, labels).detach(), robust_loss=polygon)
        return Terms(found.regularized(polygon), found.logits, found.margins, parts)

    return objective


METHOD = register(Method("convex-polygon", "Mean softplus of the negated margins over the box; κ plays no part", build))
