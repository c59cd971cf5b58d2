"""The objective of MTL-IBP, CC-IBP and EXP-IBP: a loss that joins adversarial points and IBP margins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import torch

from ibpc.training.bounding import Bounding
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods.base import Objective, Terms
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe

# The sections of a recipe that they read.
COMBINED: Final = frozenset({"attack", "combination"})
# From logits at adversarial points (B, K), lower bounds of the margins (B, K), labels (B,) and α: a loss.
Join: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def combined(join: Join, graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective κ · nominal loss + (1 − κ) · joint loss, with `join` giving the joint loss."""
    bounding = Bounding(graphs, recipe)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        points = graphs.adversarial(x, labels, moment.eps, recipe.attack, draws)
        bounded = bounding(x, graphs.ball(x, bounding.eps(moment)), labels, moment)
        attacked, nominal = graphs.logits_of(points), nominal_loss(bounded.logits, labels)
        joint = join(attacked, bounded.margins, labels, recipe.combination.alpha)
        parts = bounded.parts(
            nominal_loss=nominal,
            adversarial_loss=nominal_loss(attacked, labels),
            robust_loss=robust_loss(bounded.margins, labels),
        )
        return Terms(bounded.regularized(blend(nominal, joint, moment.kappa)), bounded.logits, bounded.margins, parts)

    return objective
