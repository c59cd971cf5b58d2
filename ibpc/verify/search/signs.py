"""Cutting the signs of Relu inputs, with multipliers for those of each part (Wang et al. 2021, arXiv 2103.06624)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, TypeAlias

import torch

from ibpc.bounds.ascent import Ascent, Signs, Start, ascend
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

_MOST_PARTS: Final = 256
_FIRST_STEPS: Final = 30
_STEPS: Final = 8
# Parts that are bounded before the boxes of the whole case are sharpened.
_PATIENCE: Final = 200
# Numbers that the parts of one search may store while they wait, 4 bytes each.
_STORED: Final = 2.0**28


@dataclass(frozen=True, eq=False)
class _Part:
    """Signs of single elements in front of Relus: (name, element) → 1 for v ≥ 0, −1 for v ≤ 0.

    `margin` and `start` are what the part that it was cut from left: its margin, its choices and multipliers (R, …).
    """

    signs: dict[tuple[str, int], int]
    place: Place
    margin: float
    start: Start


class SignParts(Parts):
    """Parts are signs of Relu inputs over one box, kept by their margins.

    The part that is furthest from being refuted is cut first; when more than `_most` wait, those nearest to it
    are, so that memory stays bounded.
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
        self._neurons = Neurons(walk, goal, self._fronts)
        self._stack = [_Part({}, place, -inf, Start())]
        self._at_once = max(1, width(walk, _MOST_PARTS) // max(1, len(goal.forms)))
        self._most = max(self._at_once, int(_STORED // max(1, len(goal.forms) * self._count())))

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
        forms = {output: self._goal.forms.unsqueeze(1).expand(-1, len(parts), -1)}
        steps = _STEPS if parts[0].signs else _FIRST_STEPS
        found = ascend(self._walk, values, forms, steps, signs, _joined([part.start for part in parts]), deadline)
        judged = self._goal.judge(found.lower)
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        for number, (part, refutation) in enumerate(zip(parts, judged, strict=True)):
            if refutation.refuted and not self._is_sharp:
                part.place.close(self._evidence(number, part, refutation, found))
        cuts = self._neurons.best(left, values, signs, found) if self._is_tight else [None] * len(left)
        for number, cut in zip(left, cuts, strict=True):
            self._divide(parts[number], cut, judged[number].margin, _start_of(found, number))
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
        """Take the next parts: those of the least margins from the end, or of the greatest from the front."""
        count = min(self._at_once, len(self._stack))
        taken = self._stack[:count] if len(self._stack) > self._most else self._stack[-count:]
        self._stack = self._stack[count:] if len(self._stack) > self._most else self._stack[:-count]
        return taken

    def _divide(self, part: _Part, cut: tuple[str, int] | None, margin: float, start: Start) -> None:
        if cut is None:
            self.is_stuck = self._is_sharp
            self._bounded = max(self._bounded, _PATIENCE) if self._is_tight else self._bounded
            self._stack.append(replace(part, margin=margin, start=start))
            return
        places = part.place.cut_sign(self._fronts[cut[0]], cut[1])
        for sign, place in zip((-1, 1), places, strict=True):
            self._stack.append(_Part({**part.signs, cut: sign}, place, margin, start))

    def _evidence(self, number: int, part: _Part, refutation: Refutation, found: Ascent) -> Evidence:
        form = self._goal.form_of(refutation.row)
        if form < 0:
            return Evidence(refutation.row)
        multipliers = multipliers_of(list(part.signs), found.multipliers, form, number)
        return Evidence(refutation.row, packed(found.choices, form, number), multipliers)

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


def _joined(starts: Sequence[Start]) -> Start:
    """Return what all parts begin with, (R, B, …), where they have it in common; multipliers 0 where one has none."""
    first = starts[0].choices
    choices = {name: torch.stack([start.choices[name] for start in starts], 1) for name in first}
    multipliers: dict[str, Tensor] = {}
    for name, like in {name: value for start in starts for name, value in start.multipliers.items()}.items():
        zero = torch.zeros_like(like)
        multipliers[name] = torch.stack([start.multipliers.get(name, zero) for start in starts], 1)
    return Start(choices, multipliers)
