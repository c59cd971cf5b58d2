"""The cone of influence: the elements of a network's values that a few of its outputs depend on.

A detector's output for one place sees a window of each image on the way; boxes outside the windows need not be tight.
The cone only says where work pays: bounds rest on it for their tightness, never for their soundness.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.bounds.backward import Backward
from ibpc.bounds.forms import Form, dense
from ibpc.bounds.values import Step, Values, Walk

# By node, whether each element (flat) is in the cone. A node that is missing is wholly inside.
Cone: TypeAlias = Mapping[str, Tensor]
EVERYTHING: Final[Cone] = MappingProxyType({})


def read_by(rows: Tensor) -> Tensor:
    """Return which outputs (K,) at least one of the rows (R, K) reads."""
    return (rows != 0).any(0)


@torch.no_grad()
def cone_of(walk: Walk, values: Values, wanted: Tensor) -> Cone:
    """Return the cone of the outputs that are `wanted` (K,). `values` over any box will do."""
    if bool(wanted.all()):
        return EVERYTHING
    (output,) = walk.graph.outputs
    batch = len(values.box(output).lower)
    form = torch.where(wanted, torch.nan, torch.zeros_like(wanted, dtype=torch.float64)).expand(1, batch, -1)
    marking = _Marking(walk, values)
    marking.lower({output: form})
    return {name: mark for name, mark in marking.marks.items() if not bool(mark.all())}


class _Marking(Backward):
    """Marks what a form depends on: coefficients that are NaN stay NaN, and 0 times anything else stays 0."""

    def __init__(self, walk: Walk, values: Values) -> None:
        super().__init__(walk, values)
        self.marks: dict[str, Tensor] = {}

    def _through(self, step: Step, form: Form, pending: dict[str, Form]) -> Tensor | float:
        coefficients = dense(form)
        self.marks[step.node.name] = coefficients.isnan().reshape(*coefficients.shape[:2], -1).any(0).any(0)
        return super()._through(step, form, pending)
