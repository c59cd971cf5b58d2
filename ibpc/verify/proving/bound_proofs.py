"""Proofs of the bounds of a bounding method: where a proof has to list choices, the box is bounded once more."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch

from ibpc.bounds import METHODS, Proof, methods_proved_by
from ibpc.bounds.alpha_crown import STEPS
from ibpc.bounds.ascent import ascend, elementwise_planes
from ibpc.bounds.sharpening import Record
from ibpc.verify.goal import Goal
from ibpc.verify.proving.evidence import is_replayed, lines_of, packed, packed_lines
from ibpc.verify.proving.proof import Evidence, Place
from ibpc.verify.search.roots import Roots

# Methods whose bounds the checker finds by itself.
SELF_EVIDENT: Final = methods_proved_by(Proof.INTERVALS, Proof.PLANES)


def place_of(method: str, roots: Roots, case: int, disjunct: int, row: int) -> Place:
    """Return the proof of a row's bound by a method that is not self-evident: open if no proof can be written."""
    if not is_replayed(roots.walk, roots.plain(case)):
        return Place()
    if METHODS[method].proof is not Proof.CHOICES:
        return Place.closed(Evidence(row)).tighten(partial(_lines, roots, case))
    place = Place.closed(partial(_ascended, roots, case, disjunct, row)).tighten(partial(_lines, roots, case))
    return place.sharpen(partial(_record, roots, case))


@torch.no_grad()
def _lines(roots: Roots, case: int) -> dict[str, str]:
    """Return the lower lines of rectifiers that CROWN uses over the whole box."""
    return packed_lines(lines_of(roots.walk, roots.values(case)), 0)


@torch.no_grad()
def _record(roots: Roots, case: int) -> Record | None:
    """Return the record of how pre-activation bounds were sharpened, None if it is not whole."""
    return roots.sharpened(case)[1]


@torch.no_grad()
def _ascended(roots: Roots, case: int, disjunct: int, row: int) -> Evidence:
    """Return the planes that bound a row best: CROWN's, or those that an ascent finds over the boxes of the proof."""
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
