"""Branch and bound: cut a box, or the signs of neurons, into parts until bounds refute every part.

Networks of few inputs are cut along their inputs (Bunel et al. 2020, arXiv 1909.06588), which decides them whatever
their operators; others along the signs of Relu inputs, where each part is bounded with multipliers for its signs
(Wang et al. 2021, β-CROWN, arXiv 2103.06624). The least margin of what waits bounds the whole box at any time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf, prod
from typing import Final, TypeAlias

import torch

from ibpc.bounds.alpha_crown import sharp_pull
from ibpc.bounds.ascent import Ascent, Signs, Start, ascend, estimated
from ibpc.bounds.backward import Backward
from ibpc.bounds.crown import interval_values, refined_values, walk_of
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.ops.base import Operand
from ibpc.rounding import Arithmetic
from ibpc.verify.goal import Goal
from ibpc.verify.proof import Evidence, Place, lines_of, multipliers_of, packed, packed_lines
from ibpc.verify.properties import Property
from ibpc.verify.specification import Refutation

Tensor: TypeAlias = torch.Tensor

# What is cut along its inputs: so few of them, and so few values in all.
MOST_INPUTS: Final = 20
MOST_VALUES_OF_BOXES: Final = 2**13
_NUMBERS: Final = 2**22
_MOST_PARTS: Final = 256
_MOST_BOXES: Final = 2048
_FIRST_STEPS: Final = 30
_STEPS: Final = 8
_CANDIDATES: Final = 5
_BETTER_SIDE: Final = 0.1
_FAR: Final = 1e30
# Parts that are bounded before the boxes of the whole case are sharpened.
_PATIENCE: Final = 200
# Numbers that the parts of one search may store while they wait, 4 bytes each.
_STORED: Final = 2.0**28
_MOST_ROOTS: Final = 16
_SUSPECTS: Final = 64


class Roots:
    """What the searches over one property share: the network, and the tightened boxes of a few whole cases."""

    def __init__(
        self,
        graph: Graph,
        prop: Property,
        arithmetic: Arithmetic,
        device: torch.device,
        deadlines: tuple[float, float] = (inf, inf),
    ) -> None:
        """Prepare; tightening boxes ends at the first deadline, sharpening them at the second."""
        self.walk = walk_of(graph, device)
        self.prop, self.arithmetic, self.device = prop, arithmetic, device
        self._shapes = [graph.node(name).shape[1:] for name in graph.inputs]
        self._deadlines = deadlines
        self._values: dict[int, Values] = {}
        self._sharp: set[int] = set()

    def ends(self, case: int) -> tuple[Tensor, Tensor]:
        """Return the box of a case, flat."""
        lower, upper = (end.double().to(self.device) for end in self.prop.cases[case].box.outer)
        return lower, upper

    def boxes(self, lower: Tensor, upper: Tensor) -> tuple[Interval, ...]:
        """Return the box of each input from flat ends (B, n)."""
        ends = (self.prop.split(end, self._shapes) for end in (lower, upper))
        return tuple(Interval.bounds(low, high) for low, high in zip(*ends, strict=True))

    def plain(self, case: int) -> Values:
        """Return the boxes of all values over the box of a case by interval bounds."""
        lower, upper = self.ends(case)
        return interval_values(self.walk, self.boxes(lower[None], upper[None]), self.arithmetic)

    def values(self, case: int) -> Values:
        """Return the boxes of all values over the box of a case, tightened by backward bounds until the deadline."""
        if case not in self._values:
            while len(self._values) >= _MOST_ROOTS:
                oldest = next(iter(self._values))
                del self._values[oldest]
                self._sharp.discard(oldest)
            lower, upper = self.ends(case)
            boxes = self.boxes(lower[None], upper[None])
            self._values[case] = refined_values(self.walk, boxes, self.arithmetic, self._deadlines[0])
        return self._values[case]

    def is_sharp(self, case: int) -> bool:
        """Whether the boxes of a case have been sharpened, by this search or another one."""
        return case in self._sharp

    def sharpened(self, case: int) -> Values:
        """Return the boxes of `values`, tightened once more with slopes of their own until the deadline."""
        known = self.values(case)
        if case not in self._sharp:
            self._sharp.add(case)
            lower, upper = self.ends(case)
            boxes = self.boxes(lower[None], upper[None])
            deadline = self._deadlines[1]
            self._values[case] = refined_values(self.walk, boxes, self.arithmetic, deadline, sharp_pull, known)
        return self._values[case]


class Branching:
    """The search for a proof of one disjunct over one case's box, which may be interrupted and go on.

    Soundness rests on the bounds alone: the parts cover the box, and each is refuted or still waiting.
    """

    def __init__(self, roots: Roots, case: int, disjunct: int) -> None:
        chosen = roots.prop.cases[case]
        self._roots, self._case, self.item = roots, case, (case, disjunct)
        self._goal = Goal(chosen, chosen.disjuncts[disjunct], roots.prop.output_count, roots.device)
        self._parts: _Parts | None = None
        self.bounded = 0
        self.proof = Place()

    @property
    def waiting(self) -> int:
        """The number of parts that are not refuted yet; 1 before the search begins."""
        return 1 if self._parts is None else self._parts.waiting

    @property
    def margin(self) -> float:
        """A lower bound of the margin over the whole box: the least one of a part that waits."""
        return -inf if self._parts is None else self._parts.margin

    def suspects(self) -> Tensor:
        """Return points, flat (n, inputs), where a counterexample is likeliest: few or none."""
        lower, _ = self._roots.ends(self._case)
        return lower.new_zeros(0, len(lower)) if self._parts is None else self._parts.suspects()

    @property
    def is_refuted(self) -> bool:
        """Whether no part is left."""
        return self._parts is not None and not self._parts.waiting

    @property
    def is_over(self) -> bool:
        """Whether going on would change nothing: refuted, or nothing left to cut."""
        return self._parts is not None and (not self._parts.waiting or self._parts.is_stuck)

    @torch.no_grad()
    def run(self, deadline: float) -> None:
        """Go on until the search is over or the time is."""
        if self._parts is None:
            self._parts = self._first_part()
        while not self.is_over and time.monotonic() < deadline:
            self.bounded += self._parts.advance(deadline)

    def _first_part(self) -> _Parts:
        lower, upper = self._roots.ends(self._case)
        is_small = _size(self._roots.walk) <= MOST_VALUES_OF_BOXES
        if int((lower < upper).sum()) <= MOST_INPUTS and is_small:
            return _Boxes(self._roots, self._goal, lower, upper, self.proof)
        return _Signs(self._roots, self._goal, self._case, self.proof)


def _width(walk: Walk, most: int) -> int:
    """Return how many parts are bounded together."""
    return max(1, min(most, _NUMBERS // max(1, _size(walk))))


def _size(walk: Walk) -> int:
    return sum(prod(step.node.shape[1:]) for step in walk.steps.values())


class _Parts(ABC):
    """Parts that wait to be bounded."""

    margin: float = inf
    is_stuck: bool = False

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of parts on the stack."""

    @abstractmethod
    def suspects(self) -> Tensor:
        """Return points, flat (n, inputs), where a counterexample is likeliest: few or none."""

    @abstractmethod
    def advance(self, deadline: float) -> int:
        """Bound the parts on top of the stack and cut those that are not refuted; return how many were bounded."""


