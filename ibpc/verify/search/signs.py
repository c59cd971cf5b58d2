"""Cutting the signs of Relu inputs, with multipliers for those of each part (Wang et al. 2021, arXiv 2103.06624)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, TypeAlias

import torch

from ibpc.bounds.ascent import Ascent, Signs, Start, ascend, elementwise_planes
from ibpc.bounds.values import Values
from ibpc.interval import Interval
from ibpc.ops.base import Operand
from ibpc.verify.goal import Goal
from ibpc.verify.proof import Evidence, Place, lines_of, multipliers_of, packed, packed_lines
from ibpc.verify.search.neurons import Neurons
from ibpc.verify.search.parts import Parts, width
from ibpc.verify.search.roots import Roots
from ibpc.verify.specification import Refutation

Tensor: TypeAlias = torch.Tensor

_MOST_PARTS: Final = 64
_FIRST_STEPS: Final = 30
_STEPS: Final = 8
# The least depth at which parts look at all forms again.
_LOOK_AROUND: Final = 32
# Parts that are bounded before the boxes of the whole case are sharpened.
_PATIENCE: Final = 200
# Numbers that the parts of one search may store while they wait, 4 bytes each.
_STORED: Final = 2.0**28


@dataclass(frozen=True, eq=False)
class _Part:
    """Signs of single elements in front of Relus: (name, element) → 1 for v ≥ 0, −1 for v ≤ 0.

    `margin` and `start` are what the part that it was cut from left: its margin, its choices and multipliers (R, …).
    `form` is the form of the goal that is bounded, None for all of them.
    """

    signs: dict[tuple[str, int], int]
    place: Place
    margin: float
    start: Start
    form: int | None = None


class SignParts(Parts):
    """Parts are signs of Relu inputs over one box, kept by their margins.

    The part that is furthest from being refuted is cut first; when more than `_most` wait, those nearest to it
    are, so that memory stays bounded. Of several forms each part goes on with the one that came nearest, and looks at
    all of them again at the depths 32, 64 … and where nothing is left to cut.
    """

    def __init__(self, roots: Roots, goal: Goal, case: int, place: Place) -> None:
        walk = roots.walk
        self._roots, self._walk, self._goal, self._case = roots, walk, goal, case
        self._root, self._place = roots.plain(case), place
        self._bounded, self._is_tight, self._is_sharp = 0, False, False
        self._fronts = {
            step.operands[0]: name
            for name, step in walk.steps.items()
            if step.operator.name == "Relu" and step.operands[0] in walk.steps
        }
        self._neurons = Neurons(walk, self._fronts)
        self._stack = [_Part({}, place, -inf, Start())]
        self._at_once = width(walk, _MOST_PARTS)
        self._most = max(self._at_once, int(_STORED // max(1, self._count())))

    @property
    def waiting(self) -> int:
        """The number of parts on the stack."""
        return len(self._stack)

    def suspects(self) -> Tensor:
        """Return none: signs of neurons do not say where in the box they hold."""
        lower, _ = self._roots.ends(self._case)
        return lower.new_zeros(0, len(lower))

    def advance(self, deadline: float) -> int:
        """Bound some parts with slopes and multipliers, and cut those that are left at one more neuron."""
        self._prepare()
        parts = self._taken()
        self._bounded += len(parts)
        values, signs = self._values(parts)
        (output,) = self._walk.graph.outputs
        forms = self._forms(parts)
        steps = _STEPS if parts[0].signs else _FIRST_STEPS
        start = _joined([part.start for part in parts], len(forms))
        found = ascend(self._walk, values, {output: forms}, steps, signs, start, deadline, elementwise_planes)
        judged = self._judged(parts, found)
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        for number, (part, refutation) in enumerate(zip(parts, judged, strict=True)):
            if refutation.refuted and not self._is_sharp:
                part.place.close(self._evidence(number, part, refutation, found))
        cuts = self._neurons.best(left, values, signs, found, forms) if self._is_tight else [None] * len(left)
        for number, cut in zip(left, cuts, strict=True):
            self._divide(parts[number], cut, judged[number], _start_of(found, number))
        self._stack.sort(key=lambda part: -part.margin)
        self.margin = min((part.margin for part in self._stack), default=inf)
        return len(parts)

    def _prepare(self) -> None:
        """Take tighter boxes where those that there are have not been enough; they hold for all parts.

        First those of interval bounds, for the whole box alone; then those of backward bounds; and after a while those
        with slopes of their own. A proof that needs the last is not written down.
        """
        if not self._is_tight and self._bounded:
            self._is_tight = True
            self._root, self._is_sharp = self._roots.values(self._case), self._roots.is_sharp(self._case)
            self._place.tighten(packed_lines(lines_of(self._walk, self._root), 0))
        elif self._is_tight and not self._is_sharp and self._bounded >= _PATIENCE:
            self._root, self._is_sharp = self._roots.sharpened(self._case), True

    def _taken(self) -> list[_Part]:
        """Take the next parts: those of the least margins from the end, or of the greatest from the front.

        They bound all forms or one each, as the first of them does.
        """
        order = self._stack if len(self._stack) > self._most else self._stack[::-1]
        bounds_all = order[0].form is None
        most = max(1, self._at_once // len(self._goal.forms)) if bounds_all else self._at_once
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

    def _judged(self, parts: Sequence[_Part], found: Ascent) -> list[Refutation]:
        chosen = [part.form for part in parts if part.form is not None]
        return self._goal.judge_single(chosen, found.lower) if chosen else self._goal.judge(found.lower)

    def _divide(self, part: _Part, cut: tuple[str, int] | None, found: Refutation, start: Start) -> None:
        margin = max(part.margin, found.margin)
        if cut is None:
            if part.form is None or len(self._goal.forms) == 1:
                self.is_stuck = self._is_sharp
            self._bounded = max(self._bounded, _PATIENCE) if self._is_tight else self._bounded
            self._stack.append(replace(part, margin=margin, start=start, form=None))
            return
        places = part.place.cut_sign(self._fronts[cut[0]], cut[1])
        form, start = self._next_form(part, found, start)
        for sign, place in zip((-1, 1), places, strict=True):
            self._stack.append(_Part({**part.signs, cut: sign}, place, margin, start, form))

    def _next_form(self, part: _Part, found: Refutation, start: Start) -> tuple[int | None, Start]:
        """Return the form that the halves of a part go on with, None for all of them, and where it begins."""
        if _looks_around(len(part.signs) + 1):
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
        multipliers = multipliers_of(list(part.signs), found.multipliers, row, number)
        return Evidence(refutation.row, packed(found.choices, row, number), multipliers)

    def _count(self) -> int:
        return sum(self._root.box(front).lower.numel() for front in self._fronts)

    def _values(self, parts: Sequence[_Part]) -> tuple[Values, Signs]:
        """Return the boxes of all parts, those of the root where no sign is known, and the signs (B, *shape)."""
        count = len(parts)
        known = {name: _expanded(value, count) for name, value in self._root.known.items()}
        values = Values(known, self._root.errors)
        signs = self._signs(parts)
        for name, sign in signs.items():
            zero, infinite = torch.zeros_like(sign), torch.full_like(sign, inf)
            values.tighten(name, torch.where(sign > 0, zero, -infinite), torch.where(sign < 0, zero, infinite))
        return values, Signs(signs)

    def _signs(self, parts: Sequence[_Part]) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            for (name, element), sign in part.signs.items():
                if name not in result:
                    like = self._root.box(name).lower
                    result[name] = like.new_zeros(len(parts), *like.shape[1:])
                result[name][number].view(-1)[element] = float(sign)
        return result


def _expanded(value: Operand, count: int) -> Operand:
    """Return the box of one sample for many; what is exact stays."""
    if not isinstance(value, Interval):
        return value
    return Interval.bounds(*(end.expand(count, *end.shape[1:]) for end in (value.lower, value.upper)))


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
    """Return choices and multipliers (R, …); those of one form are those of all."""
    return Start(
        *({name: value.expand(rows, *value.shape[1:]) for name, value in side.items()} for side in _sides(start))
    )


def _sides(start: Start) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    return start.choices, start.multipliers


def _joined(found: Sequence[Start], rows: int) -> Start:
    """Return what all parts begin with, (R, B, …), where they have it in common; multipliers 0 where one has none."""
    starts = [_with_rows(start, rows) for start in found]
    first = starts[0].choices
    choices = {name: torch.stack([start.choices[name] for start in starts], 1) for name in first}
    multipliers: dict[str, Tensor] = {}
    for name, like in {name: value for start in starts for name, value in start.multipliers.items()}.items():
        zero = torch.zeros_like(like)
        multipliers[name] = torch.stack([start.multipliers.get(name, zero) for start in starts], 1)
    return Start(choices, multipliers)
