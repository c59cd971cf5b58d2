"""The choice of the next cut: which element in front of a nonlinear operator, and at which number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.ascent import Ascent, Ends, Plain, Start, estimated
from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import Step, Values, Walk, flat
from ibpc.interval import Interval

_CANDIDATES: Final = 5
_BETTER_SIDE: Final = 0.1
_FAR: Final = 1e30


@dataclass(frozen=True)
class NeuronCut:
    """An element of a value, flat, and the number that it is cut at."""

    value: str
    element: int
    at: float


@dataclass(frozen=True, eq=False)
class Neurons:
    """The elementwise nonlinear operators of a network, by the name of their operand: `fronts[operand] = node`."""

    walk: Walk
    fronts: Mapping[str, str]

    def best(
        self, left: Sequence[int], values: Values, ends: Ends, found: Ascent, forms: Tensor
    ) -> list[NeuronCut | None]:
        """Return the next cut of each part: among the elements whose planes cost most, the best on its worse side.

        (Filtered smart branching: De Palma et al. 2021, arXiv 2104.06718, section 4.2; for Relus the filter is the area
        part of Bunel et al. 2020, section 4.3.)
        """
        fronts = [front for front, node in self.fronts.items() if node in found.forms]
        if not left or not fronts:
            return [None] * len(left)
        steps = [self.walk.steps[self.fronts[front]] for front in fronts]
        boxes = [_box(values.box(front), left) for front in fronts]
        forms_at = [found.forms[step.node.name][:, left] for step in steps]
        scores = [_cost(step, box, form) for step, box, form in zip(steps, boxes, forms_at, strict=True)]
        tops = torch.cat(scores, 1)
        best = tops.topk(min(_CANDIDATES, tops.shape[1]), dim=1)
        layers = [layer for layer, score in enumerate(scores) for _ in range(score.shape[1])]
        starts = list(accumulate((score.shape[1] for score in scores), initial=0))
        points = torch.cat([_points(step, box) for step, box in zip(steps, boxes, strict=True)], 1)
        named = [
            [
                NeuronCut(fronts[layers[at]], at - starts[layers[at]], point)
                for at, point in zip(row, where, strict=True)
            ]
            for row, where in zip(best.indices.tolist(), points.gather(1, best.indices).tolist(), strict=True)
        ]
        gains = self._tried(left, values, ends, found, forms, named).masked_fill(best.values.T <= 0, -inf)
        chosen = gains.argmax(0).tolist()
        return [
            row[pick] if float(best.values[number, pick]) > 0 else None
            for number, (row, pick) in enumerate(zip(named, chosen, strict=True))
        ]

    def _tried(
        self,
        left: Sequence[int],
        values: Values,
        ends: Ends,
        found: Ascent,
        forms: Tensor,
        named: Sequence[Sequence[NeuronCut]],
    ) -> Tensor:
        """Return an estimate (C, L) of the bound on the worse of the two sides of each candidate."""
        index = torch.tensor(left, device=found.lower.device)
        base = _picked(values, index).rough()
        start = Start(*({n: v[:, index] for n, v in side.items()} for side in (found.choices, found.multipliers)))
        kept = Ends({name: (low[index], high[index]) for name, (low, high) in ends.known.items()})
        (output,) = self.walk.graph.outputs
        bounded = {output: forms[:, index].float()}
        plain: Plain = {}
        gains = []
        for candidates in zip(*named, strict=True):
            sides = [
                estimated(self.walk.rough, _clamped(base, candidates, side), bounded, kept, start, plain).amax(0)
                for side in (-1, 1)
            ]
            worse, better = torch.minimum(*sides), torch.maximum(*sides)
            gains.append(worse + _BETTER_SIDE * better.clamp(max=0.0))
        return torch.stack(gains).nan_to_num(-_FAR, _FAR, -_FAR)


def _picked(values: Values, index: Tensor) -> Values:
    """Return the values of some samples."""
    known = {
        name: value.map(lambda end: end[index]) if isinstance(value, Interval) else value
        for name, value in values.known.items()
    }
    return Values(known, values.errors)


def _clamped(values: Values, candidates: Sequence[NeuronCut], side: int) -> Values:
    """Return the values with one element of each sample clamped to one side of its cut."""
    result = Values(dict(values.known), values.errors)
    for name in {cut.value for cut in candidates}:
        box = result.box(name)
        lower, upper = flat(box.lower.clone()), flat(box.upper.clone())
        for number, cut in enumerate(candidates):
            if cut.value == name:
                (lower if side > 0 else upper)[number, cut.element] = cut.at
        result.known[name] = Interval.bounds(lower.view_as(box.lower), upper.view_as(box.upper))
    return result


def _box(box: Interval, left: Sequence[int]) -> Interval:
    """Return the box of the parts `left`."""
    return box.map(lambda end: end[left])


def _cost(step: Step, box: Interval, form: Tensor) -> Tensor:
    """Return how much an operator's planes cost the forms (R, B, *shape) of its results, per element (B, n)."""
    if step.operator.name == "Relu":
        return _triangles(box, form)
    planes = plain_planes(step, (box,))
    middle = 0.5 * box.lower + 0.5 * box.upper
    gaps = [planes.upper(x) - planes.lower(x) for x in (box.lower, middle, box.upper)]
    gap = torch.stack(gaps).amax(0) * (box.lower < box.upper)
    return flat((0.5 * form.abs().amax(0) * gap).nan_to_num(0.0, 0.0, 0.0))


def _points(step: Step, box: Interval) -> Tensor:
    """Return where to cut each element, (B, n): at the kink in its box nearest to the middle, else in the middle."""
    kinks = step.operator.rules.kinks
    middle = 0.5 * box.lower + 0.5 * box.upper
    point, distance = middle, torch.full_like(middle, inf)
    for kink in () if kinks is None else kinks(step.call, **step.parameters):
        at = torch.zeros_like(middle) + kink
        is_nearer = (box.lower < at) & (at < box.upper) & ((at - middle).abs() < distance)
        point, distance = torch.where(is_nearer, at, point), torch.where(is_nearer, (at - middle).abs(), distance)
    return flat(point)


def _triangles(box: Interval, form: Tensor) -> Tensor:
    """Return how much the triangle of each unstable Relu costs the forms (R, B, *shape), (B, n)."""
    lower, upper = flat(box.lower), flat(box.upper)
    unstable = (lower < 0) & (upper > 0)
    height = torch.where(unstable, -lower * upper / (upper - lower).clamp(min=1e-30), torch.zeros_like(lower))
    above, below = (flat(side.amax(0)) for side in (form.clamp(min=0.0), -form.clamp(max=0.0)))
    lost = torch.minimum(-lower, upper).clamp(min=0.0)
    return torch.where(unstable, (below + 1e-9) * height + 0.5 * above * lost, torch.zeros_like(lower))
