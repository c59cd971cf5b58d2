"""Comparisons and logic on boxes (0 is false, 1 is true), and what they choose."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.values import Array, Box, Step, rule

Truth: TypeAlias = NDArray[np.bool_]

_BOOLEAN = 9
_FLOAT, _DOUBLE = 1, 11
# The least and greatest number of the integer types.
_RANGES = {
    2: (0.0, 2.0**8 - 1),
    3: (-(2.0**7), 2.0**7 - 1),
    4: (0.0, 2.0**16 - 1),
    5: (-(2.0**15), 2.0**15 - 1),
    6: (-(2.0**31), 2.0**31 - 1),
    7: (-(2.0**63), 2.0**63),
}


def verdict(always: Any, possible: Any) -> Box:
    """Return the box of a truth value: 1 at both ends where it always holds, 0 where it never can."""
    return Box(np.asarray(always, np.float64), np.asarray(possible, np.float64))


def _known(*boxes: Box) -> Truth:
    """Return where all ends are finite; elsewhere NaN may take part, of which no comparison is true."""
    finite = [np.isfinite(box.lower) & np.isfinite(box.upper) for box in boxes]
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*finite)))


@rule("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def compare(step: Step) -> Box:
    """Bound a comparison of order."""
    x, y = step.box(0), step.box(1)
    if step.node.op_type.startswith("Greater"):
        x, y = y, x
    smaller = np.less_equal if step.node.op_type.endswith("OrEqual") else np.less
    known = _known(x, y)
    return verdict(known & smaller(x.upper, y.lower), ~known | smaller(x.lower, y.upper))


@rule("Equal")
def equal(step: Step) -> Box:
    """Bound equality: sure of two points that are the same, impossible of boxes that are apart."""
    x, y = step.box(0), step.box(1)
    known = _known(x, y)
    same = (x.lower == x.upper) & (y.lower == y.upper) & (x.lower == y.lower)
    return verdict(known & same, ~known | ((x.lower <= y.upper) & (y.lower <= x.upper)))


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
    known = (x.lower == x.upper) & (y.lower == y.upper)
    return verdict(known & (x.lower != y.lower), ~known | (x.lower != y.lower))


@rule("Where")
def where(step: Step) -> Box:
    """Bound a choice: one of the two where the condition is known, else both."""
    condition, x, y = (step.box(slot) for slot in range(3))
    yes, no = condition.lower > 0, condition.upper <= 0
    lower = np.where(yes, x.lower, np.where(no, y.lower, np.minimum(x.lower, y.lower)))
    upper = np.where(yes, x.upper, np.where(no, y.upper, np.maximum(x.upper, y.upper)))
    return Box(lower, upper)


@rule("Cast")
def cast(step: Step) -> Box:
    """Bound a conversion: to binary32 rounded, to integers toward zero, to booleans whether it is not 0."""
    x, to = step.box(0), int(step.attributes["to"])
    if to == _DOUBLE:
        return x
    if to == _FLOAT:  # rounding never falls; the number itself stays inside for real arithmetic
        lower, upper = (side.astype(np.float32).astype(np.float64) for side in (x.lower, x.upper))
        return Box(np.minimum(x.lower, lower), np.maximum(x.upper, upper))
    if to == _BOOLEAN:
        known = _known(x)
        zero = (x.lower <= 0) & (x.upper >= 0)
        return verdict(known & ~zero, ~known | (x.lower != 0) | (x.upper != 0))
    if to not in _RANGES:
        step.fail(f"element type {to}", "floats of 32 or 64 bits, integers or booleans")
    least, greatest = _RANGES[to]
    inside = (x.lower > least - 1.0) & (x.upper < greatest + 1.0)
    return Box(np.where(inside, np.trunc(x.lower), least), np.where(inside, np.trunc(x.upper), greatest))


@rule("ArgMax", "ArgMin")
def arg_extreme(step: Step) -> Box:
    """Bound the index of the extreme element: from the first that may be it to the last."""
    x = step.box(0)
    axis = int(step.attributes.get("axis", 0)) % len(x.shape)
    low, high = (x.lower, x.upper) if step.node.op_type == "ArgMax" else (-x.upper, -x.lower)
    possible = _possible(step, np.moveaxis(low, axis, -1), np.moveaxis(high, axis, -1))
    first, last = np.argmax(possible, -1), possible.shape[-1] - 1 - np.argmax(possible[..., ::-1], -1)
    ends = first.astype(np.float64), last.astype(np.float64)
    if step.attributes.get("keepdims", 1):
        ends = np.expand_dims(ends[0], axis), np.expand_dims(ends[1], axis)
    return Box(*ends)


def _possible(step: Step, low: Array, high: Array) -> Truth:
    """Return which elements of the last axis may be the greatest one, and the first or last of equals."""
    backward = bool(step.attributes.get("select_last_index", 0))
    order = slice(None, None, -1 if backward else 1)
    low, high = low[..., order], high[..., order]
    least = np.full((*low.shape[:-1], 1), -np.inf)
    before = np.concatenate([least, np.maximum.accumulate(low, -1)[..., :-1]], -1)
    after = np.concatenate([np.maximum.accumulate(low[..., ::-1], -1)[..., ::-1][..., 1:], least], -1)
    possible = ((high > before) | (before == -np.inf)) & (high >= after)
    unknown = ~(np.isfinite(low) & np.isfinite(high)).all(-1, keepdims=True)
    return np.asarray((possible | unknown)[..., order])
