"""Cutting values in front of nonlinear operators, Relus at 0, with multipliers for the cuts that made each part.

(Wang et al. 2021, arXiv 2103.06624; cuts in front of operators other than Relu: Shi et al. 2024, arXiv 2405.21063.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.ascent import Ascent, Ends, Start, ascend, elementwise_planes
from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import Step, Values, flat
from ibpc.interval import Interval
from ibpc.ops.rules import Operand
from ibpc.verify.goal import Goal
from ibpc.verify.proving.evidence import Half, has_planes, is_replayed, lines_of, multipliers_of, packed, packed_lines
from ibpc.verify.proving.proof import Evidence, Place
from ibpc.verify.search.neurons import NeuronCut, Neurons
from ibpc.verify.search.parts import Parts, parts_at_once
from ibpc.verify.search.roots import Roots
from ibpc.verify.specification import Refutation

_MOST_PARTS: Final = 64
_FIRST_STEPS: Final = 30
_STEPS: Final = 8
# If nothing is left to cut, a part is bounded again with this many times more steps, up to a limit.
_MORE_STEPS: Final = 4
_MOST_STEPS: Final = 128
# The least depth at which parts bound all forms again.
_LOOK_AROUND: Final = 32
# Parts that are bounded before the boxes of the whole case are sharpened: few if all operators are curves, where a cut
# gains little.
_PATIENCE: Final = 200
_PATIENCE_WITH_CURVES: Final = 16
_MOST_SUSPECTS: Final = 64
# Most numbers that the waiting parts of one search may store, 4 bytes each.
_STORED: Final = 2.0**28


@dataclass(frozen=True, eq=False)
class _Part:
    """One side of each cut that led here.

    `margin` and `start` come from the part that it was cut from: its margin, its choices and multipliers (R, …).
    `form` is the form of the goal to bound, None for all of them.
    """

    halves: tuple[Half, ...]
    place: Place
    margin: float
    start: Start
    form: int | None = None
    steps: int = _STEPS

    @property
    def depth(self) -> int:
        """The number of cuts that led here."""
        return len(self.halves)


class ValueParts(Parts):
    """Parts are sides of cuts of values in front of nonlinear operators over one box, sorted by margin.

    The part furthest from being refuted is cut first; once more than `_most` are waiting, the nearest ones are, so that
    memory stays bounded. Of several forms each part continues with the one that came nearest, and bounds all of them
    again at the depths 32, 64 … and if nothing is left to cut. Searches for several disjuncts over one box bound their
    parts in one go (`advance_together`).
    """

    def __init__(self, roots: Roots, goal: Goal, case: int, place: Place) -> None:
        walk = roots.walk
        self._roots, self._walk, self._goal, self._case = roots, walk, goal, case
        self._root, self._place = roots.plain(case), place
        self._bounded, self._is_tight, self._is_sharp, self._is_written = 0, False, False, has_planes(walk, self._root)
        lower, upper = roots.ends(case)
        self._ends_of_inputs, self._corners = (lower, upper), lower.new_zeros(0, len(lower))
        self._fronts = {step.operands[0]: name for name, step in walk.steps.items() if self._is_cut_in_front(step)}
        self._neurons = Neurons(walk, self._fronts)
        has_kinks = any(walk.steps[name].operator.rules.kinks is not None for name in self._fronts.values())
        self._patience = _PATIENCE if has_kinks else _PATIENCE_WITH_CURVES
        self._stack = [_Part((), place, -inf, Start(), steps=_FIRST_STEPS)]
        self._at_once = parts_at_once(walk, _MOST_PARTS)
        self._most = max(self._at_once, int(_STORED // max(1, self._count())))

    @property
    def waiting(self) -> int:
        """The number of parts on the stack."""
        return len(self._stack)

    def suspects(self) -> Tensor:
        """Return the corners with the least values of the input forms, for the last parts that were not refuted."""
        return self._corners

    def advance(self, deadline: float) -> int:
        """Bound some parts with slopes and multipliers, and cut those not refuted at one more neuron."""
        (count,) = advance_together([self], deadline)
        return count

    def take(self, share: int) -> Batch:
        """Take the next parts off the stack: one `share`-th of those that are bounded at once, or a few more."""
        self._prepare()
        parts = self._taken(max(1, self._at_once // share))
        self._bounded += len(parts)
        return Batch(self, parts, self._forms(parts), self._root)

    def ascended(self, parts: Sequence[_Part], values: Values, ends: Ends, forms: Tensor, deadline: float) -> Ascent:
        """Return bounds of the forms (R, B, K) on parts, also of other searches."""
        (output,) = self._walk.graph.outputs
        steps, start = max(part.steps for part in parts), _joined([part.start for part in parts], len(forms))
        return ascend(self._walk, values, {output: forms}, steps, ends, start, deadline, elementwise_planes)

    def cuts(
        self,
        parts: Sequence[_Part],
        left: Sequence[int],
        values: Values,
        ends: Ends,
        found: Ascent,
        forms: Tensor,
    ) -> list[NeuronCut | None]:
        """Return the next cut of each of the parts `left`, also of other searches."""
        if not self._is_tight or not any(part.steps for part in parts):
            return [None] * len(left)
        return self._neurons.best(left, values, ends, found, forms)

    def settle(
        self, batch: Batch, judged: Sequence[Refutation], cuts: Mapping[int, NeuronCut | None], found: Ascent, at: int
    ) -> None:
        """Close the parts that are refuted, cut the others and put them back; the first of them is number `at`."""
        for number, (part, refutation) in enumerate(zip(batch.parts, judged, strict=True), start=at):
            if not refutation.refuted:
                self._divide(part, cuts[number], refutation, _start_of(found, number))
            elif self._is_written:
                part.place.close(self._evidence(number, part, refutation, found))
        left = [number for number, refutation in enumerate(judged, start=at) if not refutation.refuted]
        self._corners = self._least_corners(found.forms, left)
        self._stack.sort(key=lambda part: -part.margin)
        self.margin = min((part.margin for part in self._stack), default=inf)

    def _least_corners(self, forms: Mapping[str, Tensor], parts: Sequence[int]) -> Tensor:
        """Return the corners of the box where the input forms (R, B, …) of these parts are least."""
        lower, upper = self._ends_of_inputs
        if not parts or not all(name in forms for name in self._walk.inputs):
            return lower.new_zeros(0, len(lower))
        slopes = torch.cat([flat(forms[name][:, list(parts)].flatten(0, 1)) for name in self._walk.inputs], 1)
        return torch.where(slopes > 0, lower, upper)[:_MOST_SUSPECTS]

    def _prepare(self) -> None:
        """Switch to tighter boxes once the present ones have not been enough; they hold for all parts.

        First come interval bounds, for the whole box alone; then backward bounds; and after a while those with planes
        chosen for each end. A proof that needs more than the checker replays is not written down.
        """
        if not self._is_tight and self._bounded:
            self._is_tight, self._is_written = True, is_replayed(self._walk, self._root)
            self._root = self._roots.values(self._case)
            self._place.tighten(packed_lines(lines_of(self._walk, self._root), 0))
        is_due = self._bounded >= self._patience or self._roots.is_sharp(self._case)
        if self._is_tight and not self._is_sharp and is_due:
            self._is_sharp = True
            self._root, record = self._roots.sharpened(self._case)
            self._is_written = self._is_written and record is not None
            if record is not None:
                self._place.sharpen(record)

    def _taken(self, count: int) -> list[_Part]:
        """Take the next parts: those with the least margins from the end, or with the greatest from the front.

        Like the first of them, they bound either all forms or one each.
        """
        order = self._stack if len(self._stack) > self._most else self._stack[::-1]
        bounds_all = order[0].form is None
        most = max(1, count // len(self._goal.forms)) if bounds_all else count
        taken = [part for part in order if (part.form is None) == bounds_all][:most]
        gone = set(map(id, taken))
        self._stack = [part for part in self._stack if id(part) not in gone]
        return taken

    def _forms(self, parts: Sequence[_Part]) -> Tensor:
        """Return the forms (R, B, K) of parts that bound all forms, or one each (R = 1)."""
        chosen = [part.form for part in parts if part.form is not None]
        if chosen:
            return self._goal.forms[chosen].unsqueeze(0)
        return self._goal.forms.unsqueeze(1).expand(-1, len(parts), -1)

    def judged(self, parts: Sequence[_Part], lower: Tensor) -> list[Refutation]:
        """Return the verdict of lower bounds (R, B) on each part."""
        chosen = [part.form for part in parts if part.form is not None]
        return self._goal.judge_single(chosen, lower) if chosen else self._goal.judge(lower)

    def _is_cut_in_front(self, step: Step) -> bool:
        """Return whether an operator acts elementwise on a computed value, which a search may cut."""
        if step.operator.is_affine or len(step.operands) != 1:
            return False
        (value,) = step.operands
        is_computed = value in self._walk.steps and value in self._walk.perturbed
        return is_computed and not plain_planes(step, (self._root.box(value),)).lower.views

    def _divide(self, part: _Part, cut: NeuronCut | None, found: Refutation, start: Start) -> None:
        margin = max(part.margin, found.margin)
        if cut is None:
            self._stack.append(self._again(part, margin, start))
            return
        form, start = self._next_form(part, found, start)
        places = part.place.cut_value(self._fronts[cut.value], cut.element, cut.at)
        for side, place in zip((-1, 1), places, strict=True):
            half = Half(cut.value, cut.element, cut.at, side)
            self._stack.append(_Part((*part.halves, half), place, margin, start, form))

    def _again(self, part: _Part, margin: float, start: Start) -> _Part:
        """Return a part that was not cut, to be bounded once more.

        The whole box is bounded over its plain boxes, over tight ones by CROWN's planes, which often are enough, and
        then by chosen ones, before it is cut. Where nothing is left to cut, more steps choose planes.
        """
        if not self._is_tight:
            return replace(part, margin=margin, steps=0)
        if part.steps == 0:
            return replace(part, margin=margin, steps=_FIRST_STEPS)
        steps = part.steps * _MORE_STEPS if self._is_sharp else part.steps
        if steps > _MOST_STEPS and (part.form is None or len(self._goal.forms) == 1):
            self.is_stuck = True
        self._bounded = max(self._bounded, self._patience)
        return replace(part, margin=margin, start=start, form=None, steps=_STEPS if steps > _MOST_STEPS else steps)

    def _next_form(self, part: _Part, found: Refutation, start: Start) -> tuple[int | None, Start]:
        """Return the form that the halves of a part continue with, None for all of them, and its start."""
        if _looks_around(part.depth + 1):
            return None, start
        if part.form is not None:
            return part.form, start
        form = self._goal.alone(found.row)
        return (None, start) if form < 0 or len(self._goal.forms) == 1 else (form, _row_of(start, form))

    def _evidence(self, number: int, part: _Part, refutation: Refutation, found: Ascent) -> Evidence:
        form = self._goal.form_of(refutation.row)
        if form < 0:
            return Evidence(refutation.row)
        row = form if part.form is None else 0
        multipliers = multipliers_of(part.halves, found.multipliers, row, number)
        return Evidence(refutation.row, packed(found.choices, row, number), multipliers)

    def _count(self) -> int:
        return sum(self._root.box(front).lower.numel() for front in self._fronts)

    def values_of(self, parts: Sequence[_Part]) -> tuple[Values, Ends]:
        """Return the boxes of all parts, those of the root intersected with each part's cuts, and these cuts."""
        count = len(parts)
        known = {name: _expanded(value, count) for name, value in self._root.known.items()}
        values = Values(known, self._root.errors)
        ends = self._ends(parts)
        for name, (low, high) in ends.items():
            values.tighten(name, low, high)
        return values, Ends(ends)

    def _ends(self, parts: Sequence[_Part]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the ends of values by cuts, (B, *shape), infinite where there is none. Later cuts are tighter."""
        result: dict[str, tuple[Tensor, Tensor]] = {}
        for number, part in enumerate(parts):
            for half in part.halves:
                if half.value not in result:
                    like = self._root.box(half.value).lower
                    infinite = like.new_full((len(parts), *like.shape[1:]), inf)
                    result[half.value] = (-infinite, infinite)
                low, high = result[half.value]
                (low if half.side > 0 else high)[number].view(-1)[half.element] = half.at
        return result


@dataclass(frozen=True, eq=False)
class Batch:
    """Parts that a search took off its stack, the forms (R, B, K) to bound on each, and the boxes they are parts of."""

    search: ValueParts
    parts: list[_Part]
    forms: Tensor
    root: Values


def advance_together(searches: Sequence[ValueParts], deadline: float) -> list[int]:
    """Bound some parts of each search over one case's box, cut those not refuted, and return how many they were.

    Parts that bound as many forms over the same boxes are bounded in one go, whatever disjunct they belong to.
    """
    batches = [search.take(len(searches)) for search in searches]
    alike: dict[tuple[int, int], list[Batch]] = {}
    for batch in batches:
        alike.setdefault((id(batch.root), len(batch.forms)), []).append(batch)
    for some in alike.values():
        _bound(some, deadline)
    return [len(batch.parts) for batch in batches]


def _bound(batches: Sequence[Batch], deadline: float) -> None:
    """Bound the parts of all batches in one go, and let each search continue with its own."""
    first, parts = batches[0].search, [part for batch in batches for part in batch.parts]
    forms = torch.cat([batch.forms for batch in batches], 1)
    values, ends = first.values_of(parts)
    found = first.ascended(parts, values, ends, forms, deadline)
    starts = list(accumulate((len(batch.parts) for batch in batches), initial=0))
    judged = [
        batch.search.judged(batch.parts, found.lower[:, at : at + len(batch.parts)])
        for at, batch in zip(starts, batches, strict=False)
    ]
    left = [number for number, one in enumerate(chain.from_iterable(judged)) if not one.refuted]
    cuts = dict(zip(left, first.cuts(parts, left, values, ends, found, forms), strict=True))
    for at, batch, verdicts in zip(starts, batches, judged, strict=False):
        batch.search.settle(batch, verdicts, cuts, found, at)


def _expanded(value: Operand, count: int) -> Operand:
    """Return the box of one sample expanded to many; exact values stay as they are."""
    if not isinstance(value, Interval):
        return value
    return value.map(lambda end: end.expand(count, *end.shape[1:]))


def _start_of(found: Ascent, number: int) -> Start:
    """Return the choices and multipliers of one part, (R, …), in binary32."""
    kept = (
        {name: value[:, number].float() for name, value in side.items()} for side in (found.choices, found.multipliers)
    )
    return Start(*kept)


def _looks_around(depth: int) -> bool:
    """Return whether parts at a depth bound all forms again: at 32, 64 and so on."""
    return depth >= _LOOK_AROUND and depth & (depth - 1) == 0


def _row_of(start: Start, form: int) -> Start:
    """Return the choices and multipliers (1, …) of one form."""
    return Start(*({name: value[form : form + 1] for name, value in side.items()} for side in _sides(start)))


def _with_rows(start: Start, rows: int) -> Start:
    """Return choices and multipliers (R, …); those of a single form are used for all."""
    return Start(
        *({name: value.expand(rows, *value.shape[1:]) for name, value in side.items()} for side in _sides(start))
    )


def _sides(start: Start) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    return start.choices, start.multipliers


def _joined(found: Sequence[Start], rows: int) -> Start:
    """Return the starts of all parts together, (R, B, …); multipliers are 0 where a part has none."""
    starts = [_with_rows(start, rows) for start in found]
    first = starts[0].choices
    choices = {name: torch.stack([start.choices[name] for start in starts], 1) for name in first}
    multipliers: dict[str, Tensor] = {}
    for name, like in {name: value for start in starts for name, value in start.multipliers.items()}.items():
        zero = torch.zeros_like(like)
        multipliers[name] = torch.stack([start.multipliers.get(name, zero) for start in starts], 1)
    return Start(choices, multipliers)
