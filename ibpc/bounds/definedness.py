"""Whether every value of a network is a finite number over a box, which bounds take for granted.

An operator's rule gives [−∞, ∞] where its result may be NaN, overflow binary32 or wrap around. But a later operator may
bound it again: a sigmoid lies in [0, 1] whatever its operand's box, while the sigmoid of NaN does not. So a verdict
needs more than bounds of the outputs: finite boxes of all values of the network, before any pass.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from ibpc.bounds.batching import samples_at_once
from ibpc.bounds.refinement import interval_values, refined_values
from ibpc.bounds.values import Values, Walk
from ibpc.hints import INEXACT
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic


class Definedness:
    """Looks for values that may be NaN or ±∞, on a walk over a network before any pass."""

    def __init__(self, walk: Walk, arithmetic: Arithmetic) -> None:
        self._walk, self._arithmetic = walk, arithmetic

    @torch.no_grad()
    def doubts(self, boxes: tuple[Interval, ...], deadline: float = inf) -> list[str | None]:
        """Return for each sample of boxes (B, …) the first node that may hold NaN or ±∞, None if there is none.

        In float32 arithmetic a constant that differs between executions counts as such a node: its value is unknown.
        Intervals over the hull of all samples come first, then over each sample; where these leave a doubt, the boxes
        are tightened as by `crown`, until the deadline.
        """
        count = len(boxes[0].lower)
        if self._arithmetic is Arithmetic.FLOAT32 and INEXACT in self._walk.graph.hints:
            return [str(self._walk.graph.hints[INEXACT])] * count
        if self._first(self._plain(_hull(boxes)))[0] is None:
            return [None] * count
        found: list[str | None] = []
        for part in torch.split(torch.arange(count), samples_at_once(self._walk)):
            found += self._first(self._plain(_samples(boxes, part)))
        return [None if name is None else self._tightened(boxes, number, deadline) for number, name in enumerate(found)]

    def _plain(self, boxes: tuple[Interval, ...]) -> Values:
        return interval_values(self._walk, boxes, self._arithmetic)

    def _tightened(self, boxes: tuple[Interval, ...], number: int, deadline: float) -> str | None:
        sample = _samples(boxes, torch.tensor([number]))
        return self._first(refined_values(self._walk, sample, self._arithmetic, deadline))[0]

    def _first(self, values: Values) -> list[str | None]:
        """Return for each sample the first node whose box is not finite."""
        found: list[str | None] = [None] * len(values.box(self._walk.inputs[0]).lower)
        for name in self._walk.steps:
            box = values.known[name]
            if isinstance(box, Interval):
                ends = torch.stack([box.lower, box.upper], 1).flatten(1)
                for number in (~ends.isfinite().all(1)).nonzero()[:, 0].tolist():
                    found[number] = found[number] or name
        return found


def _hull(boxes: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """Return the least boxes (1, …) that contain those of all samples."""
    return tuple(Interval.bounds(box.lower.amin(0, keepdim=True), box.upper.amax(0, keepdim=True)) for box in boxes)


def _samples(boxes: tuple[Interval, ...], numbers: Tensor) -> tuple[Interval, ...]:
    return tuple(box.map(lambda end: end[numbers]) for box in boxes)
