"""Bounds of every value of a network, not of its outputs alone: what auto_LiRPA calls intermediate bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from ibpc.bounds import METHODS, meant
from ibpc.bounds.base import Boxes
from ibpc.bounds.batching import parts_of, samples_at_once
from ibpc.bounds.enclosure import misfits, moved_to
from ibpc.bounds.refinement import interval_values
from ibpc.bounds.values import Values, Walk
from ibpc.errors import UsageError, raise_all
from ibpc.hints import INEXACT
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.rounding import Arithmetic, plain_products


def node_bounds(
    network: Network, boxes: Sequence[Interval], method: str, arithmetic: Arithmetic, deadline: float
) -> dict[str, Interval]:
    """Return the box (B, *shape) in binary64 of each node that depends on an input, by name, in order.

    Values that a nonlinear operator reads are bounded by the method, all others from these by their interval rules.
    From a node on that may hold NaN or ±∞ for a sample, its boxes are [−∞, ∞]. Raises UsageError for a method without
    bounds of this kind, and for boxes that do not fit.
    """
    bounded = _values_by(method)
    graph, device = network.snapshot(), network.device
    raise_all(UsageError, misfits(graph.shapes_of(graph.inputs), boxes, None))
    walk = Walk(graph, device)
    is_unknown = arithmetic is Arithmetic.FLOAT32 and INEXACT in graph.hints
    with torch.no_grad(), plain_products():
        parts = [
            _known(walk, bounded(walk, part, arithmetic, deadline), is_unknown)
            for part in parts_of(moved_to(device, boxes), samples_at_once(walk))
        ]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _values_by(method: str) -> Callable[[Walk, Boxes, Arithmetic, float], Values]:
    """Return the function that bounds all values by a method. Raises UsageError."""
    known = {name: each.affine.values for name, each in METHODS.items() if each.affine is not None}
    known["ibp"] = _by_intervals
    if method not in known:
        raise UsageError.at("method", f"found {method!r}", "a method that bounds every value", meant(method, known))
    return known[method]


def _by_intervals(walk: Walk, boxes: Boxes, arithmetic: Arithmetic, deadline: float) -> Values:
    return interval_values(walk, boxes, arithmetic)


def _known(walk: Walk, values: Values, is_unknown: bool) -> dict[str, Interval]:
    """Return the boxes of one part of a batch, without limit from the first node on that has none."""
    found: dict[str, Interval] = {}
    unknown: Tensor | None = None
    for name in walk.steps:
        box = values.known[name]
        if not isinstance(box, Interval):
            continue
        here = ~torch.stack([box.lower, box.upper]).isfinite().flatten(2).all(2).all(0) | is_unknown
        unknown = here if unknown is None else unknown | here
        mask = unknown.reshape(-1, *[1] * (box.lower.dim() - 1))
        found[name] = Interval.bounds(box.lower.masked_fill(mask, -inf), box.upper.masked_fill(mask, inf))
    return found


def _joined(boxes: Sequence[Interval]) -> Interval:
    return Interval.bounds(torch.cat([box.lower for box in boxes]), torch.cat([box.upper for box in boxes]))
