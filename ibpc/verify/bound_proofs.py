"""The proof of what a bounding method found: the box is bounded once more where a proof has to say how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import torch

from ibpc.bounds.alpha_crown import STEPS
from ibpc.bounds.ascent import ascend, elementwise_planes
from ibpc.bounds.cone import EVERYTHING, Cone, cone_of
from ibpc.bounds.crown import interval_values, refined_values, walk_of
from ibpc.bounds.sharpening import Record, sharpened_values
from ibpc.bounds.values import Values
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic
from ibpc.verify.goal import Goal
from ibpc.verify.proof import Evidence, Place, is_replayed, lines_of, packed, packed_lines
from ibpc.verify.properties import Property

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class Sought:
    """A disjunct of a case to be refuted, the network's graph, the arithmetic of the claim, and where to compute."""

    graph: Graph
    prop: Property
    case: int
    disjunct: int
    arithmetic: Arithmetic
    device: torch.device


def place_of(method: str, sought: Sought, row: int) -> Place:
    """Return the proof of a bound of a row by a method. It is open where none can be written."""
    if method in ("ibp", "crown-ibp"):
        return Place.closed(Evidence(row))
    again = _Again(sought)
    if not is_replayed(again.walk, again.plain):
        return Place()
    if method == "crown":
        return Place.closed(Evidence(row)).tighten(again.lines)
    return Place.closed(partial(again.ascended, row)).tighten(again.lines).sharpen(again.record)


class _Again:
    """The values over the whole box, bounded as the methods do, each at the first request."""

    def __init__(self, sought: Sought) -> None:
        self._sought = sought
        self.walk = walk_of(sought.graph, sought.device)

    @cached_property
    def _boxes(self) -> tuple[Interval, ...]:
        sought = self._sought
        ends = [end.double().to(sought.device)[None] for end in sought.prop.cases[sought.case].box.outer]
        shapes = [sought.graph.node(name).shape[1:] for name in sought.graph.inputs]
        return tuple(map(Interval.bounds, *(sought.prop.split(end, shapes) for end in ends)))

    @cached_property
    def plain(self) -> Values:
        """The values by interval bounds."""
        with torch.no_grad():
            return interval_values(self.walk, self._boxes, self._sought.arithmetic)

    @cached_property
    def _cone(self) -> Cone:
        wanted = self._sought.prop.read_outputs().to(self._sought.device)
        return EVERYTHING if bool(wanted.all()) else cone_of(self.walk, self.plain, wanted)

    @cached_property
    def _tight(self) -> Values:
        with torch.no_grad():
            return refined_values(self.walk, self._boxes, self._sought.arithmetic, cone=self._cone)

    @cached_property
    def _sharp(self) -> tuple[Values, Record | None]:
        with torch.no_grad():
            return sharpened_values(self.walk, self._boxes, self._sought.arithmetic, self._tight, cone=self._cone)

    def lines(self) -> dict[str, str]:
        """Return the lines that CROWN takes over the whole box."""
        return packed_lines(lines_of(self.walk, self._tight), 0)

    def record(self) -> Record | None:
        """Return what moves ends of boxes in between."""
        return self._sharp[1]

    def ascended(self, row: int) -> Evidence:
        """Return the planes that bound a row best: CROWN's, or those that an ascent finds in sharper boxes."""
        sought = self._sought
        chosen = sought.prop.cases[sought.case]
        goal = Goal(chosen, chosen.disjuncts[sought.disjunct], sought.prop.output_count, sought.device)
        form = goal.form_of(row)
        if form < 0:
            return Evidence(row)
        (output,) = self.walk.graph.outputs
        forms = {output: goal.forms[form][None, None]}
        values, _ = self._sharp
        tried = [
            ascend(self.walk, self._tight, forms, 0, chosen=elementwise_planes),
            ascend(self.walk, values, forms, STEPS, chosen=elementwise_planes),
        ]
        best = max(tried, key=lambda found: float(found.lower))
        return Evidence(row, packed(best.choices, 0, 0))
