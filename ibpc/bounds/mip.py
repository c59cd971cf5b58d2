"""Exact bounds by mixed-integer programming with HiGHS (Huangfu & Hall 2018), boxes tightened by CROWN first.

Exact for networks of affine operators, piecewise linear ones and maxima; elsewhere as tight as planes allow. A bound
that the deadline cuts off is the best that the search had proved. HiGHS computes in binary64 with tolerances and
without proof: `TOLERANCE` is taken off every bound, far above what its tolerances can add in networks of usual scale,
but that is no theorem.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import numpy as np
import torch

from ibpc.bounds.alpha_crown import alpha_crown
from ibpc.bounds.base import Bounder
from ibpc.bounds.batching import in_parts, intersected, walk_of
from ibpc.bounds.cone import read_by
from ibpc.bounds.refinement import values_for
from ibpc.errors import UsageError
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic

TOLERANCE: Final = 1e-6
_FEASIBILITY: Final = 1e-9


@dataclass(frozen=True)
class Least:
    """The least value of a form: what was proved of it (`bound`), and the columns where it was attained, if any."""

    bound: float
    columns: np.ndarray[Any, np.dtype[np.float64]] | None


def mip(
    graph: Graph, matrix: torch.Tensor, arithmetic: Arithmetic, device: torch.device, deadline: float = inf
) -> Bounder:
    """Return the bounder; see `Method`. Raises UsageError without the package highspy.

    Never looser than α-CROWN, which is first; the programs get what time it leaves.
    """
    exact = program_bounds(graph, matrix, arithmetic, device, deadline)
    quick = alpha_crown(graph, matrix, arithmetic, device, deadline)

    def bound(*boxes: Interval) -> Interval:
        first, found = quick(*boxes), exact(*boxes)
        return intersected(first, found.lower, found.upper)

    return bound


def program_bounds(
    graph: Graph, matrix: torch.Tensor, arithmetic: Arithmetic, device: torch.device, deadline: float = inf
) -> Bounder:
    """Return the bounder that knows the program alone: the judge of all other methods; see `Method`."""
    _highspy()
    from ibpc.bounds.encoding import Encoding

    walk = walk_of(graph, device)
    (output,) = walk.graph.outputs
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
            found = [rest + solver.least(_dense(form), deadline).bound for form, rest in zip(forms, rests, strict=True)]
            ends.append([side * (end - TOLERANCE * (1.0 + abs(end))) for end in found])
        return Interval.bounds(*(torch.tensor([end], dtype=torch.float64, device=device) for end in ends))

    return in_parts(bound, 1)


def _boxes(known: dict[str, Any]) -> list[Interval]:
    return [value for value in known.values() if isinstance(value, Interval)]


def _dense(form: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(form.toarray() if hasattr(form, "toarray") else form, np.float64).ravel()


def _highspy() -> Any:
    try:
        import highspy
    except ImportError as error:
        raise UsageError.at(
            "--method mip", "the package highspy is missing", "it", "pip install highspy scipy"
        ) from error
    return highspy


class Solver:
    """HiGHS on one program, for one form after the other. One thread, deterministic."""

    def __init__(self, program: Any) -> None:
        self._highspy = _highspy()
        self._count = program.count
        self._is_linear = not np.concatenate(program.integer).any()
        # The base class: the constructor of highspy.Highs itself prints a banner that no option keeps back.
        self._highs = self._highspy.Highs.__base__()
        self._highs.setOptionValue("output_flag", False)
        for name, value in (
            ("threads", 1),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", 1e-7),
            ("primal_feasibility_tolerance", _FEASIBILITY),
            ("dual_feasibility_tolerance", _FEASIBILITY),
            ("mip_feasibility_tolerance", _FEASIBILITY),
        ):
            self._highs.setOptionValue(name, value)
        self._highs.passModel(self._model(program))

    def _model(self, program: Any) -> Any:
        from scipy import sparse

        highspy, model = self._highspy, self._highspy.HighsLp()
        model.num_col_ = program.count
        model.col_cost_ = np.zeros(program.count)
        model.col_lower_, model.col_upper_ = np.concatenate(program.lower), np.concatenate(program.upper)
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(flag)] for flag in np.concatenate(program.integer)]
        matrices = [program.widened(matrix) for matrix, _, _ in program.rows]
        rows = sparse.csr_array(sparse.vstack(matrices)) if matrices else sparse.csr_array((0, program.count))
        model.num_row_ = rows.shape[0]
        model.row_lower_ = np.concatenate([np.zeros(0), *(lower for _, lower, _ in program.rows)])
        model.row_upper_ = np.concatenate([np.zeros(0), *(upper for _, _, upper in program.rows)])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = rows.indptr, rows.indices, rows.data
        return model

    def least(self, costs: np.ndarray[Any, np.dtype[np.float64]], deadline: float = inf) -> Least:
        """Return the least value of costs · columns; −∞ where nothing was proved in time."""
        full = np.zeros(self._count)
        full[: len(costs)] = costs
        left = deadline - time.monotonic()
        if left <= 0:
            return Least(-inf, None)
        highs, status = self._highs, self._highspy.HighsModelStatus
        highs.setOptionValue("time_limit", highs.getRunTime() + left if left < inf else inf)
        highs.changeColsCost(self._count, np.arange(self._count, dtype=np.int32), full)
        highs.clearSolver()
        highs.run()
        found, info = highs.getModelStatus(), highs.getInfo()
        point = np.asarray(highs.getSolution().col_value) if info.primal_solution_status == 2 else None
        if not self._is_linear:
            useful = found in (status.kOptimal, status.kTimeLimit)
            return Least(float(info.mip_dual_bound) if useful else -inf, point)
        return Least(float(info.objective_function_value) if found == status.kOptimal else -inf, point)
