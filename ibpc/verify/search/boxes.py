"""Cutting a box along its inputs (Bunel et al. 2020, arXiv 1909.06588)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.backward import Backward
from ibpc.bounds.refinement import refined_values
from ibpc.verify.goal import Goal
from ibpc.verify.proving.evidence import lines_of, packed_lines
from ibpc.verify.proving.proof import Evidence, Place
from ibpc.verify.search.parts import Parts, parts_at_once
from ibpc.verify.search.roots import Roots

_MOST_BOXES: Final = 2048
_SUSPECTS: Final = 64


class BoxParts(Parts):
    """Parts are boxes of inputs, flat ends (B, n)."""

    def __init__(self, roots: Roots, goal: Goal, lower: Tensor, upper: Tensor, place: Place) -> None:
        self._roots, self._walk, self._goal = roots, roots.walk, goal
        self._lower, self._upper = lower[None], upper[None]
        self._margins = [-inf]
        self._at_once = parts_at_once(roots.walk, _MOST_BOXES)
        self.places = [place]

    @property
    def waiting(self) -> int:
        """The number of parts on the stack."""
        return len(self._lower)

    def suspects(self) -> Tensor:
        """Return the centers of the boxes that are furthest from being refuted."""
        margins = torch.tensor(self._margins)
        worst = margins.topk(min(_SUSPECTS, len(margins)), largest=False).indices.to(self._lower.device)
        return 0.5 * self._lower[worst] + 0.5 * self._upper[worst]

    def advance(self, deadline: float) -> int:
        """Bound the boxes on top by CROWN, and halve those not refuted along the input that changes the form most."""
        count = min(self._at_once, len(self._lower))
        lower, upper = self._lower[-count:], self._upper[-count:]
        self._lower, self._upper = self._lower[:-count], self._upper[:-count]
        boxes, roots = self._roots.boxes(lower, upper), self._roots
        values = refined_values(self._walk, boxes, roots.arithmetic, deadline, cone=roots.cone)
        backward = Backward(self._walk, values)
        (output,) = self._walk.graph.outputs
        forms = self._goal.forms.unsqueeze(1).expand(-1, count, -1)
        judged = self._goal.judge(backward.lower({output: forms}))
        places, self.places, self._margins = self.places[-count:], self.places[:-count], self._margins[:-count]
        left = [number for number, refutation in enumerate(judged) if not refutation.refuted]
        closed = [number for number, refutation in enumerate(judged) if refutation.refuted]
        lines = {name: line[closed] > 0 for name, line in lines_of(self._walk, values).items()}
        for position, number in enumerate(closed):
            places[number].tighten(partial(_packed, lines, position)).close(Evidence(judged[number].row))
        if left:
            self._cut(lower[left], upper[left], self._slopes(backward, left), [places[number] for number in left])
            self._margins += 2 * [judged[number].margin for number in left]
        self.margin = min(self._margins, default=inf)
        return count

    def _slopes(self, backward: Backward, left: list[int]) -> Tensor:
        """Return for each box the greatest modulus of the forms' coefficients at each input, (B, n)."""
        parts = [backward.forms[name].abs().amax(0)[left].reshape(len(left), -1) for name in self._walk.inputs]
        return torch.cat(parts, 1).nan_to_num(1.0, 1.0, 1.0)

    def _cut(self, lower: Tensor, upper: Tensor, slopes: Tensor, places: Sequence[Place]) -> None:
        extent = upper - lower
        axis = ((slopes + 1e-12 * (1.0 + slopes)) * extent).argmax(1, keepdim=True)
        middle = (0.5 * lower + 0.5 * upper).gather(1, axis)
        if bool((extent.gather(1, axis) <= 0).any()):
            self.is_stuck = True
        left_upper, right_lower = upper.scatter(1, axis, middle), lower.scatter(1, axis, middle)
        cuts = zip(places, axis[:, 0].tolist(), middle[:, 0].tolist(), strict=True)
        pairs = [place.cut_input(index, at) for place, index, at in cuts]
        self.places += [left for left, _ in pairs] + [right for _, right in pairs]
        self._lower = torch.cat([self._lower, lower, right_lower])
        self._upper = torch.cat([self._upper, left_upper, upper])


def _packed(lines: Mapping[str, Tensor], part: int) -> dict[str, str]:
    """Return the encoded lines of one part, which are kept as booleans until they are asked for."""
    return packed_lines({name: line.double() for name, line in lines.items()}, part)
