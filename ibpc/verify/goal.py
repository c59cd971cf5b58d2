"""One disjunct of a property as the linear forms that a search bounds, and how bounds of them are judged."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.verify.properties import Case, Conjunction
from ibpc.verify.specification import Refutation, Specification

# A bound of the rounding in a row's excess, relative to its terms; excesses closer to 0 are judged exactly.
_SLACK: Final = 2.0**-48


class Goal:
    """One disjunct of one case as forms to bound, and the judge of their bounds."""

    def __init__(self, case: Case, disjunct: Conjunction, outputs: int, device: torch.device) -> None:
        self._specification = Specification([Case(case.box, (disjunct,))], outputs)
        self._from_below, self._from_above = self._specification.sides
        matrix = self._specification.matrix.to(device, torch.float64)
        self._rows = len(matrix)
        self._plans = self._specification.plans(0, 0)
        numbers = range(len(self._plans))
        self._counted = torch.tensor([number if number < len(disjunct) else -1 for number in numbers])
        self.forms = torch.cat([matrix[self._from_below], -matrix[self._from_above]])

    def judge(self, lower: Tensor) -> list[Refutation]:
        """Return the refutation that lower bounds (R, B) of the forms give for each part."""
        if not self._plans:
            return [Refutation(-inf, False)] * lower.shape[1]
        known = lower.nan_to_num(-inf).cpu()
        values, slacks = self._rounded(known)
        best, row = values.max(0)
        found = [
            Refutation(margin, margin > 0, index)
            for margin, index in zip(best.tolist(), self._counted[row].tolist(), strict=True)
        ]
        close = (best <= 0) & ((values + 2.0 * slacks).nan_to_num(-inf).amax(0) >= 0)
        for part in close.nonzero()[:, 0].tolist():
            found[part] = self._exact(known[:, part])
        return found

    def _rounded(self, lower: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower bounds (T, B) of the excesses of all rows tried, and how far rounding lowered them."""
        values, slacks = [], []
        for plan in self._plans:
            ends = [lower[self._form(column, plan.sign)] * float(plan.scale) for column in plan.columns]
            rest = float(plan.rest)
            slack = sum((end.abs() for end in ends), lower.new_full(lower.shape[1:], abs(rest))) * _SLACK
            values.append(sum(ends, lower.new_full(lower.shape[1:], rest)) - slack)
            slacks.append(slack)
        return torch.stack(values), torch.stack(slacks)

    def _exact(self, lower: Tensor) -> Refutation:
        """Return the refutation by lower bounds (R,), in exact arithmetic."""
        count = len(self._from_below)
        low, high = lower.new_full((self._rows,), -inf), lower.new_full((self._rows,), inf)
        low[self._from_below] = lower[:count]
        high[self._from_above] = -lower[count:]
        return self._specification.refutations(0, low, high)[0]

    def _form(self, column: int, sign: int) -> int:
        return self._from_below.index(column) if sign > 0 else len(self._from_below) + self._from_above.index(column)

    def excesses(self) -> tuple[Tensor, Tensor]:
        """Return rows (T, K) and offsets (T,): where any row · y + offset is above 0, the disjunct is not met.

        See `Specification.excesses`.
        """
        rows, offsets = self._specification.excesses(0, 0)
        return rows.to(self.forms.device), offsets.to(self.forms.device)

    def judge_single(self, forms: Sequence[int], lower: Tensor) -> list[Refutation]:
        """Return the refutation for each part by a lower bound (1, B) of a single form, the one in `forms`."""
        every = lower.new_full((len(self.forms), lower.shape[1]), -inf)
        every[list(forms), range(lower.shape[1])] = lower[0]
        return self.judge(every)

    def alone(self, row: int) -> int:
        """Return the form that a row of the disjunct is made of, −1 if it is made of several or none."""
        return self.form_of(row) if self._specification.is_single(0, 0, row) else -1

    def form_of(self, row: int) -> int:
        """Return the leading form of a row of the disjunct (−1 is the sum), −1 if the row is not about outputs."""
        column, sign = self._specification.column(0, 0, row)
        if column < 0:
            return -1
        return self._form(column, sign)
