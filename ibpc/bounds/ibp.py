"""Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715), with the margins merged into the last layer."""

from __future__ import annotations

import torch

from ibpc.bounds.base import Bounder
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.lowering import freeze, lower_interval, parameter_tree
from ibpc.passes import EVALUATION, EliminateDeadCode
from ibpc.passes.merge_specification import merge_specification
from ibpc.rounding import Arithmetic


def ibp(graph: Graph, matrix: torch.Tensor, arithmetic: Arithmetic, device: torch.device) -> Bounder:
    """Return the function box (B, …) → bounds of `matrix` · output, (B, rows).

    BatchNormalization is folded, |W| and the merged specification are computed once.
    """
    folded, _ = EVALUATION.run(graph)
    merged = merge_specification(folded, matrix).graph
    merged.outputs = merged.outputs[-1:]
    needed = EliminateDeadCode().run(merged).graph
    lowered = freeze(lower_interval(needed, parameter_tree(needed), arithmetic)).to(device)

    @torch.no_grad()
    def bound(box: Interval) -> Interval:
        lower, upper = lowered(box.lower, box.upper)
        return Interval.bounds(lower, upper)

    return bound
