"""TAPS: boxes up to a cut of the network, adversarial points of the box behind it (Mao et al. 2023, arXiv 2305.04574).

While ε climbs, the objective is that of IBP, as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.interval import Interval
from ibpc.training.bounding import final_eps
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.latent import CutGraphs
from ibpc.training.methods import ibp
from ibpc.training.methods.base import WARM_UP, Objective, Terms, TrainingMethod, register, without_margins
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment
from ibpc.training.shrinking import shrunk

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return IBP's objective until ε is final, then `terms` over the ball."""
    graphs = shrunk(graphs, recipe.box.shrinking)
    climbing = ibp.build(graphs, recipe)
    halves = CutGraphs(graphs, recipe.cut)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        if moment.eps < final_eps(recipe):
            return climbing(x, labels, moment, draws)
        return terms(halves, recipe, x, graphs.ball(x, moment.eps), labels, moment, draws)

    return objective if recipe.box.shrinking == 1 else without_margins(objective)


def terms(
    halves: CutGraphs,
    recipe: Recipe,
    x: torch.Tensor,
    box: Interval,
    labels: torch.Tensor,
    moment: Moment,
    draws: Draws,
) -> Terms:
    """Return the product of the loss at the estimated margins and the loss at the certified ones, and its parts."""
    front = halves.front(x, box, labels)
    margins = halves.estimate(front, labels, recipe.attack, draws)
    nominal = nominal_loss(front.logits, labels)
    estimated, certified = robust_loss(margins, labels), robust_loss(front.margins, labels)
    loss = blend(nominal, product(estimated, certified, recipe.cut.gradient_scale), moment.kappa)
    parts = {"nominal_loss": nominal, "estimated_loss": estimated, "robust_loss": certified}
    return Terms(loss, front.logits, front.margins, parts)


def product(estimated: torch.Tensor, certified: torch.Tensor, scale: float) -> torch.Tensor:
    """Return estimated · certified, with the gradient through `estimated` multiplied by `scale` (section 3.4)."""
    return (estimated.detach() + scale * (estimated - estimated.detach())) * certified


METHOD = register(
    TrainingMethod(
        "taps",
        "Boxes up to a cut of the network, adversarial points behind it",
        build,
        {**WARM_UP, "attack.step": 0.5},
        frozenset({"attack", "box", "cut"}),
    )
)
