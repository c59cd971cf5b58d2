"""HiGHS (Huangfu & Hall 2018) on one mixed-integer program: the least values of forms of its columns."""

from __future__ import annotations

import time
from math import inf
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.errors import UsageError

Array: TypeAlias = NDArray[np.float64]

# How much a bound is loosened for the solver's tolerances, relative to all that its columns can add to it.
TOLERANCE: Final = 1e-6
_FEASIBILITY: Final = 1e-9
# The least value that HiGHS allows for small_matrix_value.
_LEAST_KEPT: Final = 1e-12


def imported_highspy() -> Any:
    """Return the package highspy. Raises UsageError where it is missing."""
    try:
        import highspy
    except ImportError as error:
        raise UsageError.at(
            "method mip", "the package highspy is missing", remedy="pip install highspy scipy"
        ) from error
    return highspy


class Solver:
    """HiGHS on one program, for one form after the other. One thread, deterministic.

    Its tolerances are absolute, and it drops coefficients below a threshold. So columns are scaled to [−1, 1] and rows
    to coefficients up to 1, and the ends of the rows are widened by what would be dropped.
    """

    def __init__(self, program: Any) -> None:
        self._highspy = imported_highspy()
        self._count = program.count
        self._is_linear = not np.concatenate(program.integer).any()
        self._middle, self._width = _units(program)
        # The base class: the constructor of highspy.Highs itself prints a banner that no option suppresses.
        self._highs = self._highspy.Highs.__base__()
        self._highs.setOptionValue("output_flag", False)
        for name, value in (
            ("threads", 1),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", 1e-7),
            ("primal_feasibility_tolerance", _FEASIBILITY),
            ("dual_feasibility_tolerance", _FEASIBILITY),
            ("mip_feasibility_tolerance", _FEASIBILITY),
            ("small_matrix_value", _LEAST_KEPT),
        ):
            self._highs.setOptionValue(name, value)
        self._is_usable = self._highs.passModel(self._model(program)) == self._highspy.HighsStatus.kOk

    def _model(self, program: Any) -> Any:
        highspy, model = self._highspy, self._highspy.HighsLp()
        model.num_col_ = program.count
        model.col_cost_ = np.zeros(program.count)
        model.col_lower_, model.col_upper_ = (
            (np.concatenate(side) - self._middle) / self._width for side in (program.lower, program.upper)
        )
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(flag)] for flag in np.concatenate(program.integer)]
        rows, model.row_lower_, model.row_upper_ = self._rows(program)
        model.num_row_ = rows.shape[0]
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = rows.indptr, rows.indices, rows.data
        return model

    def _rows(self, program: Any) -> tuple[Any, Array, Array]:
        """Return the rows' coefficients and ends, scaled to the units of the columns and of each row."""
        from scipy import sparse

        matrices = [program.widened(matrix) for matrix, _, _ in program.rows]
        given = sparse.csr_array(sparse.vstack(matrices)) if matrices else sparse.csr_array((0, program.count))
        lower, upper = (
            np.concatenate([np.zeros(0), *(row[side] for row in program.rows)]) - given @ self._middle
            for side in (1, 2)
        )
        rows = sparse.csr_array(given @ sparse.diags_array(self._width))
        unit = _power_of_two(abs(rows).max(axis=1).toarray().ravel() if rows.shape[0] else np.zeros(0))
        rows = sparse.csr_array(sparse.diags_array(1.0 / unit) @ rows)
        tiny = sparse.csr_array(abs(rows))
        tiny.data[tiny.data >= 2.0 * _LEAST_KEPT] = 0.0
        rows.data[np.abs(rows.data) < 2.0 * _LEAST_KEPT] = 0.0
        rows.eliminate_zeros()
        lost = tiny.sum(axis=1)
        return rows, lower / unit - lost, upper / unit + lost

    def least(self, costs: Array, deadline: float = inf) -> float:
        """Return a lower bound of costs · columns, the minimum up to tolerances; −∞ where time ran out."""
        full = np.zeros(self._count)
        full[: len(costs)] = costs
        left = deadline - time.monotonic()
        if left <= 0 or not self._is_usable:
            return -inf
        scaled = full * self._width
        (unit,) = _power_of_two(np.abs(scaled).max(initial=0.0, keepdims=True))
        rest = float(full @ self._middle) - TOLERANCE * float(np.abs(scaled).sum())
        highs = self._highs
        highs.setOptionValue("time_limit", highs.getRunTime() + left if left < inf else inf)
        highs.changeColsCost(self._count, np.arange(self._count, dtype=np.int32), scaled / unit)
        highs.clearSolver()
        highs.run()
        return rest + float(unit) * self._found()

    def _found(self) -> float:
        found, info, status = self._highs.getModelStatus(), self._highs.getInfo(), self._highspy.HighsModelStatus
        if not self._is_linear:
            useful = found in (status.kOptimal, status.kTimeLimit)
            return float(info.mip_dual_bound) if useful else -inf
        return float(info.objective_function_value) if found == status.kOptimal else -inf


def _units(program: Any) -> tuple[Array, Array]:
    """Return the columns' middles, and their half widths rounded up to powers of two; 0 and 1 for integer columns."""
    lower, upper, integer = (np.concatenate(part) for part in (program.lower, program.upper, program.integer))
    middle = np.where(integer, 0.0, 0.5 * lower + 0.5 * upper)
    return middle, np.where(integer, 1.0, _power_of_two(0.5 * upper - 0.5 * lower))


def _power_of_two(sizes: Array) -> Array:
    """Return the least powers of two that are at least `sizes`, 1 for 0."""
    mantissa, exponent = np.frexp(sizes)
    return np.where(sizes > 0, np.ldexp(1.0, exponent - (mantissa == 0.5)), 1.0)
