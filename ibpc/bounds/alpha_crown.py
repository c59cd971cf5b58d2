"""α-CROWN: CROWN with slopes chosen to make the final bound as tight as possible (Xu et al. 2021, arXiv 2011.13824).

The boxes in front of nonlinear operators are those of CROWN; each row of each sample has slopes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

import torch

from ibpc.bounds.ascent import ascend
from ibpc.bounds.base import Bounder
from ibpc.bounds.cone import read_by
from ibpc.bounds.crown import (
    crown_ibp,
    dense_cost,
    in_parts,
    intersected,
    rows_at_once,
    samples_at_once,
    values_for,
    walk_of,
)
from ibpc.bounds.patches import Cost, Form, dense
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic

STEPS: Final = 20
SHARPENING_STEPS: Final = 24


def alpha_crown(
    graph: Graph, matrix: torch.Tensor, arithmetic: Arithmetic, device: torch.device, deadline: float = inf
) -> Bounder:
    """Return the bounder; see `Method`. Its first step is CROWN, so it is never looser."""
    walk = walk_of(graph, device)
    (output,) = walk.graph.outputs
    rows = matrix.to(device, torch.float64)
    quick = crown_ibp(graph, matrix, arithmetic, device, deadline)

    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        first = quick(*boxes)
        values = values_for(read_by(rows), walk, boxes, arithmetic, deadline)
        batch = first.lower.shape[0]
        lowers, uppers = [], []
        for part in torch.split(rows, rows_at_once(walk, 4 * batch)):
            form = part.unsqueeze(1).expand(-1, batch, -1)
            lowers.append(_raised(walk, values, {output: form}, deadline).T)
            uppers.append(-_raised(walk, values, {output: -form}, deadline).T)
        return intersected(first, torch.cat(lowers, 1), torch.cat(uppers, 1))

    return in_parts(bound, samples_at_once(walk))


def _raised(walk: Walk, values: Values, forms: Mapping[str, torch.Tensor], deadline: float) -> torch.Tensor:
    """Return the better of CROWN's bounds and those after an ascent, (R, B)."""
    plain = ascend(walk, values, forms, 0).lower
    return torch.fmax(plain, ascend(walk, values, forms, STEPS, deadline=deadline).lower)


class SharpPull:
    """Backward bounds whose slopes are chosen for each form by an ascent of its own."""

    def __init__(self, walk: Walk, values: Values) -> None:
        self._walk, self._values = walk, values

    def cost(self, name: str) -> Cost:
        """Return what the form of one element of a node costs: slopes of its own and their gradients as well."""
        cost = dense_cost(self._walk, name)
        return Cost(cost.work, 8 * cost.size)

    def lower(self, forms: Mapping[str, Form]) -> torch.Tensor:
        """Return lower bounds (R, B) of forms at one node."""
        ((name, form),) = forms.items()
        return ascend(self._walk, self._values, {name: dense(form)}, SHARPENING_STEPS).lower
