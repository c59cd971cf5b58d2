"""The proof of what a bounding method found: the box is bounded once more where a proof has to say how."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final, TypeAlias

import torch

from ibpc.bounds.alpha_crown import STEPS
from ibpc.bounds.ascent import ascend, elementwise_planes
from ibpc.bounds.cone import EVERYTHING, Cone, cone_of
from ibpc.bounds.crown import interval_values, refined_values, walk_of
from ibpc.bounds.sharpening import Record, sharpened_values
from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic
from ibpc.verify.goal import Goal
from ibpc.verify.proof import Evidence, Place, is_replayed, lines_of, packed, packed_lines
from ibpc.verify.properties import Property

Tensor: TypeAlias = torch.Tensor

# Seconds that sharper boxes of one case may take.
_SHARPENING: Final = 60.0


def place_of(method: str, again: Again, disjunct: int, row: int) -> Place:
    """Return the proof of a bound of a row of a disjunct by a method. It is open where none can be written."""
    if method in ("ibp", "crown-ibp"):
        return Place.closed(Evidence(row))
    if not is_replayed(again.walk, again.plain):
        return Place()
    if method == "crown":
        return Place.closed(Evidence(row)).tighten(again.lines)
    return Place.closed(partial(again.ascended, disjunct, row)).tighten(again.lines).sharpen(again.record)


@dataclass(frozen=True, eq=False)
class Again:
    """The values of a network over the box of one case, bounded as the methods do, each at the first request."""

    graph: Graph
    prop: Property
    case: int
    arithmetic: Arithmetic
    device: torch.device

    @cached_property
    def walk(self) -> Walk:
        """The walk through the network."""
        return walk_of(self.graph, self.device)

    @cached_property
    def _boxes(self) -> tuple[Interval, ...]:
        ends = [end.double().to(self.device)[None] for end in self.prop.cases[self.case].box.outer]
        shapes = [self.graph.node(name).shape[1:] for name in self.graph.inputs]
        return tuple(map(Interval.bounds, *(self.prop.split(end, shapes) for end in ends)))

    @cached_property
    def plain(self) -> Values:
        """The values by interval bounds."""
        with torch.no_grad():
            return interval_values(self.walk, self._boxes, self.arithmetic)

    @cached_property
    def _cone(self) -> Cone:
        wanted = self.prop.read_outputs().to(self.device)
        return EVERYTHING if bool(wanted.all()) else cone_of(self.walk, self.plain, wanted)

    @cached_property
    def _tight(self) -> Values:
        with torch.no_grad():
            return refined_values(self.walk, self._boxes, self.arithmetic, cone=self._cone)

    @cached_property
    def _sharp(self) -> tuple[Values, Record | None]:
        """The values whose ends moved as the record says; those of CROWN where it cannot say that."""
        record, deadline = Record(), time.monotonic() + _SHARPENING
        with torch.no_grad():
            values = sharpened_values(
                self.walk, self._boxes, self.arithmetic, self._tight, deadline, self._cone, record
            )
        return (values, record) if record.is_whole else (self._tight, None)

    def lines(self) -> dict[str, str]:
        """Return the lines that CROWN takes over the whole box."""
        return packed_lines(lines_of(self.walk, self._tight), 0)

    def record(self) -> Record | None:
        """Return what moves ends of boxes in between."""
        return self._sharp[1]

    def ascended(self, disjunct: int, row: int) -> Evidence:
        """Return the planes that bound a row best: CROWN's, or those that an ascent finds in sharper boxes."""
        chosen = self.prop.cases[self.case]
        goal = Goal(chosen, chosen.disjuncts[disjunct], self.prop.output_count, self.device)
        form = goal.form_of(row)
        if form < 0:
            return Evidence(row)
        (output,) = self.walk.graph.outputs
        forms = {output: goal.forms[form][None, None]}
        plain = ascend(self.walk, self._tight, forms, 0, chosen=elementwise_planes)
        climbed = ascend(self.walk, self._sharp[0], forms, STEPS, chosen=elementwise_planes)
        best = climbed if bool(climbed.lower >= plain.lower) or bool(plain.lower.isnan()) else plain
        return Evidence(row, packed(best.choices, 0, 0))
