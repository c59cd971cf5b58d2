"""SABR: the worst case over a small box around an adversarial point (Müller et al. 2023, arXiv 2210.04871)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ibpc.interval import Interval
from ibpc.training.attack import small_box
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods._worst_case import worst_case
from ibpc.training.methods.base import WARM_UP, Objective, TrainingMethod, register, without_margins
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
    """Return the worst-case objective over the small box."""
    graphs = shrunk(graphs, recipe.box.shrinking)
    return without_margins(worst_case(graphs, recipe, partial(region, graphs, recipe)))


METHOD = register(
    TrainingMethod(
        "sabr",
        "Worst case over a small box around an adversarial point",
        build,
        {**WARM_UP, "attack.step": 0.5, "attack.decay": 0.1},
        frozenset({"attack", "box"}),
    )
)
