"""α-CROWN: CROWN with slopes chosen to make the final bound as tight as possible (Xu et al. 2021, arXiv 2011.13824).

Each row of each sample has its own slopes, and so does each end of the boxes in front of nonlinear operators.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.ascent import ascend
from ibpc.bounds.backward import Backward
from ibpc.bounds.base import AffineRules, Bounder, BoundingMethod, Boxes, Proof
from ibpc.bounds.batching import in_parts, intersected, rows_at_once, samples_at_once
from ibpc.bounds.cone import cone_of, read_by
from ibpc.bounds.crown import bounds_of, crown_ibp
from ibpc.bounds.refinement import refined_values, values_for
from ibpc.bounds.sharpening import sharpened_values
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

STEPS: Final = 20


def alpha_crown(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the bounder; see `MakeBounder`. Its bounds are intersected with CROWN's, so they are never looser.

    Pre-activation bounds may take half of the time until the deadline.
    """
    (output,) = walk.graph.outputs
    rows = matrix.to(walk.device, torch.float64)
    quick, wanted = crown_ibp(walk, matrix, arithmetic, deadline), read_by(rows)

    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        known = values_for(wanted, walk, boxes, arithmetic, deadline)
        first = intersected(quick(*boxes), *bounds_of(walk, Backward(walk, known), known, rows, deadline))
        cone = cone_of(walk, known, wanted)
        values = sharpened_values(walk, boxes, arithmetic, known, _halfway_to(deadline), cone)
        batch = first.lower.shape[0]
        lowers, uppers = [], []
        for part in torch.split(rows, rows_at_once(walk, 4 * batch)):
            form = part.unsqueeze(1).expand(-1, batch, -1)
            lowers.append(ascend(walk, values, {output: form}, STEPS, deadline=deadline).lower.T)
            uppers.append(-ascend(walk, values, {output: -form}, STEPS, deadline=deadline).lower.T)
        return intersected(first, torch.cat(lowers, 1), torch.cat(uppers, 1))

    return in_parts(bound, samples_at_once(walk))


def _halfway_to(deadline: float) -> float:
    now = time.monotonic()
    return now + (deadline - now) / 2


# ── affine bounds ───────────────────────────────────────────────────────────────────────────────────────────────
def _sharpened_values(walk: Walk, boxes: Boxes, arithmetic: Arithmetic, deadline: float) -> Values:
    return sharpened_values(walk, boxes, arithmetic, refined_values(walk, boxes, arithmetic, deadline), deadline)


def _ascended(walk: Walk, values: Values, form: Tensor, deadline: float) -> tuple[Tensor, Mapping[str, Tensor]]:
    (output,) = walk.graph.outputs
    ascent = ascend(walk, values, {output: form}, STEPS, deadline=deadline)
    return ascent.lower, ascent.forms


ALPHA_CROWN: Final = BoundingMethod(
    "alpha-crown", alpha_crown, is_slow=True, proof=Proof.CHOICES, affine=AffineRules(_sharpened_values, _ascended)
)