# ── cutting inputs ──────────────────────────────────────────────────────────────────────────────────────────────
class _Boxes(_Parts):
    """Parts are boxes of inputs, flat ends (B, n)."""

    def __init__(self, roots: Roots, goal: Goal, lower: Tensor, upper: Tensor, place: Place) -> None:
        self._roots, self._walk, self._goal = roots, roots.walk, goal
        self._lower, self._upper = lower[None], upper[None]
        self._margins = [-inf]
        self._at_once = _width(roots.walk, _MOST_BOXES)
        self.places = [place]

    @property
    def waiting(self) -> int:
        return len(self._lower)

    def suspects(self) -> Tensor:
        """Return the centers of the boxes that are furthest from being refuted."""
        margins = torch.tensor(self._margins)
        worst = margins.topk(min(_SUSPECTS, len(margins)), largest=False).indices.to(self._lower.device)
        return 0.5 * self._lower[worst] + 0.5 * self._upper[worst]

    def advance(self, deadline: float) -> int:
        """Bound the boxes on top by CROWN and halve those that are left where the form changes most."""
        count = min(self._at_once, len(self._lower))
        lower, upper = self._lower[-count:], self._upper[-count:]
        self._lower, self._upper = self._lower[:-count], self._upper[:-count]
        values = refined_values(self._walk, self._roots.boxes(lower, upper), self._roots.arithmetic, deadline)
        backward = Backward(self._walk, values)
        (output,) = self._walk.graph.outputs
        forms = self._goal.forms.unsqueeze(1).expand(-1, count, -1)
        judged = self._goal.judge(backward.lower({output: forms}))
        places, self.places, self._margins = self.places[-count:], self.places[:-count], self._margins[:-count]
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        lines = lines_of(self._walk, values)
        for number, (place, refutation) in enumerate(zip(places, judged, strict=True)):
            if refutation.refuted:
                place.tighten(packed_lines(lines, number)).close(Evidence(refutation.row))
        if left:
            self._cut(lower[left], upper[left], self._slopes(backward, left), [places[number] for number in left])
            self._margins += 2 * [judged[number].margin for number in left]
        self.margin = min(self._margins, default=inf)
        return count

    def _slopes(self, backward: Backward, left: list[int]) -> Tensor:
        """Return for each box the greatest modulus of the forms' coefficients at each input, (B, n)."""
        parts = [backward.forms[name].abs().amax(0)[left].reshape(len(left), -1) for name in self._walk.inputs]
        return torch.cat(parts, 1).nan_to_num(1.0, 1.0, 1.0)

    def _cut(self, lower: Tensor, upper: Tensor, slopes: Tensor, places: Sequence[Place]) -> None:
        width = upper - lower
        axis = ((slopes + 1e-12 * (1.0 + slopes)) * width).argmax(1, keepdim=True)
        middle = (0.5 * lower + 0.5 * upper).gather(1, axis)
        if bool((width.gather(1, axis) <= 0).any()):
            self.is_stuck = True
        left_upper, right_lower = upper.scatter(1, axis, middle), lower.scatter(1, axis, middle)
        cuts = zip(places, axis[:, 0].tolist(), middle[:, 0].tolist(), strict=True)
        pairs = [place.cut_input(index, at) for place, index, at in cuts]
        self.places += [left for left, _ in pairs] + [right for _, right in pairs]
        self._lower = torch.cat([self._lower, lower, right_lower])
        self._upper = torch.cat([self._upper, left_upper, upper])


