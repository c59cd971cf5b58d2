"""CROWN-IBP: linear bounds on top of interval bounds, fading out as ε climbs (Zhang et al. 2020, arXiv 1906.06316).

While ε climbs, the weight β of the linear bounds falls; where it is 0, the objective and its cost are those
of IBP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

import torch

from ibpc.margins import margins_of
from ibpc.training.bounding import Bounded, Bounding, final_eps
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.linear import LOSS, MARGINS, LinearGraphs, Propagated, fused_losses, margin_bounds
from ibpc.training.methods import ibp
from ibpc.training.methods.base import Objective, Terms, TrainingMethod, register
from ibpc.training.objectives import blend, nominal_loss, robust_loss
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe

# From the propagated boxes, interval margins (B, K), labels (B,), the index of margins and β: loss and margins.
Robust: TypeAlias = Callable[
    [Propagated, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]
]


def build(graphs: TrainingGraphs, recipe: Recipe) -> Objective:
    """Return κ · nominal + (1 − κ) · robust loss, where linear bounds enter the robust loss with weight β."""
    plain = ibp.build(graphs, recipe)
    bounding, linear = Bounding(graphs, recipe), LinearGraphs(graphs)
    robust_of = _ROWS[recipe.linear.rows]

    def objective(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        beta = weight(recipe, moment)
        if moment.eps == 0 or beta == 0:
            return plain(x, labels, moment, draws)
        box = graphs.ball(x, moment.eps)
        propagated = linear(x, box)
        certain = margins_of(propagated.differences.lower, propagated.differences.upper, labels, graphs.index)
        robust, margins = robust_of(propagated, certain, labels, graphs.index, beta)
        nominal = nominal_loss(propagated.logits, labels)
        warm_up = bounding.regularization(box, [propagated.boxes[name] for name in graphs.rectified], moment)
        bounded = Bounded(propagated.logits, margins, warm_up)
        loss = bounded.regularized(blend(nominal, robust, moment.kappa))
        return Terms(loss, propagated.logits, margins, bounded.parts(nominal_loss=nominal, robust_loss=robust))

    return objective


def weight(recipe: Recipe, moment: Moment) -> float:
    """Return β at a moment: it changes in proportion to ε."""
    final = final_eps(recipe)
    start, end = recipe.linear.beta_start, recipe.linear.beta_end
    return start + (end - start) * min(1.0, moment.eps / final) if final else start


def _by_margins(
    propagated: Propagated, certain: torch.Tensor, labels: torch.Tensor, index: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss at margins (1 − β) · interval + β · linear, and these margins."""
    margins = certain + beta * (torch.maximum(margin_bounds(propagated, labels), certain) - certain)
    return robust_loss(margins, labels), margins


def _by_loss(
    propagated: Propagated, certain: torch.Tensor, labels: torch.Tensor, index: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bound of the whole loss, and the interval margins: it does not bound single margins."""
    return fused_losses(propagated, labels, index, beta).mean(), certain


_ROWS: Final[Mapping[str, Robust]] = MappingProxyType({MARGINS: _by_margins, LOSS: _by_loss})
_DEFAULTS: Final = {"schedule.shape": "smooth", "schedule.kappa_start": 1.0, "schedule.kappa_end": 0.5}

METHOD = register(
    TrainingMethod(
        "crown-ibp",
        "Linear bounds between interval bounds, faded out as ε climbs",
        build,
        _DEFAULTS,
        frozenset({"linear"}),
    )
)
