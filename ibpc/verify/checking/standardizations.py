"""Elements less the mean of their group, over its deviation: LayerNormalization and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ibpc.verify.checking.arithmetic import Machine
from ibpc.verify.checking.deviations import least_variance, standardized
from ibpc.verify.checking.groups import (
    OWN_SHARE,
    STASHES,
    Groups,
    Missed,
    in_arithmetic,
    normalized_dimensions,
    positive_epsilon,
)
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, unless


@rule("LayerNormalization")
def layer_normalization(step: Step) -> list[Box]:
    """Bound the standardization over the dimensions from `axis` on, and mean and inverse deviation if asked for."""
    axis, scale, shift = normalized_dimensions(step)
    shape = step.value(0).shape
    found = _standardize(step, prod(shape[:axis]), scale, shift)
    if len([name for name in step.node.output if name]) < 2:
        return [found.result]
    if not bool(np.isfinite(step.box(0).lower + step.box(0).upper).all()):
        step.fail("its mean is asked for, and a number may be infinite")
    kept = (*shape[:axis], *[1] * (len(shape) - axis))
    statistics = _means(step, found.groups.x), _inverse_deviations(step, found)
    return [found.result, *(Box(box.lower.reshape(kept), box.upper.reshape(kept)) for box in statistics)]


def _means(step: Step, x: Box) -> Box:
    """Bound the mean of each group."""
    lower, upper, magnitude = (side.mean(-1) for side in (x.lower, x.upper, x.magnitude))
    error = step.machine.sum_error(x.shape[-1] + 2, magnitude, before=magnitude * x.shape[-1])
    return Box(lower - error, upper + error)


def _inverse_deviations(step: Step, found: _Standardized) -> Box:
    """Bound 1 / √(variance + ε) of each group; the lower bound is from the centers' deviations and the radii."""
    x, missed = found.groups.x, found.missed
    doubled = x.lower + x.upper
    apart = 0.5 * np.abs(doubled - doubled.mean(-1, keepdims=True)) + 0.5 * (x.upper - x.lower)
    greatest = np.square(apart).mean(-1, keepdims=True) * (1.0 + OWN_SHARE) + positive_epsilon(step)
    least = (1.0 - np.minimum(missed.relative, 1.0)) / np.sqrt(greatest)
    return unless(~missed.known.all(-1, keepdims=True), Box(least[:, :1], found.steepest[:, :1]))


@rule("InstanceNormalization", "GroupNormalization")
def group_normalization(step: Step) -> Box:
    """Bound the standardization over each channel, or over groups of channels, with all their positions.

    GroupNormalization has one scale and shift per group before version 21, one per channel since.
    """
    shape = step.value(0).shape
    count = int(step.attributes.get("num_groups", 0)) or shape[1]
    if shape[1] % count or step.attributes.get("stash_type", 1) not in STASHES:
        step.fail(f"{count} groups of {shape[1]} channels, or a stash_type that is no float of 32 bits")
    factors = []
    for slot in (1, 2):
        values = step.constant(slot).wide
        if step.node.op_type == "GroupNormalization" and step.version < 21:
            values = np.repeat(values, shape[1] // count)
        factors.append(values.reshape(-1, *[1] * (len(shape) - 2)))
    return _standardize(step, shape[0] * count, factors[0], factors[1]).result


# ── what the rules share ────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, eq=False)
class _Standardized:
    """Standardized elements, their groups, and the error of an execution in them.

    `steepest` is the greatest inverse deviation that an execution can have, (groups, 1).
    """

    result: Box
    groups: Groups
    missed: Missed
    steepest: Array


def _standardize(step: Step, count: int, scale: Array, shift: Array) -> _Standardized:
    """Bound (x − mean) / √(variance + ε) · scale + shift over `count` groups of elements, in the file's order."""
    step.require_floats()
    epsilon, groups = positive_epsilon(step), Groups.of(step, count, scale, shift)
    missed, steepest = _missed(step.machine, groups.x, epsilon, groups.scale)
    result = in_arithmetic(step, groups, standardized(groups.x, epsilon), missed)
    return _Standardized(result, groups, missed, steepest)


def _missed(machine: Machine, x: Box, epsilon: float, scale: Array) -> tuple[Missed, Array]:
    """Return the error of a standardized element, and the greatest inverse deviation.

    With m₁ and m₂ the greatest means of |x| and x², the error of the mean is γ m₁, γ = γₙ₊₄. That of the variance is
    γ (m₂ + 2 m₁²) + γ² m₁² when computed as the mean of squares minus the squared mean, and less as the mean of squared
    deviations. Relative to variance + ε it is κ, which changes the inverse root by a factor 1 / √(1 − κ), besides a
    root and a quotient within 8 ulps each. x − mean, or x and the mean scaled separately, round a few times relative to
    |x| + m₁.
    """
    size, unit, smallest = x.shape[-1], machine.unit, machine.smallest
    if (size + 4) * unit >= 0.25:
        one = np.ones(x.shape)
        return Missed(one, one, np.zeros(x.shape, bool)), one
    gamma = (size + 4) * unit / (1.0 - (size + 4) * unit)
    first, second = (side.mean(-1, keepdims=True) for side in (x.magnitude, np.square(x.magnitude)))
    least = least_variance(x) + epsilon
    lost = gamma * (second + (2.0 + gamma) * first * first) + 4.0 * (size + 16) * smallest
    lost = lost / least + 4.0 * unit
    growth = 1.0 / np.sqrt(1.0 - np.minimum(lost, 0.5))
    relative = growth * (1.0 + 64.0 * unit) - 1.0 + OWN_SHARE
    steepest = (1.0 + relative) / np.sqrt(least)
    absolute = (gamma * first + 4.0 * unit * (x.magnitude + first)) * steepest
    absolute = absolute + 16.0 * smallest * (1.0 + steepest + x.magnitude + first)
    greatest = 8.0 * (1.0 + steepest) * (1.0 + np.abs(scale)) * (1.0 + x.magnitude + first)
    known = (lost < 0.5) & (4.0 * size * second < machine.largest) & (greatest < machine.largest)
    return Missed(relative, absolute, known), steepest