# ── cutting signs ───────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, eq=False)
class _Part:
    """Signs of single elements in front of Relus: (name, element) → 1 for v ≥ 0, −1 for v ≤ 0.

    `margin` and `start` are what the part that it was cut from left: its margin, its choices and multipliers (R, …).
    """

    signs: dict[tuple[str, int], int]
    place: Place
    margin: float
    start: Start


class _Signs(_Parts):
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
        self._stack = [_Part({}, place, -inf, Start())]
        self._at_once = max(1, _width(walk, _MOST_PARTS) // max(1, len(goal.forms)))
        self._most = max(self._at_once, int(_STORED // max(1, len(goal.forms) * self._neurons())))

    @property
    def waiting(self) -> int:
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
        cuts = self._best_cuts(left, values, signs, found) if self._is_tight else [None] * len(left)
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

    def _neurons(self) -> int:
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

    def _best_cuts(
        self, left: Sequence[int], values: Values, signs: Signs, found: Ascent
    ) -> list[tuple[str, int] | None]:
        """Return the neuron to cut each part at: of those whose triangles cost most the one whose worse side is best.

        (Filtered smart branching: De Palma et al. 2021, arXiv 2104.06718, section 4.2; the filter is the area part of
        Bunel et al. 2020, section 4.3.)
        """
        fronts = [front for front, relu in self._fronts.items() if relu in found.forms]
        if not left or not fronts:
            return [None] * len(left)
        scores = [_triangles(values.box(front), found.forms[self._fronts[front]], left) for front in fronts]
        tops = torch.cat(scores, 1)
        best = tops.topk(min(_CANDIDATES, tops.shape[1]), dim=1)
        layers = [layer for layer, score in enumerate(scores) for _ in range(score.shape[1])]
        starts = list(accumulate((score.shape[1] for score in scores), initial=0))
        named = [[(fronts[layers[at]], at - starts[layers[at]]) for at in row] for row in best.indices.tolist()]
        gains = self._tried(left, values, signs, found, named).masked_fill(best.values.T <= 0, -inf)
        chosen = gains.argmax(0).tolist()
        return [
            row[pick] if float(best.values[number, pick]) > 0 else None
            for number, (row, pick) in enumerate(zip(named, chosen, strict=True))
        ]

    def _tried(
        self,
        left: Sequence[int],
        values: Values,
        signs: Signs,
        found: Ascent,
        named: Sequence[Sequence[tuple[str, int]]],
    ) -> Tensor:
        """Return for each candidate (C, L) an estimate of the bound on the worse of its two sides."""
        index = torch.tensor(left, device=found.lower.device)
        base = _picked(values, index).rough()
        start = Start(*({n: v[:, index] for n, v in side.items()} for side in (found.choices, found.multipliers)))
        kept = Signs({name: sign[index] for name, sign in signs.known.items()})
        (output,) = self._walk.graph.outputs
        forms = {output: self._goal.forms.float().unsqueeze(1).expand(-1, len(left), -1)}
        gains = []
        for candidates in zip(*named, strict=True):
            ends = [
                estimated(self._walk.rough, _clamped(base, candidates, side), forms, kept, start).amax(0)
                for side in (-1, 1)
            ]
            worse, better = torch.minimum(*ends), torch.maximum(*ends)
            gains.append(worse + _BETTER_SIDE * better.clamp(max=0.0))
        return torch.stack(gains).nan_to_num(-_FAR, _FAR, -_FAR)


def _picked(values: Values, index: Tensor) -> Values:
    """Return the values of some samples."""
    known = {
        name: Interval.bounds(value.lower[index], value.upper[index]) if isinstance(value, Interval) else value
        for name, value in values.known.items()
    }
    return Values(known, values.errors)


def _clamped(values: Values, candidates: Sequence[tuple[str, int]], side: int) -> Values:
    """Return the values with one element of each sample on one side of 0."""
    result = Values(dict(values.known), values.errors)
    for name in {front for front, _ in candidates}:
        box = result.box(name)
        lower, upper = box.lower.clone().flatten(1), box.upper.clone().flatten(1)
        for number, (front, element) in enumerate(candidates):
            if front == name:
                (lower if side > 0 else upper)[number, element] = 0.0
        result.known[name] = Interval.bounds(lower.view_as(box.lower), upper.view_as(box.upper))
    return result


def _triangles(box: Interval, form: Tensor, left: Sequence[int]) -> Tensor:
    """Return what the triangle of each unstable neuron costs the forms (R, B, *shape) on the parts `left`, (L, n)."""
    lower, upper = (end[left].flatten(1) for end in (box.lower, box.upper))
    unstable = (lower < 0) & (upper > 0)
    height = torch.where(unstable, -lower * upper / (upper - lower).clamp(min=1e-30), torch.zeros_like(lower))
    above, below = (side[:, left].flatten(2).amax(0) for side in (form.clamp(min=0.0), -form.clamp(max=0.0)))
    lost = torch.minimum(-lower, upper).clamp(min=0.0)
    return torch.where(unstable, (below + 1e-9) * height + 0.5 * above * lost, torch.zeros_like(lower))


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
