"""CROWN: backward linear bounds (Zhang et al. 2018, arXiv 1811.00866), never looser than interval bounds.

`crown_ibp` takes the boxes in front of nonlinear operators from interval propagation (Zhang et al. 2020, arXiv
1906.06316); `crown` tightens each of them by a backward pass of its own before it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.bounds.backward import Backward
from ibpc.bounds.base import AffineRules, Bounder, BoundingMethod, Boxes, Proof
from ibpc.bounds.batching import in_parts, intersected, rows_at_once, samples_at_once
from ibpc.bounds.cone import read_by
from ibpc.bounds.ibp import ibp
from ibpc.bounds.refinement import interval_values, refined_values, values_for
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

Propagation: TypeAlias = Callable[[Boxes], Values]


def crown_ibp(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the bounder with interval pre-activation bounds; see `MakeBounder`."""
    quick, rows = ibp(walk, matrix, arithmetic), matrix.to(walk.device, torch.float64)
    return _bounder(walk, rows, deadline, lambda boxes: interval_values(walk, boxes, arithmetic), quick)


def crown(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the bounder with backward pre-activation bounds; see `MakeBounder`.

    Tighter boxes lead to other slopes, which may loosen the final bound: it is intersected with that of `crown_ibp`.
    """
    quick, rows = crown_ibp(walk, matrix, arithmetic, deadline), matrix.to(walk.device, torch.float64)
    wanted = read_by(rows)
    return _bounder(walk, rows, deadline, lambda boxes: values_for(wanted, walk, boxes, arithmetic, deadline), quick)


def _bounder(walk: Walk, rows: Tensor, deadline: float, propagate: Propagation, quick: Bounder) -> Bounder:
    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        first = quick(*boxes)
        values = propagate(boxes)
        return intersected(first, *bounds_of(walk, Backward(walk, values), values, rows, deadline))

    return in_parts(bound, samples_at_once(walk))


def bounds_of(walk: Walk, backward: Backward, values: Values, rows: Tensor, deadline: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (B, R) of `rows` (R, K) · outputs, infinite if not reached by the deadline."""
    (output,) = walk.graph.outputs
    batch = values.box(output).lower.shape[0]
    lower = torch.full((batch, len(rows)), -inf, dtype=torch.float64, device=rows.device)
    upper = -lower
    for part in torch.split(torch.arange(len(rows), device=rows.device), max(1, rows_at_once(walk, batch) // 2)):
        if time.monotonic() > deadline:
            break
        forms = torch.cat([rows[part], -rows[part]]).unsqueeze(1).expand(-1, batch, -1)
        found = backward.lower({output: forms}).T
        lower[:, part], upper[:, part] = found[:, : len(part)], -found[:, len(part) :]
    return lower, upper


# ── affine bounds ───────────────────────────────────────────────────────────────────────────────────────────────
def _interval_values(walk: Walk, boxes: Boxes, arithmetic: Arithmetic, _deadline: float) -> Values:
    return interval_values(walk, boxes, arithmetic)


def _pulled(walk: Walk, values: Values, form: Tensor, _deadline: float) -> tuple[Tensor, Mapping[str, Tensor]]:
    (output,) = walk.graph.outputs
    backward = Backward(walk, values)
    return backward.lower({output: form}), backward.forms


CROWN_IBP: Final = BoundingMethod(
    "crown-ibp", crown_ibp, is_slow=False, proof=Proof.PLANES, affine=AffineRules(_interval_values, _pulled)
)
CROWN: Final = BoundingMethod(
    "crown", crown, is_slow=False, proof=Proof.TIGHTENED_PLANES, affine=AffineRules(refined_values, _pulled)
)
