"""Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715), with the margins merged into the last layer."""

from __future__ import annotations

from math import inf
from typing import Final

import torch
from torch import Tensor, fx

from ibpc.bounds.base import Bounder, BoundingMethod, Proof
from ibpc.bounds.values import Walk
from ibpc.interval import Interval, boxes_of, ends_of
from ibpc.ir import Graph
from ibpc.lowering import freeze, lower_interval, parameter_tree
from ibpc.passes import EliminateDeadCode
from ibpc.passes.merge_specification import merge_specification
from ibpc.rounding import Arithmetic


def ibp(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the function boxes (B, …) → bounds of `matrix` · outputs, (B, rows); see `MakeBounder`.

    |W| and the merged specification are computed once. The deadline plays no part.
    """
    lowered = lower_margins(walk.graph, matrix, arithmetic).to(walk.device)

    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        return boxes_of(lowered(*ends_of(boxes)))[0]

    return bound


def lower_margins(graph: Graph, matrix: Tensor, arithmetic: Arithmetic) -> fx.GraphModule:
    """Return the frozen graph (lower, upper per input) → bounds (B, rows) of `matrix` · output; needs `evaluated`.

    The outputs themselves need no product with an identity, which would cost them the rounding of long sums.
    """
    if not torch.equal(matrix, torch.eye(len(matrix)).to(matrix)):
        graph = merge_specification(graph, matrix, name=graph.fresh_name("margins")).graph
        graph.outputs = graph.outputs[-1:]
    needed = EliminateDeadCode().run(graph).graph
    return freeze(lower_interval(needed, parameter_tree(needed), arithmetic))


IBP: Final = BoundingMethod("ibp", ibp, is_slow=False, proof=Proof.INTERVALS)
