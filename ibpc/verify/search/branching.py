"""The search for one proof: along the inputs if they are few, else along values in front of nonlinear operators.

Cutting along the inputs decides networks of few inputs whatever their operators are. The least margin of the waiting
parts bounds the whole box at any time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import Final

import torch
from torch import Tensor

from ibpc.verify.goal import Goal
from ibpc.verify.proving.proof import Place
from ibpc.verify.search.box_parts import BoxParts
from ibpc.verify.search.parts import Parts, value_count
from ibpc.verify.search.product_parts import MOST_VARIABLES, ProductParts, has_products
from ibpc.verify.search.roots import Roots
from ibpc.verify.search.value_parts import ValueParts, advance_together

# Most inputs, and most values in all, of networks that are cut along their inputs.
MOST_INPUTS: Final = 20
MOST_VALUES_OF_BOXES: Final = 2**13


class Branching:
    """The search for a proof of one disjunct over one case's box; it can be interrupted and continued.

    Soundness rests on the bounds alone: the parts cover the box, and each is either refuted or waiting.
    """

    def __init__(self, roots: Roots, case: int, disjunct: int) -> None:
        chosen = roots.prop.cases[case]
        self._roots, self._case, self.item = roots, case, (case, disjunct)
        self._goal = Goal(chosen, chosen.disjuncts[disjunct], roots.prop.output_count, roots.device)
        self._parts: Parts | None = None
        self.bounded = 0
        self.proof = Place()

    @property
    def waiting(self) -> int:
        """The number of parts that are not refuted yet; 1 before the search begins."""
        return 1 if self._parts is None else self._parts.waiting

    @property
    def margin(self) -> float:
        """A lower bound of the margin over the whole box: the least one of all waiting parts."""
        return -inf if self._parts is None else self._parts.margin

    def suspects(self) -> Tensor:
        """Return a few points, flat (n, inputs), perhaps none, where a counterexample is most likely."""
        lower, _ = self._roots.ends(self._case)
        return lower.new_zeros(0, len(lower)) if self._parts is None else self._parts.suspects()

    @property
    def is_refuted(self) -> bool:
        """Whether no part is left."""
        return self._parts is not None and not self._parts.waiting

    @property
    def is_over(self) -> bool:
        """Whether continuing would change nothing: everything is refuted, or nothing is left to cut."""
        return self._parts is not None and (not self._parts.waiting or self._parts.is_stuck)

    @property
    def parts(self) -> Parts:
        """The parts that are waiting, at first one: the whole box."""
        if self._parts is None:
            self._parts = self._first_part()
        return self._parts

    @torch.no_grad()
    def run(self, deadline: float) -> None:
        """Continue until the search is over or the deadline has passed."""
        while not self.is_over and time.monotonic() < deadline:
            self.bounded += self.parts.advance(deadline)

    def _first_part(self) -> Parts:
        lower, upper = self._roots.ends(self._case)
        varying = int((lower < upper).sum())
        is_small = value_count(self._roots.walk) <= MOST_VALUES_OF_BOXES
        if 0 < varying <= MOST_VARIABLES and is_small and has_products(self._roots.walk):
            return ProductParts(self._roots, self._goal, lower, upper)
        if varying <= MOST_INPUTS and is_small:
            return BoxParts(self._roots, self._goal, self._case, self.proof)
        return ValueParts(self._roots, self._goal, self._case, self.proof)


@torch.no_grad()
def run_together(searches: Sequence[Branching], turn: float, deadline: float) -> None:
    """Continue searches over one case's box until they are over or the turn has ended, at the latest at the deadline.

    Those along values bound their parts together; the others share the time that these leave.
    """
    ends = min(deadline, time.monotonic() + turn)
    along_values = [(search, search.parts) for search in searches if isinstance(search.parts, ValueParts)]
    while time.monotonic() < ends:
        waiting = [(search, parts) for search, parts in along_values if not search.is_over]
        if not waiting:
            break
        for (search, _), count in zip(
            waiting, advance_together([parts for _, parts in waiting], deadline), strict=True
        ):
            search.bounded += count
    others = [search for search in searches if not isinstance(search.parts, ValueParts) and not search.is_over]
    for number, search in enumerate(others):
        now = time.monotonic()
        search.run(now + max(0.0, ends - now) / (len(others) - number))
