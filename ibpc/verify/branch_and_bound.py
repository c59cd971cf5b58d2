"""Branch and bound: cut a box, or the signs of neurons, into parts until bounds refute every part.

Networks of few inputs are cut along their inputs (Bunel et al. 2020, arXiv 1909.06588), which decides them whatever
their operators; others along the signs of Relu inputs, where each part is bounded with multipliers for its signs
(Wang et al. 2021, β-CROWN, arXiv 2103.06624). Parts wait on a stack, deepest first, so that memory stays bounded.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Final, TypeAlias

import torch

from ibpc.bounds.ascent import Ascent, ascend
from ibpc.bounds.backward import Backward
from ibpc.bounds.crown import refined_values, walk_of
from ibpc.bounds.values import Values, Walk, advance, start
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic
from ibpc.verify.goal import Goal
from ibpc.verify.proof import Evidence, Place, multipliers_of, packed
from ibpc.verify.properties import Property
from ibpc.verify.specification import Refutation

Tensor: TypeAlias = torch.Tensor

MOST_INPUTS: Final = 20
_NUMBERS: Final = 2**22
_MOST_PARTS: Final = 256
_STEPS: Final = 12


class Branching:
    """The search for a proof of one disjunct over one case's box, which may be interrupted and go on.

    Soundness rests on the bounds alone: the parts cover the box, and each is refuted or still waiting.
    """

    def __init__(
        self, graph: Graph, prop: Property, case: int, disjunct: int, arithmetic: Arithmetic, device: torch.device
    ) -> None:
        self._walk = walk_of(graph, device)
        chosen = prop.cases[case]
        self._goal = Goal(chosen, chosen.disjuncts[disjunct], prop.output_count, device)
        self._prop, self._arithmetic = prop, arithmetic
        self._shapes = [graph.node(name).shape[1:] for name in graph.inputs]
        self._ends = tuple(end.double().to(device) for end in chosen.box.outer)
        self._parts: _Parts | None = None
        self.bounded = 0
        self.proof = Place()

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
            self._parts = self._first_part(deadline)
        while not self.is_over and time.monotonic() < deadline:
            self.bounded += self._parts.advance()

    def _first_part(self, deadline: float) -> _Parts:
        lower, upper = self._ends
        if int((lower < upper).sum()) <= MOST_INPUTS:
            first = _Boxes(self._walk, self._goal, self._prop, self._shapes, self._arithmetic, lower, upper)
            first.places = [self.proof]
            return first
        boxes = tuple(_box(self._prop, lower[None], upper[None], self._shapes))
        return _Signs(self._walk, self._goal, boxes, self._arithmetic, deadline, self.proof.tighten())


def _box(prop: Property, lower: Tensor, upper: Tensor, shapes: Sequence[tuple[int, ...]]) -> Iterator[Interval]:
    """Yield the box of each input from flat ends (B, n)."""
    for low, high in zip(prop.split(lower, shapes), prop.split(upper, shapes), strict=True):
        yield Interval.bounds(low, high)


def _width(walk: Walk) -> int:
    """Return how many parts are bounded together."""
    values = sum(prod(step.node.shape[1:]) for step in walk.steps.values())
    return max(1, min(_MOST_PARTS, _NUMBERS // max(1, values)))


class _Parts(ABC):
    """Parts that wait to be bounded."""

    margin: float = inf
    is_stuck: bool = False

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of parts on the stack."""

    @abstractmethod
    def advance(self) -> int:
        """Bound the parts on top of the stack and cut those that are not refuted; return how many were bounded."""


# ── cutting inputs ──────────────────────────────────────────────────────────────────────────────────────────────
class _Boxes(_Parts):
    """Parts are boxes of inputs, flat ends (B, n)."""

    def __init__(
        self,
        walk: Walk,
        goal: Goal,
        prop: Property,
        shapes: Sequence[tuple[int, ...]],
        arithmetic: Arithmetic,
        lower: Tensor,
        upper: Tensor,
    ) -> None:
        self._walk, self._goal, self._prop, self._shapes, self._arithmetic = walk, goal, prop, shapes, arithmetic
        self._lower, self._upper = lower[None], upper[None]
        self._at_once = _width(walk)
        self.places: list[Place] = []

    @property
    def waiting(self) -> int:
        return len(self._lower)

    def advance(self) -> int:
        """Bound the boxes on top by CROWN and halve those that are left where the form changes most."""
        count = min(self._at_once, len(self._lower))
        lower, upper = self._lower[-count:], self._upper[-count:]
        self._lower, self._upper = self._lower[:-count], self._upper[:-count]
        boxes = tuple(_box(self._prop, lower, upper, self._shapes))
        values = refined_values(self._walk, boxes, self._arithmetic)
        backward = Backward(self._walk, values)
        (output,) = self._walk.graph.outputs
        forms = self._goal.forms.unsqueeze(1).expand(-1, count, -1)
        judged = self._goal.judge(backward.lower({output: forms}))
        places, self.places = self.places[-count:], self.places[:-count]
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        for place, refutation in zip(places, judged, strict=True):
            if refutation.refuted:
                place.tighten().close(Evidence(refutation.row))
        if left:
            self.margin = min(judged[number].margin for number in left)
            self._cut(lower[left], upper[left], self._slopes(backward, left), [places[number] for number in left])
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
@dataclass(frozen=True)
class _Part:
    """Signs of single elements in front of Relus: (name, element) → 1 for v ≥ 0, −1 for v ≤ 0."""

    signs: dict[tuple[str, int], int]
    place: Place


