"""A network over one box as a mixed-integer linear program (Tjeng et al. 2019, arXiv 1711.07356).

Every value is an expression: a sparse affine form of the program's columns, plus or minus an error for binary32
(`ibpc.bounds.values`). Affine operators map expressions to expressions. For piecewise linear elementwise operators, an
element whose box lies in one piece stays an expression; the others become a sum of steps, one a piece, in which each
step but the first may begin only when the one before it is full (the incremental model, Croxton et al. 2003): the only
relaxation is that of integrality. A maximum equals one of its candidates and is at least each of them. All other
operators lie between their planes: sound, but no longer exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import Step, Values, Walk, flat, is_linear_here
from ibpc.interval import Interval
from ibpc.ops.rules import Operand, Plane

Array: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = Any  # scipy.sparse.csr_array, which has no types

# Most numbers of all columns that are pushed through an operator together.
_MOST_NUMBERS: Final = 2**24


@dataclass(frozen=True)
class Expression:
    """The values of a node: matrix · columns + constant ± error, elements (n,) in row-major order."""

    matrix: Matrix
    constant: Array
    error: Array

    def rows(self, chosen: NDArray[np.int64]) -> Expression:
        """Return some of the elements."""
        return Expression(self.matrix[chosen], self.constant[chosen], self.error[chosen])


@dataclass
class Program:
    """Columns with bounds, some of them integers, and rows lower ≤ matrix · columns ≤ upper."""

    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    integer: list[NDArray[np.bool_]] = field(default_factory=list)
    rows: list[tuple[Matrix, Array, Array]] = field(default_factory=list)
    count: int = 0

    def columns(self, lower: Array, upper: Array, integer: bool = False) -> NDArray[np.int64]:
        """Add columns and return their numbers."""
        numbers = np.arange(self.count, self.count + len(lower))
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(np.full(len(lower), integer))
        self.count += len(lower)
        return numbers

    def require(self, matrix: Matrix, lower: Array, upper: Array) -> None:
        """Add the rows lower ≤ matrix · columns ≤ upper."""
        self.rows.append((sparse.csr_array(matrix), lower, upper))

    def picked(self, numbers: NDArray[np.int64], factors: Array | float = 1.0) -> Matrix:
        """Return the matrix whose rows are single columns times a factor."""
        values = np.broadcast_to(np.asarray(factors, np.float64), numbers.shape)
        places = (np.arange(len(numbers)), numbers)
        return sparse.csr_array((values, places), shape=(len(numbers), self.count))

    def widened(self, matrix: Matrix) -> Matrix:
        """Return the matrix with zero columns appended up to the present number of columns."""
        return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], self.count))


class Encoding:
    """The program of a network over one sample's boxes; `expressions` are those of its values."""

    def __init__(self, walk: Walk, values: Values) -> None:
        self.program = Program()
        self._values = values
        self._device = values.box(walk.inputs[0]).lower.device
        self.expressions: dict[str, Expression] = {}
        for name in walk.inputs:
            box = values.box(name)
            lower, upper = _flat(box.lower), _flat(box.upper)
            matrix = self.program.picked(self.program.columns(lower, upper))
            self.expressions[name] = Expression(matrix, np.zeros(len(lower)), np.zeros(len(lower)))
        for name, step in walk.steps.items():
            if isinstance(values.known[name], Interval):
                self.expressions[name] = self._blurred(name, self._result(step))

    def _result(self, step: Step) -> Expression:
        operands = tuple(self._values.known[operand] for operand in step.operands)
        rules = step.operator.rules
        if step.operator.is_affine or is_linear_here(step, operands):
            return self._pushed(step, operands, lambda *x: rules.nominal(step.call, *x, **step.parameters))
        if rules.kinks is not None:
            return self._pieces(step, rules.kinks(step.call, **step.parameters))
        if rules.selects:
            return self._greatest(step, operands)
        return self._between_planes(step, operands)

    def _blurred(self, name: str, found: Expression) -> Expression:
        """Return the expression with the rounding error of binary32 at the node added."""
        error = self._values.errors[name]
        return found if error is None else Expression(found.matrix, found.constant, found.error + _flat(error))

    # ── affine operators ────────────────────────────────────────────────────────────────────────────────────────
    def _pushed(self, step: Step, operands: Sequence[Operand], function: Callable[..., Tensor]) -> Expression:
        """Return the image of the operands' expressions under an affine function of tensors (B, …)."""
        found = [
            self.expressions[name] if isinstance(x, Interval) else None
            for name, x in zip(step.operands, operands, strict=True)
        ]
        shapes = [x.lower.shape[1:] if isinstance(x, Interval) else () for x in operands]

        def applied(parts: Sequence[Array | None]) -> Array:
            points = [
                x if part is None else torch.from_numpy(part).reshape(-1, *shape).to(self._device)
                for x, part, shape in zip(operands, parts, shapes, strict=True)
                if part is not None or not isinstance(x, Interval)
            ]
            result: Array = flat(function(*points)).cpu().numpy()
            return result

        zero = applied([None if e is None else np.zeros((1, len(e.constant))) for e in found])[0]
        constant = applied([None if e is None else e.constant[None] for e in found])[0]
        error = np.zeros_like(constant)
        used = np.unique(np.concatenate([e.matrix.indices for e in found if e is not None]))
        blocks = []
        largest = max(len(zero), *(len(e.constant) for e in found if e is not None))
        for part in _parts(used, max(1, _MOST_NUMBERS // largest)):
            chunks = [None if e is None else self.program.widened(e.matrix)[:, part].T.toarray() for e in found]
            blocks.append(_placed(applied(chunks) - zero, part, self.program.count))
        matrix: Matrix = sum(blocks[1:], blocks[0]) if blocks else sparse.csr_array((len(zero), self.program.count))
        if any(e is not None and e.error.any() for e in found):
            error = self._spread(found, applied, zero)
        return Expression(sparse.csr_array(matrix), constant, error)

    def _spread(
        self, found: Sequence[Expression | None], applied: Callable[[Sequence[Array | None]], Array], zero: Array
    ) -> Array:
        """Return |W| error: the error of each element is pushed by itself, some at a time."""
        total = np.zeros_like(zero)
        for slot, expression in enumerate(found):
            if expression is None:
                continue
            places = np.flatnonzero(expression.error).astype(np.int64)
            for part in _parts(places, max(1, _MOST_NUMBERS // max(len(zero), len(expression.error)))):
                units = np.zeros((len(part), len(expression.error)))
                units[np.arange(len(part)), part] = expression.error[part]
                chunks = [
                    None if e is None else (units if other == slot else np.zeros((len(part), len(e.constant))))
                    for other, e in enumerate(found)
                ]
                total += np.abs(applied(chunks) - zero).sum(0)
        return total

    # ── elementwise operators of straight pieces ────────────────────────────────────────────────────────────────
    def _pieces(self, step: Step, kinks: Sequence[Tensor | float]) -> Expression:
        """Return the operator's value: where the box crosses kinks, the sum of its steps along the pieces."""
        (name,) = step.operands
        x, box = self.expressions[name], self._values.box(name)
        ends = [box.lower, *(_inside(kink, box) for kink in kinks), box.upper]
        points = [_flat(end) for end in ends]
        slopes, offsets = zip(*(self._line(step, left, right) for left, right in pairwise(ends)), strict=True)
        widths = [right - left for left, right in pairwise(points)]
        crossing = sum((width > 0).astype(int) for width in widths) > 1
        single = np.argmax(np.stack(widths), 0)
        slope, offset = (np.take_along_axis(np.stack(v), single[None], 0)[0] for v in (slopes, offsets))
        slope, offset = np.where(crossing, 0.0, slope), np.where(crossing, 0.0, offset)
        matrix = sparse.csr_array(sparse.diags_array(slope) @ self.program.widened(x.matrix))
        constant = slope * x.constant + offset
        error = np.abs(slope) * x.error
        chosen = np.flatnonzero(crossing).astype(np.int64)
        if not len(chosen):
            return Expression(matrix, constant, error)
        widths = [width[chosen] for width in widths]
        steps = [self.program.columns(np.zeros(len(chosen)), width) for width in widths]
        self._in_order(steps, widths)
        front = x.rows(chosen)
        total = sum((self.program.picked(s) for s in steps[1:]), self.program.picked(steps[0]))
        rest = points[0][chosen] - front.constant
        self.program.require(self.program.widened(front.matrix) - total, rest - front.error, rest + front.error)
        rising = sum(
            (self.program.picked(s, v[chosen]) for s, v in zip(steps[1:], slopes[1:], strict=True)),
            self.program.picked(steps[0], slopes[0][chosen]),
        )
        spread = sparse.csr_array(
            (np.ones(len(chosen)), (chosen, np.arange(len(chosen)))), shape=(len(constant), len(chosen))
        )
        nominal = step.operator.rules.nominal(step.call, box.lower, **step.parameters)
        constant[chosen] = _flat(nominal)[chosen]
        return Expression(sparse.csr_array(self.program.widened(matrix) + spread @ rising), constant, error)

    def _line(self, step: Step, left: Tensor, right: Tensor) -> tuple[Array, Array]:
        """Return slope and offset of the operator between two kinks, from its derivative in the middle."""
        with torch.enable_grad():
            middle = (0.5 * left + 0.5 * right).requires_grad_()
            value = step.operator.rules.nominal(step.call, middle, **step.parameters)
            (slope,) = torch.autograd.grad(value.sum(), middle)
        return _flat(slope), _flat(value.detach() - slope * middle.detach())

    def _in_order(self, steps: Sequence[NDArray[np.int64]], widths: Sequence[Array]) -> None:
        """Let each step begin only where the one before it is full: width · z ≤ step, next step ≤ width · z."""
        for (step, width), (after, next_width) in pairwise(zip(steps, widths, strict=True)):
            switch = self.program.columns(np.zeros(len(step)), np.ones(len(step)), integer=True)
            nothing, infinite = np.zeros(len(step)), np.full(len(step), inf)
            self.program.require(self.program.picked(step) - self.program.picked(switch, width), nothing, infinite)
            waits = self.program.picked(after) - self.program.picked(switch, next_width)
            self.program.require(waits, -infinite, nothing)

    # ── maxima ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _greatest(self, step: Step, operands: Sequence[Operand]) -> Expression:
        """Return the maximum over the candidates in the planes' view: y ≥ x_j for all j, and y ≤ x_j for one."""
        view = plain_planes(step, tuple(operands)).lower.views[0]
        (x,) = operands
        assert isinstance(x, Interval)
        candidates = self._pushed(step, operands, view)
        there = view(torch.ones_like(x.lower)) > 0
        low, high = (torch.where(there, view(end), torch.full_like(view(end), -inf)) for end in (x.lower, x.upper))
        least, most = _flat(low.amax(-1)), _flat(high.amax(-1))
        count = there.shape[-1]
        result = self.program.columns(least, most)
        owner = np.repeat(np.arange(len(least)), count)
        places = np.flatnonzero(_flat(there).astype(bool) & (_flat(high) >= least[owner])).astype(np.int64)
        owners, chosen = owner[places], candidates.rows(places)
        switch = self.program.columns(np.zeros(len(places)), np.ones(len(places)), integer=True)
        above = self.program.picked(result[owners]) - self.program.widened(chosen.matrix)
        infinite = np.full(len(places), inf)
        self.program.require(above, chosen.constant - chosen.error, infinite)
        room = most[owners] - _flat(low)[places]
        self.program.require(
            above + self.program.picked(switch, room), -infinite, chosen.constant + chosen.error + room
        )
        ones = (np.ones(len(places)), (owners, switch))
        total = sparse.csr_array(ones, shape=(len(least), self.program.count))
        self.program.require(total, np.ones(len(least)), np.ones(len(least)))
        return Expression(self.program.picked(result), np.zeros(len(least)), np.zeros(len(least)))

    # ── all other operators ─────────────────────────────────────────────────────────────────────────────────────
    def _between_planes(self, step: Step, operands: Sequence[Operand]) -> Expression:
        """Return new columns between the operator's planes and inside its box."""
        box = self._values.box(step.node.name)
        planes = plain_planes(step, tuple(operands))
        result = self.program.columns(_flat(box.lower), _flat(box.upper))
        for plane, side in ((planes.lower, 1.0), (planes.upper, -1.0)):
            held = np.isfinite(_flat(torch.broadcast_to(plane.offset, box.lower.shape)))
            pushed = self._pushed(step, operands, _finite(plane)).rows(np.flatnonzero(held).astype(np.int64))
            row = self.program.picked(result[held]) - self.program.widened(pushed.matrix)
            ends = (side * pushed.constant - pushed.error, np.full(int(held.sum()), inf))
            self.program.require(side * row, *ends)
        nothing = np.zeros(len(result))
        return Expression(self.program.picked(result), nothing, nothing)


def _finite(plane: Plane) -> Plane:
    """Return a plane whose infinite elements, which claim nothing, are 0."""
    slopes = tuple(slope.nan_to_num(0.0, 0.0, 0.0) for slope in plane.slopes)
    return Plane(slopes, plane.offset.nan_to_num(0.0, 0.0, 0.0), plane.views)


def _inside(kink: Tensor | float, box: Interval) -> Tensor:
    point = torch.as_tensor(kink, dtype=box.lower.dtype, device=box.lower.device)
    return box.nearest(point)


def _flat(value: Tensor) -> Array:
    result: Array = value.detach().double().flatten().cpu().numpy().copy()
    return result


def _parts(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _placed(block: Array, columns: NDArray[np.int64], count: int) -> Matrix:
    """Return the sparse (n, count) matrix whose given columns are the rows of a block (columns, n)."""
    row, element = np.nonzero(block)
    return sparse.csr_array((block[row, element], (element, columns[row])), shape=(block.shape[1], count))
