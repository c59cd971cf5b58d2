"""The convex polygon loss: every certified margin on its own, and no nominal term."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Objective, Terms, TrainingMethod, register
from ibpc.training.objectives import nominal_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the polygon loss of the margins over the ball, with the regularization of the warm-up."""
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        bounded = bounding(x, graphs.ball(x, bounding.eps(moment)), labels, moment)
        polygon = polygon_loss(bounded.margins, labels)
        parts = bounded.parts(nominal_loss=nominal_loss(bounded.logits, labels).detach(), robust_loss=polygon)
        return Terms(bounded.regularized(polygon), bounded.logits, bounded.margins, parts)

    return objective


def polygon_loss(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean of log(1 + exp(−margin)) over the K − 1 other classes and the batch, a scalar.

    The faces margin > 0 bound the polytope of correct outputs: the loss counts each face on its own, where a
    cross-entropy lets the worst one dominate.
    """
    others = (-margins).scatter(1, labels[:, None], -torch.inf)
    return F.softplus(others).sum() / (margins.shape[0] * (margins.shape[1] - 1))


METHOD = register(
    TrainingMethod("convex-polygon", "Mean softplus of the negated margins over the box; κ plays no part", build)
)
