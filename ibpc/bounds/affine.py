"""Affine bounds: linear forms of the inputs that lie below and above rows of the outputs all over a box.

A backward pass pulls a row back to a form of the inputs (`ibpc.bounds.backward`). `crown` and its kin report the least
value of that form over the box; here the form itself is returned, with its constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from ibpc.bounds import METHODS, meant
from ibpc.bounds.backward import Backward
from ibpc.bounds.base import AffineRules, Boxes
from ibpc.bounds.batching import parts_of, rows_at_once, samples_at_once
from ibpc.bounds.coefficients import dotted
from ibpc.bounds.definedness import Definedness
from ibpc.bounds.enclosure import boxes_given, distinct, misfits, moved_to, wanted_rows
from ibpc.bounds.values import Walk, walk_of
from ibpc.errors import UsageError, raise_all
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.rounding import Arithmetic, plain_products


@dataclass(frozen=True, eq=False)
class AffineForms:
    """Forms Σ slope · input + offset in binary64: slopes (B, R, *shape), one tensor for each input; offset (B, R)."""

    slopes: tuple[Tensor, ...]
    offset: Tensor

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the values (B, R) of the forms at points (B, *shape), one tensor for each input."""
        values = self.offset
        for slope, x in zip(self.slopes, inputs, strict=True):
            values = values + torch.einsum("brn,bn->br", slope.flatten(2), x.to(slope).flatten(1))
        return values


@dataclass(frozen=True, eq=False)
class AffineBounds:
    """Forms with lower(x) ≤ rows · outputs(x) ≤ upper(x) for all x in the boxes; offsets are ∓∞ where unknown."""

    lower: AffineForms
    upper: AffineForms


def affine_bounds(
    network: Network,
    given: Interval | Tensor | Sequence[Interval | Tensor],
    rows: Tensor | None,
    method: str,
    arithmetic: Arithmetic,
    deadline: float,
) -> AffineBounds:
    """Return forms below and above `rows` (R, K) or (B, R, K) of the outputs over boxes (B, …), one for each input.

    Raises UsageError for a method without affine bounds, and for boxes and rows that do not fit.
    """
    rules, boxes = _rules_of(method), boxes_given(given)
    graph, device = network.snapshot(), network.device
    matrix, places = distinct(wanted_rows(rows, sum(prod(shape[1:]) for shape in graph.shapes_of(graph.outputs))))
    raise_all(UsageError, misfits(graph.shapes_of(graph.inputs), boxes, places))
    walk, moved = walk_of(graph, device), moved_to(device, boxes)
    with torch.no_grad(), plain_products():
        bounded = partial(_bounded, walk, matrix.to(device, torch.float64), rules, arithmetic, deadline)
        parts = [bounded(part) for part in parts_of(moved, samples_at_once(walk))]
        doubts = Definedness(Walk(graph, device), arithmetic).doubts(moved, deadline)
    known = torch.tensor([doubt is None for doubt in doubts], device=device)
    lower, upper = (_joined([part[side] for part in parts], known, places) for side in (0, 1))
    return AffineBounds(lower, _negated(upper))


def _rules_of(method: str) -> AffineRules:
    known = {name: each.affine for name, each in METHODS.items() if each.affine is not None}
    if method not in known:
        raise UsageError.at("method", f"found {method!r}", "a method that pulls forms back", meant(method, known))
    return known[method]


# ── one part of a batch ─────────────────────────────────────────────────────────────────────────────────────────
def _bounded(
    walk: Walk, matrix: Tensor, rules: AffineRules, arithmetic: Arithmetic, deadline: float, boxes: Boxes
) -> tuple[AffineForms, AffineForms]:
    """Return forms below the rows, and below minus the rows, over boxes of one part of a batch."""
    values, batch = rules.values(walk, boxes, arithmetic, deadline), len(boxes[0].lower)
    found: list[list[AffineForms]] = [[], []]
    for part in torch.split(matrix, rows_at_once(walk, batch)):
        form = part.unsqueeze(1).expand(-1, batch, -1)
        for side, signed in zip(found, (form, -form), strict=True):
            lower, forms = rules.pulled(walk, values, signed, deadline)
            side.append(_form(lower, [forms[name] for name in walk.inputs], [values.box(name) for name in walk.inputs]))
    below, above = (
        AffineForms(
            tuple(torch.cat(slopes, 1) for slopes in zip(*(form.slopes for form in side), strict=True)),
            torch.cat([form.offset for form in side], 1),
        )
        for side in found
    )
    return below, above


def _form(lower: Tensor, slopes: Sequence[Tensor], boxes: Sequence[Interval]) -> AffineForms:
    """Return the forms with slopes (R, B, *shape) whose least values over the boxes are `lower` (R, B).

    Where a lower bound is not finite, the form is the constant −∞.
    """
    is_finite = lower.isfinite()
    kept = [torch.where(is_finite.reshape(*lower.shape, *[1] * (slope.dim() - 2)), slope, 0.0) for slope in slopes]
    offset = torch.where(is_finite, lower, -torch.inf)
    for slope, box in zip(kept, boxes, strict=True):
        center, radius = 0.5 * box.lower + 0.5 * box.upper, 0.5 * box.upper - 0.5 * box.lower
        size = dotted(slope.abs(), center.abs() + radius)
        offset = offset - (dotted(slope, center) - dotted(slope.abs(), radius)) - Backward.slack * (size + offset.abs())
    offset = torch.where(is_finite, offset, -torch.inf)
    return AffineForms(tuple(slope.transpose(0, 1) for slope in kept), offset.T)


def _joined(parts: Sequence[AffineForms], known: Tensor, places: Tensor | None) -> AffineForms:
    """Return the forms of all samples, −∞ where not `known` (B,), with each sample's rows taken from its `places`."""
    offset = torch.cat([part.offset for part in parts]).masked_fill(~known[:, None], -torch.inf)
    slopes = [torch.cat(each) for each in zip(*(part.slopes for part in parts), strict=True)]
    slopes = [torch.where(known.reshape(-1, *[1] * (slope.dim() - 1)), slope, 0.0) for slope in slopes]
    if places is None:
        return AffineForms(tuple(slopes), offset)
    samples, places = torch.arange(len(offset), device=offset.device)[:, None], places.to(offset.device)
    return AffineForms(tuple(slope[samples, places] for slope in slopes), offset[samples, places])


def _negated(forms: AffineForms) -> AffineForms:
    return AffineForms(tuple(-slope for slope in forms.slopes), -forms.offset)
