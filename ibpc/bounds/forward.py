"""Forward linear bounds (Xu et al. 2020, arXiv 2002.12920, section 3.2), never looser than interval bounds.

Every value's box is the intersection of the bounds by its forms and by the interval rule. Where the forms of one
sample, which have a number for each input element that varies, would take too many, only interval bounds are used.
"""

from __future__ import annotations

from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.base import Bounder, BoundingMethod, Proof
from ibpc.bounds.batching import in_parts, intersected
from ibpc.bounds.ibp import ibp
from ibpc.bounds.pushed_forms import MOST_NUMBERS, Forward, numbers, varying
from ibpc.bounds.values import Walk, advance, start
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic


def forward(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the bounder; see `MakeBounder`. The deadline plays no part."""
    (output,) = walk.graph.outputs
    quick, rows = ibp(walk, matrix, arithmetic), matrix.to(walk.device, torch.float64)

    @torch.no_grad()
    def pushed(*boxes: Interval) -> Interval:
        first = quick(*boxes)
        values = start(walk, boxes)
        forms = Forward(walk, values)
        for step in walk.steps.values():
            advance(values, step, arithmetic)
            forms.push(step)
        return intersected(first, *forms.bounds(output, rows))

    def bound(*boxes: Interval) -> Interval:
        at_once = MOST_NUMBERS // numbers(walk, varying(boxes))
        return in_parts(pushed, at_once)(*boxes) if at_once else quick(*boxes)

    return bound


FORWARD: Final = BoundingMethod("forward", forward, is_slow=False, proof=Proof.OTHER_PLANES)
