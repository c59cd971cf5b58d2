"""One disjunct of a property as linear forms: what a search bounds, and what bounds say of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypeAlias

import torch

from ibpc.verify.properties import Case, Conjunction
from ibpc.verify.specification import Refutation, Specification

Tensor: TypeAlias = torch.Tensor


class Goal:
    """One disjunct of one case as forms: what to bound, and what bounds say of it."""

    def __init__(self, case: Case, disjunct: Conjunction, outputs: int, device: torch.device) -> None:
        self._specification = Specification([Case(case.box, (disjunct,))], outputs)
        self._from_below, self._from_above = self._specification.sides
        matrix = self._specification.matrix.to(device, torch.float64)
        self._rows = len(matrix)
        self.forms = torch.cat([matrix[self._from_below], -matrix[self._from_above]])

    def judge(self, lower: Tensor) -> list[Refutation]:
        """Return what lower bounds (R, B) of the forms say of each part."""
        count = len(self._from_below)
        low = lower.new_full((lower.shape[1], self._rows), -inf)
        high = lower.new_full((lower.shape[1], self._rows), inf)
        low[:, self._from_below] = lower[:count].nan_to_num(-inf).T
        high[:, self._from_above] = -lower[count:].nan_to_num(-inf).T
        return [self._specification.refutations(0, *ends)[0] for ends in zip(low.cpu(), high.cpu(), strict=True)]

    def excesses(self) -> tuple[Tensor, Tensor]:
        """Return rows (T, K) and offsets (T,): where one of row · y + offset is above 0, the disjunct is not met.

        See `Specification.excesses`.
        """
        rows, offsets = self._specification.excesses(0, 0)
        return rows.to(self.forms.device), offsets.to(self.forms.device)

    def judge_single(self, forms: Sequence[int], lower: Tensor) -> list[Refutation]:
        """Return what lower bounds (1, B) say of each part of which only one form, a number of `forms`, is bounded."""
        every = lower.new_full((len(self.forms), lower.shape[1]), -inf)
        every[list(forms), range(lower.shape[1])] = lower[0]
        return self.judge(every)

    def alone(self, row: int) -> int:
        """Return the form that a row of the disjunct stands on by itself, −1 where it stands on several or none."""
        return self.form_of(row) if self._specification.is_single(0, 0, row) else -1

    def form_of(self, row: int) -> int:
        """Return the form that a row of the disjunct stands on (−1 is the sum), −1 where it is not about outputs."""
        column, sign = self._specification.column(0, 0, row)
        if column < 0:
            return -1
        return self._from_below.index(column) if sign > 0 else len(self._from_below) + self._from_above.index(column)
