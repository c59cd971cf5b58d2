"""Shared by all searches over one property: the network, and the boxes of values over a few whole cases."""

from __future__ import annotations

from functools import cached_property
from math import inf
from typing import Final

from torch import Tensor

from ibpc.bounds.cone import Cone, cone_of
from ibpc.bounds.refinement import interval_values, refined_values
from ibpc.bounds.sharpening import Record, sharpened_values
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic
from ibpc.verify.properties import Property

_MOST_ROOTS: Final = 16


class Roots:
    """The network made ready, and boxes of its values over at most 16 whole cases."""

    def __init__(
        self,
        walk: Walk,
        prop: Property,
        arithmetic: Arithmetic,
        deadlines: tuple[float, float] = (inf, inf),
    ) -> None:
        """Tightening boxes ends at the first deadline, sharpening them at the second."""
        self.walk, self.prop, self.arithmetic, self.device = walk, prop, arithmetic, walk.device
        self._shapes = [shape[1:] for shape in walk.graph.shapes_of(walk.inputs)]
        self._deadlines = deadlines
        self._plain: dict[int, Values] = {}
        self._values: dict[int, Values] = {}
        self._sharp: dict[int, tuple[Values, Record | None]] = {}

    def ends(self, case: int) -> tuple[Tensor, Tensor]:
        """Return the box of a case, flat."""
        lower, upper = (end.double().to(self.device) for end in self.prop.cases[case].box.outer)
        return lower, upper

    def boxes(self, lower: Tensor, upper: Tensor) -> tuple[Interval, ...]:
        """Return the box of each input from flat ends (B, n)."""
        return self.prop.boxes(lower, upper, self._shapes)

    def whole(self, case: int) -> tuple[Interval, ...]:
        """Return the box of a case, (1, *shape) of each input."""
        lower, upper = self.ends(case)
        return self.boxes(lower[None], upper[None])

    def plain(self, case: int) -> Values:
        """Return the boxes of all values over the box of a case by interval bounds."""
        if case not in self._plain:
            _make_room(self._plain)
            self._plain[case] = interval_values(self.walk, self.whole(case), self.arithmetic)
        return self._plain[case]

    @cached_property
    def cone(self) -> Cone:
        """The cone of influence of the outputs that the property reads."""
        return cone_of(self.walk, self.plain(0), self.prop.read_outputs().to(self.device))

    def values(self, case: int) -> Values:
        """Return the boxes of all values over the box of a case, tightened by backward bounds until the deadline."""
        if case not in self._values:
            for oldest in _make_room(self._values):
                self._sharp.pop(oldest, None)
            boxes, deadline = self.whole(case), self._deadlines[0]
            self._values[case] = refined_values(self.walk, boxes, self.arithmetic, deadline, cone=self.cone)
        return self._values[case]

    def is_sharp(self, case: int) -> bool:
        """Whether the boxes of a case have been sharpened, by this search or another one."""
        return case in self._sharp

    def sharpened(self, case: int) -> tuple[Values, Record | None]:
        """Return `values`, tightened once more with planes chosen for each end, and the record of that."""
        known = self.values(case)
        if case not in self._sharp:
            boxes, deadline = self.whole(case), self._deadlines[1]
            record = Record()
            values = sharpened_values(self.walk, boxes, self.arithmetic, known, deadline, self.cone, record)
            self._sharp[case] = values, record if record.is_whole else None
        return self._sharp[case]


def _make_room(known: dict[int, Values]) -> list[int]:
    """Drop the oldest values until there is room for those of one more case; return the cases dropped."""
    dropped = list(known)[: max(0, len(known) + 1 - _MOST_ROOTS)]
    for case in dropped:
        del known[case]
    return dropped
