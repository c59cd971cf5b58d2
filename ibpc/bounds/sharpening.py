"""Pre-activation bounds with planes chosen for each end of each element (Xu et al. 2021, arXiv 2011.13824)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.ascent import ascend
from ibpc.bounds.backward import plain_planes
from ibpc.bounds.cone import EVERYTHING, Cone
from ibpc.bounds.forms import Cost, Form, dense
from ibpc.bounds.refinement import dense_cost, refined_values
from ibpc.bounds.values import Step, Values, Walk, flat, is_linear_here
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

STEPS: Final = 24
# Most choices kept of one sharpening, 4 bytes each.
_MOST_KEPT: Final = 2**23


@dataclass(frozen=True, eq=False)
class Moved:
    """Ends of a value's elements that were moved, and the choices of planes that moved them.

    The value is operand `slot` of the node `reader`. `elements` (R,) are flat indices; sign 1 stands for a lower end,
    −1 for an upper one. `choices` (R, …) are by node.
    """

    reader: str
    slot: int
    elements: Tensor
    signs: Tensor
    choices: Mapping[str, Tensor]


@dataclass(eq=False)
class Record:
    """The ends that a sharpening of one sample's boxes moved, in order; `is_whole` only if there was room for all.

    Nor is it whole where an operator has tuned planes over several values each: those choices are not written down.
    """

    moved: list[Moved] = field(default_factory=list)
    is_whole: bool = True
    _kept: int = 0

    def add(self, moved: Moved) -> None:
        """Keep ends that were moved."""
        self._kept += sum(choice.numel() for choice in moved.choices.values())
        self.is_whole = self.is_whole and self._kept <= _MOST_KEPT
        if not self.is_whole:
            self.moved.clear()
        elif len(moved.elements):
            self.moved.append(moved)


class SharpPull:
    """Backward bounds in which each form gets its own planes, by gradient ascent."""

    def __init__(self, walk: Walk, values: Values, record: Record | None = None, deadline: float = inf) -> None:
        self._walk, self._values, self._record, self._deadline = walk, values, record, deadline

    def cost(self, name: str) -> Cost:
        """Return the cost of the form of one element of a node: all steps, forth and back, and its own choices."""
        cost = dense_cost(self._walk, name)
        return Cost(2 * STEPS * cost.work, 8 * cost.size)

    def lower(self, forms: Mapping[str, Form]) -> Tensor:
        """Return lower bounds (R, B) of forms at one node. With a record each form picks one element, and B = 1."""
        ((name, form),) = forms.items()
        form = dense(form)
        found = ascend(self._walk, self._values, {name: form}, STEPS, deadline=self._deadline)
        if self._record is not None and self._record.is_whole:
            self._record.add(self._moved(name, flat(form[:, 0]), found.lower[:, 0], found.choices))
        return found.lower

    def _moved(self, name: str, units: Tensor, lower: Tensor, choices: Mapping[str, Tensor]) -> Moved:
        """Return the ends that lower bounds (R,) of the unit forms (R, n) move."""
        box = self._values.box(name)
        elements = units.abs().argmax(1)
        signs = units.gather(1, elements[:, None])[:, 0]
        known = torch.where(signs > 0, box.lower.flatten()[elements], -box.upper.flatten()[elements])
        is_moved = lower > known
        kept = {node: choice[is_moved, 0].float() for node, choice in choices.items()}
        reader, slot = next(
            (node, step.operands.index(name))
            for node, step in self._walk.steps.items()
            if name in step.operands and not step.operator.is_affine
        )
        return Moved(reader, slot, elements[is_moved], signs[is_moved], kept)


def sharpened_values(
    walk: Walk,
    boxes: tuple[Interval, ...],
    arithmetic: Arithmetic,
    known: Values,
    deadline: float = inf,
    cone: Cone = EVERYTHING,
    record: Record | None = None,
) -> Values:
    """Return the values over the same boxes, inside the `known` ones; `record`, for one sample, notes what moved."""
    if record is not None:
        record.is_whole = not any(_has_pairs(step, known) for step in walk.steps.values())
    pull = partial(SharpPull, record=record, deadline=deadline)
    return refined_values(walk, boxes, arithmetic, deadline, pull, known, cone)


def _has_pairs(step: Step, values: Values) -> bool:
    """Return whether an operator has tuned planes over several values each."""
    operands = tuple(values.known[operand] for operand in step.operands)
    if step.operator.is_affine or step.operator.rules.tuned is None or is_linear_here(step, operands):
        return False
    return all(isinstance(x, Interval) for x in operands) and bool(plain_planes(step, operands).lower.views)
