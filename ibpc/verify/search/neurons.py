"""Which neuron a part is cut at next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Final, TypeAlias

import torch

from ibpc.bounds.ascent import Ascent, Signs, Start, estimated
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval

Tensor: TypeAlias = torch.Tensor

_CANDIDATES: Final = 5
_BETTER_SIDE: Final = 0.1
_FAR: Final = 1e30


@dataclass(frozen=True, eq=False)
class Neurons:
    """The Relus of a network, by the name of what each reads: `fronts[read] = relu`."""

    walk: Walk
    fronts: Mapping[str, str]

    def best(
        self, left: Sequence[int], values: Values, signs: Signs, found: Ascent, forms: Tensor
    ) -> list[tuple[str, int] | None]:
        """Return the neuron to cut each part at: of those whose triangles cost most the one whose worse side is best.

        (Filtered smart branching: De Palma et al. 2021, arXiv 2104.06718, section 4.2; the filter is the area part of
        Bunel et al. 2020, section 4.3.)
        """
        fronts = [front for front, relu in self.fronts.items() if relu in found.forms]
        if not left or not fronts:
            return [None] * len(left)
        scores = [_triangles(values.box(front), found.forms[self.fronts[front]], left) for front in fronts]
        tops = torch.cat(scores, 1)
        best = tops.topk(min(_CANDIDATES, tops.shape[1]), dim=1)
        layers = [layer for layer, score in enumerate(scores) for _ in range(score.shape[1])]
        starts = list(accumulate((score.shape[1] for score in scores), initial=0))
        named = [[(fronts[layers[at]], at - starts[layers[at]]) for at in row] for row in best.indices.tolist()]
        gains = self._tried(left, values, signs, found, forms, named).masked_fill(best.values.T <= 0, -inf)
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
        forms: Tensor,
        named: Sequence[Sequence[tuple[str, int]]],
    ) -> Tensor:
        """Return for each candidate (C, L) an estimate of the bound on the worse of its two sides."""
        index = torch.tensor(left, device=found.lower.device)
        base = _picked(values, index).rough()
        start = Start(*({n: v[:, index] for n, v in side.items()} for side in (found.choices, found.multipliers)))
        kept = Signs({name: sign[index] for name, sign in signs.known.items()})
        (output,) = self.walk.graph.outputs
        bounded = {output: forms[:, index].float()}
        gains = []
        for candidates in zip(*named, strict=True):
            ends = [
                estimated(self.walk.rough, _clamped(base, candidates, side), bounded, kept, start).amax(0)
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
