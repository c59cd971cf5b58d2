"""Linear forms of the values at a node: dense, in windows of images, or picking one element each."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from ibpc.bounds.patches import Patches


@dataclass(frozen=True)
class Cost:
    """The cost of pulling one form back: multiply-accumulates, and numbers at the largest node."""

    work: float
    size: int


@dataclass(frozen=True)
class Units:
    """Forms that pick one element each (R, flat) of values (B, *shape) other than images, times a sign (R,)."""

    elements: Tensor
    signs: Tensor
    batch: int
    shape: torch.Size

    def dense(self) -> Tensor:
        """Return all coefficients, (R, B, *shape)."""
        count = len(self.elements)
        forms = self.signs.new_zeros(count, prod(self.shape))
        forms[torch.arange(count, device=forms.device), self.elements] = self.signs
        return forms.reshape(count, 1, *self.shape).expand(-1, self.batch, *self.shape)

    def seen(self, values: Tensor) -> Tensor:
        """Return the picked elements (R, B) of a tensor that broadcasts to (B, *shape)."""
        return values.expand(self.batch, *self.shape).reshape(self.batch, prod(self.shape))[:, self.elements].T


# Dense coefficients (R, B, *shape) at a node, or their windows, or the elements that they pick.
Form: TypeAlias = Tensor | Patches | Units


def unit_forms(elements: Tensor, signs: Tensor, sizes: torch.Size) -> Form:
    """Return the forms that pick one element each (R, flat) of values of sizes (B, *shape), times a sign (R)."""
    batch, *shape = sizes
    if len(shape) == 3:
        return Patches.units(elements, signs, batch, (shape[0], shape[1], shape[2]))
    return Units(elements, signs, batch, sizes[1:])


def dense(form: Form) -> Tensor:
    """Return all coefficients of a form, (R, B, *shape)."""
    return form if isinstance(form, Tensor) else form.dense()


def worthwhile(form: Patches) -> Form:
    """Return the form, made dense unless its windows are small."""
    return form if form.window.is_small(form.shape) else form.dense()


def zeros(form: Form) -> Tensor:
    """Return (R, B) zeros."""
    if isinstance(form, Patches):
        return form.coefficients.new_zeros(form.rows, form.batch)
    if isinstance(form, Units):
        return form.signs.new_zeros(len(form.signs), form.batch)
    return form.new_zeros(form.shape[:2])


def add(pending: dict[str, Form], name: str, form: Form) -> None:
    """Add to the form at a node: patches to patches where possible, everything else densely."""
    if name not in pending:
        pending[name] = form
        return
    other = pending[name]
    joined = other.plus(form) if isinstance(form, Patches) and isinstance(other, Patches) else None
    pending[name] = dense(other) + dense(form) if joined is None else worthwhile(joined)
