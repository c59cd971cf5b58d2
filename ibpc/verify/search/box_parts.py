"""Cutting a box along its inputs (Bunel et al. 2020, arXiv 1909.06588)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.backward import Backward
from ibpc.bounds.refinement import refined_values
from ibpc.verify.goal import Goal
from ibpc.verify.proving.evidence import has_planes, lines_of, packed_lines
from ibpc.verify.proving.proof import Evidence, Place
from ibpc.verify.search.parts import BoxStack, parts_at_once
from ibpc.verify.search.roots import Roots

_MOST_BOXES: Final = 2048
_SPREAD: Final = 0.5
_LEAST: Final = 1e-200


class BoxParts(BoxStack):
    """Boxes that are bounded by CROWN; each has its place in the proof."""

    def __init__(self, roots: Roots, goal: Goal, case: int, place: Place) -> None:
        super().__init__(*roots.ends(case), parts_at_once(roots.walk, _MOST_BOXES))
        self._roots, self._walk, self._goal = roots, roots.walk, goal
        self._is_written = has_planes(roots.walk, roots.plain(case))
        self._widths = self._upper[0] - self._lower[0]
        self.places = [place]

    def advance(self, deadline: float) -> int:
        """Bound the boxes on top by CROWN, and halve those not refuted along the input that changes the form most."""
        lower, upper = self._taken()
        count, roots = len(lower), self._roots
        values = refined_values(self._walk, roots.boxes(lower, upper), roots.arithmetic, deadline, cone=roots.cone)
        backward = Backward(self._walk, values)
        (output,) = self._walk.graph.outputs
        forms = self._goal.forms.unsqueeze(1).expand(-1, count, -1)
        judged = self._goal.judge(backward.lower({output: forms}))
        places, self.places = self.places[-count:], self.places[:-count]
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        closed = [number for number, refutation in enumerate(judged) if refutation.refuted]
        lines = {name: line[closed] > 0 for name, line in lines_of(self._walk, values).items()}
        for position, number in enumerate(closed if self._is_written else ()):
            places[number].tighten(partial(_packed, lines, position)).close(Evidence(judged[number].row))
        if left:
            margins = lower.new_tensor([judged[number].margin for number in left])
            gains = self._gains(self._slopes(backward, left), upper[left] - lower[left])
            cuts = zip(*(cut.tolist() for cut in self._halved(lower[left], upper[left], margins, gains)), strict=True)
            pairs = [places[number].cut_input(*cut) for number, cut in zip(left, cuts, strict=True)]
            self.places += [below for below, _ in pairs] + [above for _, above in pairs]
        self.margin = self._least_margin()
        return count

    def _gains(self, slopes: Tensor, widths: Tensor) -> Tensor:
        """Return by how much halving a box along each input may change the form, (B, n).

        Half of the changes is spread by the widths relative to the whole box: where slopes cancel, as in a difference
        of two networks, planes are what is loose, and boxes that are narrow along every input tighten them.
        """
        changes = slopes * widths
        relative = widths / self._widths.clamp(min=_LEAST)
        shares = relative / relative.sum(1, keepdim=True).clamp(min=_LEAST)
        return changes + (_SPREAD * changes.sum(1, keepdim=True) + _LEAST) * shares

    def _slopes(self, backward: Backward, left: list[int]) -> Tensor:
        """Return for each box the greatest modulus of the forms' coefficients at each input, (B, n)."""
        parts = [backward.forms[name].abs().amax(0)[left].reshape(len(left), -1) for name in self._walk.inputs]
        return torch.cat(parts, 1).nan_to_num(1.0, 1.0, 1.0)


def _packed(lines: Mapping[str, Tensor], part: int) -> dict[str, str]:
    """Return the encoded lines of one part, which are kept as booleans until they are asked for."""
    return packed_lines({name: line.double() for name, line in lines.items()}, part)
