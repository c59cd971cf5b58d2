"""Interval bound propagation: κ · nominal + (1 − κ) · worst case over the box (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ibpc.interval import Interval
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.methods._worst_case import worst_case
from ibpc.training.methods.base import Objective, TrainingMethod, register

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return the worst-case objective over the whole ball of radius ε."""

    def region(x: torch.Tensor, labels: torch.Tensor, eps: float, draws: Draws) -> Interval:
        return graphs.ball(x, eps)

    return worst_case(graphs, recipe, region)


METHOD = register(TrainingMethod("ibp", "Cross-entropy of the logits and of their worst case over the box", build))
