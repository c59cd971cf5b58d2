"""Forward linear bounds (Xu et al. 2020, arXiv 2002.12920, section 3.2), never looser than interval bounds.

Every value's box is the intersection of what its forms give and the interval rule. Where the forms of one sample would
be too many numbers, interval bounds stand alone.
"""

from __future__ import annotations

from math import inf, prod
from typing import TypeAlias

import torch

from ibpc.bounds.base import Bounder
from ibpc.bounds.batching import in_parts, intersected, walk_of
from ibpc.bounds.ibp import ibp
from ibpc.bounds.pushed_forms import MOST_NUMBERS, Forward, numbers
from ibpc.bounds.values import advance, start
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic

Tensor: TypeAlias = torch.Tensor


def forward(
    graph: Graph, matrix: Tensor, arithmetic: Arithmetic, device: torch.device, deadline: float = inf
) -> Bounder:
    """Return the bounder; see `Method`. Nothing waits for the deadline."""
    walk = walk_of(graph, device)
    (output,) = walk.graph.outputs
    rows = matrix.to(device, torch.float64)
    quick = ibp(graph, matrix, arithmetic, device)
    at_once = MOST_NUMBERS // numbers(walk, sum(prod(graph.node(name).shape[1:]) for name in graph.inputs))

    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        first = quick(*boxes)
        values = start(walk, boxes)
        forms = Forward(walk, values)
        for step in walk.steps.values():
            advance(values, step, arithmetic)
            forms.push(step)
        return intersected(first, *forms.bounds(output, rows))

    return in_parts(bound, at_once) if at_once else quick
