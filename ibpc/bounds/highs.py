"""HiGHS (Huangfu & Hall 2018) on one mixed-integer program: the least values of forms of its columns."""

from __future__ import annotations

import time
from math import inf
from typing import Any, Final

import numpy as np

from ibpc.errors import UsageError

_FEASIBILITY: Final = 1e-9


def imported_highspy() -> Any:
    """Return the package highspy. Raises UsageError where it is missing."""
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
        self._highspy = imported_highspy()
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

    def least(self, costs: np.ndarray[Any, np.dtype[np.float64]], deadline: float = inf) -> float:
        """Return a lower bound of costs · columns, the least value but for tolerances; −∞ where time ran out."""
        full = np.zeros(self._count)
        full[: len(costs)] = costs
        left = deadline - time.monotonic()
        if left <= 0:
            return -inf
        highs, status = self._highs, self._highspy.HighsModelStatus
        highs.setOptionValue("time_limit", highs.getRunTime() + left if left < inf else inf)
        highs.changeColsCost(self._count, np.arange(self._count, dtype=np.int32), full)
        highs.clearSolver()
        highs.run()
        found, info = highs.getModelStatus(), highs.getInfo()
        if not self._is_linear:
            useful = found in (status.kOptimal, status.kTimeLimit)
            return float(info.mip_dual_bound) if useful else -inf
        return float(info.objective_function_value) if found == status.kOptimal else -inf