class _Signs(_Parts):
    """Parts are signs of Relu inputs over one box."""

    def __init__(
        self,
        walk: Walk,
        goal: Goal,
        boxes: tuple[Interval, ...],
        arithmetic: Arithmetic,
        deadline: float,
        place: Place,
    ) -> None:
        self._walk, self._goal, self._boxes, self._arithmetic = walk, goal, boxes, arithmetic
        self._root = refined_values(walk, boxes, arithmetic, deadline)
        self._fronts = {
            step.operands[0]: name
            for name, step in walk.steps.items()
            if step.operator.name == "Relu" and step.operands[0] in walk.steps
        }
        self._stack = [_Part({}, place)]
        self._at_once = max(1, _width(walk) // max(1, 2 * len(goal.forms)))

    @property
    def waiting(self) -> int:
        return len(self._stack)

    def advance(self) -> int:
        """Bound the parts on top with slopes and multipliers, and cut those that are left at one more neuron."""
        parts = [self._stack.pop() for _ in range(min(self._at_once, len(self._stack)))]
        values, signs = self._values(parts)
        (output,) = self._walk.graph.outputs
        forms = {output: self._goal.forms.unsqueeze(1).expand(-1, len(parts), -1)}
        found = ascend(self._walk, values, forms, _STEPS, signs)
        judged = self._goal.judge(found.lower)
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        for number, (part, refutation) in enumerate(zip(parts, judged, strict=True)):
            if refutation.refuted:
                part.place.close(self._evidence(number, part, refutation, found))
        if left:
            self.margin = min(judged[number].margin for number in left)
        for number in left:
            cut = self._best_cut(number, parts[number], values, found.forms)
            if cut is None:
                self.is_stuck = True
                self._stack.append(parts[number])
                continue
            places = parts[number].place.cut_sign(self._fronts[cut[0]], cut[1])
            self._stack.extend(
                _Part({**parts[number].signs, cut: sign}, place) for sign, place in zip((-1, 1), places, strict=True)
            )
        return len(parts)

    def _evidence(self, number: int, part: _Part, refutation: Refutation, found: Ascent) -> Evidence:
        form = self._goal.form_of(refutation.row)
        if form < 0:
            return Evidence(refutation.row)
        multipliers = multipliers_of(list(part.signs), found.multipliers, form, number)
        return Evidence(refutation.row, packed(found.choices, form, number), multipliers)

    def _values(self, parts: Sequence[_Part]) -> tuple[Values, dict[str, Tensor]]:
        """Return the boxes of all parts, and the signs (B, *shape) that they have at each node."""
        count = len(parts)
        boxes = tuple(
            Interval.bounds(*(end.expand(count, *end.shape[1:]) for end in (b.lower, b.upper))) for b in self._boxes
        )
        signs = self._signs(parts)
        values = start(self._walk, boxes)
        for name, step in self._walk.steps.items():
            advance(values, step, self._arithmetic)
            if isinstance(self._root.known[name], Interval):
                root = self._root.box(name)
                values.tighten(name, root.lower.expand(count, *root.lower.shape[1:]), root.upper)
            if name in signs:
                zero = torch.zeros_like(signs[name])
                infinite = torch.full_like(zero, inf)
                values.tighten(
                    name, torch.where(signs[name] > 0, zero, -infinite), torch.where(signs[name] < 0, zero, infinite)
                )
        return values, signs

    def _signs(self, parts: Sequence[_Part]) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            for (name, element), sign in part.signs.items():
                if name not in result:
                    like = self._root.box(name).lower
                    result[name] = like.new_zeros(len(parts), *like.shape[1:])
                result[name][number].view(-1)[element] = float(sign)
        return result

    def _best_cut(
        self, number: int, part: _Part, values: Values, forms: Mapping[str, Tensor]
    ) -> tuple[str, int] | None:
        """Return the neuron whose triangle costs the forms most (Bunel et al. 2020, section 4.3: BaBSR)."""
        best, chosen = 0.0, None
        for front, relu in self._fronts.items():
            if relu not in forms:
                continue
            box = values.box(front)
            lower, upper = box.lower[number].flatten(), box.upper[number].flatten()
            unstable = (lower < 0) & (upper > 0)
            area = torch.where(unstable, -lower * upper / (upper - lower).clamp(min=1e-30), torch.zeros_like(lower))
            weight = forms[relu][:, number].reshape(len(forms[relu]), -1).abs().amax(0)
            score = (weight + 1e-9) * area
            top, element = score.max(0)
            if float(top) > best and (front, int(element)) not in part.signs:
                best, chosen = float(top), (front, int(element))
        return chosen
