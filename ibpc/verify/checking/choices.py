"""Comparisons and logic on boxes (0 is false, 1 is true), and choices between values."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, unknown, unless

Truth: TypeAlias = NDArray[np.bool_]


def verdict(always: Any, possible: Any) -> Box:
    """Return the box of a truth value: 1 at both ends where it always holds, 0 where it never can."""
    return Box(np.asarray(always, np.float64), np.asarray(possible, np.float64))


def known(*boxes: Box) -> Truth:
    """Return where all ends are finite; elsewhere there may be a NaN, for which every comparison is false."""
    finite = [np.isfinite(box.lower) & np.isfinite(box.upper) for box in boxes]
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*finite)))


@rule("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def compare(step: Step) -> Box:
    """Bound a comparison of order."""
    x, y = step.box(0), step.box(1)
    if step.node.op_type.startswith("Greater"):
        x, y = y, x
    smaller = np.less_equal if step.node.op_type.endswith("OrEqual") else np.less
    sure = known(x, y)
    return verdict(sure & smaller(x.upper, y.lower), ~sure | smaller(x.lower, y.upper))


@rule("Equal")
def equal(step: Step) -> Box:
    """Bound equality: certain for two equal points, impossible for disjoint boxes."""
    x, y = step.box(0), step.box(1)
    sure = known(x, y)
    same = (x.lower == x.upper) & (y.lower == y.upper) & (x.lower == y.lower)
    return verdict(sure & same, ~sure | ((x.lower <= y.upper) & (y.lower <= x.upper)))


@rule("Not")
def negation(step: Step) -> Box:
    """Bound the negation."""
    x = step.box(0)
    return Box(1.0 - x.upper, 1.0 - x.lower)


@rule("And", "Or", "Xor")
def connective(step: Step) -> Box:
    """Bound a connective."""
    x, y = step.box(0), step.box(1)
    if step.node.op_type == "And":
        return Box(np.minimum(x.lower, y.lower), np.minimum(x.upper, y.upper))
    if step.node.op_type == "Or":
        return Box(np.maximum(x.lower, y.lower), np.maximum(x.upper, y.upper))
    sure = (x.lower == x.upper) & (y.lower == y.upper)
    return verdict(sure & (x.lower != y.lower), ~sure | (x.lower != y.lower))


@rule("Where")
def where(step: Step) -> Box:
    """Bound a choice: one of the two if the condition is known, else their hull."""
    condition, x, y = (step.box(slot) for slot in range(3))
    yes, no = condition.lower > 0, condition.upper <= 0
    lower = np.where(yes, x.lower, np.where(no, y.lower, np.minimum(x.lower, y.lower)))
    upper = np.where(yes, x.upper, np.where(no, y.upper, np.maximum(x.upper, y.upper)))
    return Box(lower, upper)


@rule("IsNaN", "IsInf")
def strange(step: Step) -> Box:
    """Bound whether an element is NaN or infinite: it is not if both ends are finite."""
    x = step.box(0)
    return verdict(np.zeros(x.shape), ~known(x))


@rule("OneHot")
def one_hot(step: Step) -> Box:
    """Bound a vector that is on at the index and off elsewhere. Negative indices count from the end."""
    x, depth, (off, on) = step.box(0), int(step.constant(1).array.ravel()[0]), step.constant(2).wide.tolist()
    axis = int(step.attributes.get("axis", -1)) % (len(x.shape) + 1)
    low, high = (np.expand_dims(np.trunc(side), axis) for side in (x.lower, x.upper))
    entry = np.arange(float(depth)).reshape(-1, *[1] * (len(x.shape) - axis))
    sure = (low == high) & ((low == entry) | (low == entry - depth))
    possible = ((low <= entry) & (entry <= high)) | ((low <= entry - depth) & (entry - depth <= high))
    lower = np.where(sure, on, np.where(possible, min(on, off), off))
    return Box(lower, np.where(sure, on, np.where(possible, max(on, off), off)))


@rule("TopK")
def top_k(step: Step) -> list[Box]:
    """Bound the k greatest or least elements in order, which are monotone in all elements, and their indices.

    Indices are bounded closely only for k = 1.
    """
    x, largest = step.box(0), bool(step.attributes.get("largest", 1))
    axis = int(step.attributes.get("axis", -1)) % len(x.shape)
    count = int(step.constant(1).array.ravel()[0]) if step.has(1) else int(step.attributes["k"])
    if count > 1 and not step.attributes.get("sorted", 1):
        step.fail("its elements come in any order")
    sign = -1.0 if largest else 1.0
    lower, upper = (sign * np.take(np.sort(sign * side, axis), range(count), axis) for side in (x.lower, x.upper))
    last = np.full(lower.shape, x.shape[axis] - 1.0)
    chosen = unless(unknown(x).any(axis, keepdims=True), Box(lower, upper))
    first = _extreme_index(step, x, axis, largest, keep=True) if count == 1 else Box(np.zeros(lower.shape), last)
    return [chosen, first]


@rule("ArgMax", "ArgMin")
def arg_extreme(step: Step) -> Box:
    """Bound the index of the extreme element."""
    x = step.box(0)
    axis = int(step.attributes.get("axis", 0)) % len(x.shape)
    keep = bool(step.attributes.get("keepdims", 1))
    return _extreme_index(step, x, axis, step.node.op_type == "ArgMax", keep)


def _extreme_index(step: Step, x: Box, axis: int, greatest: bool, keep: bool) -> Box:
    """Bound the index of the greatest or least element: from the first candidate to the last."""
    low, high = (x.lower, x.upper) if greatest else (-x.upper, -x.lower)
    possible = _possible(step, np.moveaxis(low, axis, -1), np.moveaxis(high, axis, -1))
    first, last = np.argmax(possible, -1), possible.shape[-1] - 1 - np.argmax(possible[..., ::-1], -1)
    ends = first.astype(np.float64), last.astype(np.float64)
    if keep:
        ends = np.expand_dims(ends[0], axis), np.expand_dims(ends[1], axis)
    return Box(*ends)


def _possible(step: Step, low: Array, high: Array) -> Truth:
    """Return which elements of the last axis may be the greatest, counting the first or last of equals."""
    backward = bool(step.attributes.get("select_last_index", 0))
    order = slice(None, None, -1 if backward else 1)
    low, high = low[..., order], high[..., order]
    least = np.full((*low.shape[:-1], 1), -np.inf)
    before = np.concatenate([least, np.maximum.accumulate(low, -1)[..., :-1]], -1)
    after = np.concatenate([np.maximum.accumulate(low[..., ::-1], -1)[..., ::-1][..., 1:], least], -1)
    possible = ((high > before) | (before == -np.inf)) & (high >= after)
    unknown = ~(np.isfinite(low) & np.isfinite(high)).all(-1, keepdims=True)
    return np.asarray((possible | unknown)[..., order])
