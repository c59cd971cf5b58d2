"""STAPS: TAPS over the small box of SABR in place of the whole ball (Mao et al. 2023, arXiv 2305.04574).

While ε climbs, the objective is that of SABR, as in the paper.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ibpc.training.bounding import final_eps
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.latent import CutGraphs
from ibpc.training.methods import sabr, taps
from ibpc.training.methods._worst_case import worst_case
from ibpc.training.methods.base import WARM_UP, Objective, Terms, TrainingMethod, register, without_margins
from ibpc.training.schedules import Moment
from ibpc.training.shrinking import shrunk

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return SABR's objective until ε is final, then that of TAPS over the small box."""
    graphs = shrunk(graphs, recipe.box.shrinking)
    region = partial(sabr.region, graphs, recipe)
    climbing, halves = worst_case(graphs, recipe, region), CutGraphs(graphs, recipe.cut)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        if moment.eps < final_eps(recipe):
            return climbing(x, labels, moment, draws)
        return taps.terms(halves, recipe, x, region(x, labels, moment.eps, draws), labels, moment, draws)

    return without_margins(objective)


METHOD = register(
    TrainingMethod(
        "staps",
        "TAPS over a small box around an adversarial point",
        build,
        {**WARM_UP, "attack.step": 0.5},
        frozenset({"attack", "box", "cut"}),
    )
)
