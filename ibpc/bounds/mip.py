"""Exact bounds by mixed-integer programming with HiGHS (Huangfu & Hall 2018), boxes tightened by CROWN first.

Exact for networks of affine operators, piecewise linear ones and maxima; elsewhere as tight as planes allow. At the
deadline a bound is the best that the search has proved so far. HiGHS computes in binary64 with tolerances and without
proof: every bound is loosened by `TOLERANCE` times its size and all that the columns can add to it. That is far more
than HiGHS's tolerances in the units of the columns, but no theorem.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ibpc.bounds.alpha_crown import alpha_crown
from ibpc.bounds.base import Bounder, BoundingMethod, Proof
from ibpc.bounds.batching import in_parts, intersected
from ibpc.bounds.cone import read_by
from ibpc.bounds.highs import TOLERANCE, Solver, imported_highspy
from ibpc.bounds.refinement import values_for
from ibpc.bounds.values import Walk
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic


def mip(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the bounder; see `MakeBounder`. Raises UsageError without the package highspy.

    Never looser than α-CROWN, which runs first; the programs get the time that is left.
    """
    exact = program_bounds(walk, matrix, arithmetic, deadline)
    quick = alpha_crown(walk, matrix, arithmetic, deadline)

    def bound(*boxes: Interval) -> Interval:
        first, found = quick(*boxes), exact(*boxes)
        return intersected(first, found.lower, found.upper)

    return bound


def program_bounds(walk: Walk, matrix: Tensor, arithmetic: Arithmetic, deadline: float = inf) -> Bounder:
    """Return the bounder that uses the program alone: the reference for all other methods; see `MakeBounder`."""
    imported_highspy()
    from ibpc.bounds.encoding import Encoding

    (output,), device = walk.graph.outputs, walk.device
    wanted, rows = read_by(matrix.to(device)), matrix.double().cpu().numpy()

    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        values = values_for(wanted, walk, boxes, arithmetic, deadline)
        if not all(bool(x.lower.isfinite().all() and x.upper.isfinite().all()) for x in _boxes(values.known)):
            nothing = torch.full((1, len(rows)), inf, dtype=torch.float64, device=device)
            return Interval.bounds(-nothing, nothing)
        encoding = Encoding(walk, values)
        solver = Solver(encoding.program)
        result = encoding.expressions[output]
        ends = []
        for side in (1.0, -1.0):
            forms = [side * row @ result.matrix for row in rows]
            rests = side * (rows @ result.constant) - np.abs(rows) @ result.error
            found = [rest + solver.least(_dense(form), deadline) for form, rest in zip(forms, rests, strict=True)]
            ends.append([side * (end - TOLERANCE * (1.0 + abs(end))) for end in found])
        return Interval.bounds(*(torch.tensor([end], dtype=torch.float64, device=device) for end in ends))

    return in_parts(bound, 1)


def _boxes(known: dict[str, Any]) -> list[Interval]:
    return [value for value in known.values() if isinstance(value, Interval)]


def _dense(form: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(form.toarray() if hasattr(form, "toarray") else form, np.float64).ravel()


MIP: Final = BoundingMethod("mip", mip, is_slow=True, proof=Proof.SEARCH)
