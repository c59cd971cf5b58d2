"""Proofs of the bounds of a bounding method: where a proof has to list choices, the box is bounded once more."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import torch

from ibpc.bounds import METHODS, Proof
from ibpc.bounds.alpha_crown import STEPS
from ibpc.bounds.ascent import ascend, elementwise_planes
from ibpc.bounds.sharpening import Record
from ibpc.bounds.values import Walk
from ibpc.rounding import Arithmetic
from ibpc.verify.goal import Goal
from ibpc.verify.properties import Property
from ibpc.verify.proving.evidence import has_planes, is_replayed, lines_of, packed, packed_lines
from ibpc.verify.proving.proof import Evidence, Place
from ibpc.verify.search.branching import Branching
from ibpc.verify.search.roots import Roots
from ibpc.verify.specification import Refutation

# Seconds that a search for the proof of an exact bound may take.
_LONGEST: Final = 60.0


class BoundProofs:
    """Proofs of the bounds that methods find for a property, made without a deadline."""

    def __init__(self, walk: Walk, prop: Property, arithmetic: Arithmetic) -> None:
        self._roots = Roots(walk, prop, arithmetic)

    def of(self, method: str, case: int, disjunct: int, found: Refutation) -> Place | None:
        """Return the proof of a method's bound, open or None if none can be written.

        Exact bounds carry none: a search looks for one later.
        """
        proof, roots = METHODS[method].proof, self._roots
        if proof is Proof.INTERVALS:
            return Place.closed(Evidence(found.row))
        if proof is Proof.PLANES:
            return Place.closed(partial(self._planar, case, found.row))
        if proof is Proof.SEARCH:
            return Place.found_later(partial(self._searched, case, disjunct)) if found.refuted else None
        if not is_replayed(roots.walk, roots.plain(case)):
            return Place()
        if proof is not Proof.CHOICES:
            return Place.closed(Evidence(found.row)).tighten(partial(self._lines, case))
        place = Place.closed(partial(self._ascended, case, disjunct, found.row))
        return place.tighten(partial(self._lines, case)).sharpen(partial(self._record, case))

    @torch.no_grad()
    def _planar(self, case: int, row: int) -> Evidence | None:
        """Return the evidence of planes over interval bounds, None where the checker lacks such planes."""
        return Evidence(row) if has_planes(self._roots.walk, self._roots.plain(case)) else None

    @torch.no_grad()
    def _lines(self, case: int) -> dict[str, str]:
        """Return the lower lines of rectifiers that CROWN uses over the whole box."""
        return packed_lines(lines_of(self._roots.walk, self._roots.values(case)), 0)

    @torch.no_grad()
    def _record(self, case: int) -> Record | None:
        """Return the record of how pre-activation bounds were sharpened, None if it is not whole."""
        return self._roots.sharpened(case)[1]

    @torch.no_grad()
    def _ascended(self, case: int, disjunct: int, row: int) -> Evidence:
        """Return the planes that bound a row best: CROWN's, or those of an ascent over the boxes of the proof."""
        roots = self._roots
        chosen = roots.prop.cases[case]
        goal = Goal(chosen, chosen.disjuncts[disjunct], roots.prop.output_count, roots.device)
        form = goal.form_of(row)
        if form < 0:
            return Evidence(row)
        (output,) = roots.walk.graph.outputs
        forms = {output: goal.forms[form][None, None]}
        tight, (sharp, record) = roots.values(case), roots.sharpened(case)
        plain = ascend(roots.walk, tight, forms, 0, chosen=elementwise_planes)
        climbed = ascend(roots.walk, tight if record is None else sharp, forms, STEPS, chosen=elementwise_planes)
        best = climbed if bool(climbed.lower >= plain.lower) or bool(plain.lower.isnan()) else plain
        return Evidence(row, packed(best.choices, 0, 0))

    def _searched(self, case: int, disjunct: int) -> Place | None:
        """Return a search's proof of what another method refuted, None if it takes too long."""
        started, roots = time.monotonic(), self._roots
        deadlines = (started + _LONGEST / 4, started + _LONGEST / 2)
        search = Branching(Roots(roots.walk, roots.prop, roots.arithmetic, deadlines), case, disjunct)
        search.run(started + _LONGEST)
        return search.proof if search.is_refuted else None
