"""STAPS: TAPS over the small box of SABR in place of the whole one (Mao et al. 2023, arXiv 2305.04574).

While ε climbs the objective is that of SABR, as in the source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ibpc.training.bounding import final_eps
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.latent import CutGraphs
from ibpc.training.methods import sabr, taps
from ibpc.training.methods.base import WARM_UP, Method, Objective, Terms, register
from ibpc.training.schedules import Moment
from ibpc.training.shrinking import shrunk

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the objective."""
    graphs = shrunk(graphs, recipe.box.shrinking)
    climbing, halves = sabr.over(graphs, recipe), CutGraphs(graphs, recipe.cut)

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        if moment.eps < final_eps(recipe):
            return climbing(x, labels, moment, draws)
        box = sabr.region(graphs, recipe, x, labels, moment.eps, draws)
        found = taps.terms(halves, recipe, x, box, labels, moment, draws)
        return replace(found, margins=None)

    return objective


METHOD = register(
    Method(
        "staps",
        "TAPS over a small box around an adversarial point",
        build,
        {**WARM_UP, "attack.step": 0.5},
    )
)
