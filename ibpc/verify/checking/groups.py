"""Elements in groups that are normalized separately, and the error of an execution in a normalized element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array, Box, unless

# The relative error of the checker's own formulas: some tens of operations beside the sums.
OWN_SHARE: Final = 2.0**-46
# Element types that a normalization may compute in: floats of 32 and 64 bits. (ONNX: stash_type)
STASHES: Final = (1, 11)


@dataclass(frozen=True, eq=False)
class Groups:
    """Elements by group, with the scale and shift that are applied at the end, all (groups, size).

    Groups that are `lost` have an element with an infinite end; all their ends are 0 here.
    """

    x: Box
    scale: Array
    shift: Array
    lost: NDArray[np.bool_]

    @classmethod
    def of(cls, step: Step, count: int, scale: Array, shift: Array) -> Groups:
        """Return the operand's elements in `count` groups; scale and shift broadcast over the operand."""
        x, shape = step.box(0), (count, -1)
        if not x.lower.size:
            step.fail("its operand is empty")
        box, lost = finite(Box(x.lower.reshape(shape), x.upper.reshape(shape)))
        wide = [np.broadcast_to(each, x.shape).reshape(shape) for each in (scale, shift)]
        return cls(box, wide[0], wide[1], lost)


def finite(x: Box) -> tuple[Box, NDArray[np.bool_]]:
    """Return the box with groups set to 0 that have an element with an infinite end, and where these are."""
    lost = ~(np.isfinite(x.lower) & np.isfinite(x.upper)).all(-1, keepdims=True)
    return Box(np.where(lost, 0.0, x.lower), np.where(lost, 0.0, x.upper)), np.broadcast_to(lost, x.shape)


@dataclass(frozen=True, eq=False)
class Missed:
    """The error of an execution in a normalized element: relative and absolute part, and where it is known."""

    relative: Array
    absolute: Array
    known: NDArray[np.bool_]


def in_arithmetic(step: Step, groups: Groups, value: Box, missed: Missed) -> Box:
    """Return the scaled and shifted values, in the operand's shape, widened by the error of an execution."""
    unit, smallest, scale = step.machine.unit, step.machine.smallest, groups.scale
    low = value.lower - np.abs(value.lower) * missed.relative - missed.absolute
    high = value.upper + np.abs(value.upper) * missed.relative + missed.absolute
    lower, upper = np.minimum(scale * low, scale * high), np.maximum(scale * low, scale * high)
    flushed = 16.0 * smallest * (2.0 + np.maximum(np.abs(low), np.abs(high)) + np.abs(scale))
    slack = [(16.0 * unit + OWN_SHARE) * (np.abs(end) + np.abs(groups.shift)) + flushed for end in (lower, upper)]
    ends = Box(lower + groups.shift - slack[0], upper + groups.shift + slack[1])
    found, shape = unless(~missed.known | groups.lost, ends), step.value(0).shape
    return Box(found.lower.reshape(shape), found.upper.reshape(shape))


def positive_epsilon(step: Step) -> float:
    """Return the node's epsilon. Fails if an execution may flush it to zero."""
    epsilon = float(step.attributes.get("epsilon", np.float32(1e-5)))
    if not epsilon > step.machine.smallest:
        step.fail(f"epsilon {epsilon:g}", "a positive number")
    return epsilon


def normalized_dimensions(step: Step) -> tuple[int, Array, Array]:
    """Return the first of the dimensions that are normalized together, the scale and the shift."""
    rank = len(step.value(0).shape)
    axis = int(step.attributes.get("axis", -1))
    if step.attributes.get("stash_type", 1) not in STASHES:
        step.fail(f"it computes in element type {step.attributes['stash_type']}", "floats of 32 or 64 bits")
    scale, shift = (step.constant(slot).wide if step.has(slot) else np.asarray(float(slot == 1)) for slot in (1, 2))
    return axis % rank, scale, shift
