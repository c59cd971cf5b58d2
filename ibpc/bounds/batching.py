"""Shared by bounding methods: how many samples and forms are bounded at once, and the intersection of bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.base import Bounder
from ibpc.bounds.values import Walk
from ibpc.interval import Interval, boxes_of, ends_of

# Most coefficients of one backward pass at a node, 8 bytes each; about five such tensors are alive at a time. On a CPU
# they should stay in its caches.
MOST_COEFFICIENTS: Final = 2**23
MOST_COEFFICIENTS_ON_A_CPU: Final = 2**20
# Most numbers at a node of all samples that are bounded together.
MOST_VALUES: Final = 2**11


def in_parts(bound: Bounder, size: int) -> Bounder:
    """Return the bounder that takes `size` samples of a batch at a time: each has its own unstable neurons."""

    def parted(*boxes: Interval) -> Interval:
        found = [bound(*part) for part in parts_of(boxes, size)]
        return Interval.bounds(torch.cat([box.lower for box in found]), torch.cat([box.upper for box in found]))

    return parted


def parts_of(boxes: Sequence[Interval], size: int) -> Iterator[tuple[Interval, ...]]:
    """Yield the boxes (B, …) of all inputs, `size` samples at a time."""
    for ends in zip(*(torch.split(end, size) for end in ends_of(boxes)), strict=True):
        yield boxes_of(ends)


def samples_at_once(walk: Walk) -> int:
    """Return how many samples share a backward pass: few where the network is large."""
    return max(1, MOST_VALUES // walk.largest)


def rows_at_once(walk: Walk, batch: int) -> int:
    """Return how many forms are pulled back together for a batch of boxes."""
    return max(1, coefficients_at_once(walk) // max(1, walk.largest * batch))


def coefficients_at_once(walk: Walk) -> int:
    """Return how many coefficients at a node all forms pulled back together may have."""
    return MOST_COEFFICIENTS_ON_A_CPU if walk.device.type == "cpu" else MOST_COEFFICIENTS


def intersected(first: Interval, lower: Tensor, upper: Tensor) -> Interval:
    """Return the intersection of bounds in binary64; NaN counts as no bound.

    In real arithmetic two bounds may miss each other by their own rounding: then the result spans the gap.
    """
    low = torch.where(first.lower.isnan(), -torch.inf, first.lower.double())
    high = torch.where(first.upper.isnan(), torch.inf, first.upper.double())
    low, high = torch.where(lower > low, lower, low), torch.where(upper < high, upper, high)
    return Interval.bounds(torch.minimum(low, high), torch.maximum(low, high))
