"""Sums of moduli and powers, their roots and logarithms, and products: along axes, and over windows.

No term of such a sum is negative, so its relative error is at most γₙ in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TypeAlias

import numpy as np

from ibpc.verify.checking.arithmetic import OWN_UNIT
from ibpc.verify.checking.linear import reduced_axes
from ibpc.verify.checking.products import corners
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, unknown, unless
from ibpc.verify.checking.windows import Windows

Gathered: TypeAlias = Callable[[Array], Array]


def least_modulus(x: Box) -> Array:
    """Return the least modulus in a box."""
    return np.maximum(np.maximum(x.lower, -x.upper), 0.0)


def _along_axes(step: Step) -> tuple[Gathered, Callable[[Array], Array]]:
    """Return two functions: one gathers the elements of each reduction on the last axis, one reshapes the results.

    If nothing is reduced, each element is reduced by itself.
    """
    shape, axes = step.value(0).shape, reduced_axes(step) or ()
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    reduced = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    result = reduced if step.attributes.get("keepdims", 1) else tuple(shape[axis] for axis in kept)
    count = prod(shape[axis] for axis in axes)

    def gathered(x: Array) -> Array:
        return x.transpose(*kept, *axes).reshape(*(shape[axis] for axis in kept), count)

    return gathered, lambda found: found.reshape(result)


def _summed(step: Step, terms: Box, roundings: int) -> Box:
    """Bound the sums along the last axis of nonnegative terms, each of which has had `roundings` roundings."""
    count = terms.shape[-1] + roundings
    least, most = terms.lower.sum(-1), terms.upper.sum(-1)
    lower = np.maximum(least - step.machine.sum_error(count, least), 0.0)
    return Box(lower, most + step.machine.sum_error(count, most))


def _powers(x: Box, power: float) -> Box:
    """Return the box of |x|ᵖ, without rounding."""
    least, most = least_modulus(x), x.magnitude
    if power == 1:
        return Box(least, most)
    return Box(np.square(least), np.square(most)) if power == 2 else Box(least**power, most**power)


def _norm(step: Step, x: Box, power: float) -> Box:
    """Bound (Σ |x|ᵖ)^(1/p) along the last axis, p ≥ 1.

    Powers other than squares are within 8 ulps, which is 16 roundings; the rounding of the exponent 1/p changes a root
    by u times its logarithm, at most 89 / p.
    """
    lost = unknown(x).any(-1)
    if power == 1:
        return unless(lost, _summed(step, _powers(x, 1), 0))
    total = _summed(step, _powers(x, power), 2 if power == 2 else 18)
    if power == 2:
        return unless(lost, step.near(np.sqrt(total.lower), np.sqrt(total.upper)))
    return unless(lost, step.near(total.lower ** (1.0 / power), total.upper ** (1.0 / power), ulps=40))


# ── along axes ──────────────────────────────────────────────────────────────────────────────────────────────────
@rule("ReduceL1", "ReduceL2")
def reduce_norm(step: Step) -> Box:
    """Bound a sum of moduli, or the root of a sum of squares."""
    power = 1 if step.node.op_type == "ReduceL1" else 2
    if power == 2:
        step.require_floats()
    gathered, shaped = _along_axes(step)
    x = step.box(0)
    found = _norm(step, Box(gathered(x.lower), gathered(x.upper)), power)
    return Box(shaped(found.lower), shaped(found.upper))


@rule("ReduceSumSquare")
def reduce_squares(step: Step) -> Box:
    """Bound a sum of squares."""
    gathered, shaped = _along_axes(step)
    x = Box(gathered(step.box(0).lower), gathered(step.box(0).upper))
    found = unless(unknown(x).any(-1), _summed(step, _powers(x, 2), 2))
    return Box(shaped(found.lower), shaped(found.upper))


@rule("ReduceLogSum")
def reduce_logarithm(step: Step) -> Box:
    """Bound ln Σ x; NaN where the sum may be negative bounds nothing."""
    step.require_floats()
    gathered, shaped = _along_axes(step)
    x = step.box(0)
    lower, upper, moduli = (gathered(side).sum(-1) for side in (x.lower, x.upper, x.magnitude))
    error = step.machine.sum_error(gathered(x.lower).shape[-1], moduli)
    found = step.near(np.log(lower - error), np.log(upper + error), absolute=1.0)
    return Box(shaped(found.lower), shaped(found.upper))


@rule("ReduceProd")
def reduce_product(step: Step) -> Box:
    """Bound a product, one factor after the other.

    In any order it rounds n times. The loss of a factor or partial product by underflow is multiplied by the other
    factors, at most by the product of all max(|x|, 1); where that overflows, nothing is known.
    """
    gathered, shaped = _along_axes(step)
    x = Box(gathered(step.box(0).lower), gathered(step.box(0).upper))
    count, size = x.shape[-1], np.maximum(x.magnitude, 1.0).prod(-1)
    found = Box(np.ones(x.shape[:-1]), np.ones(x.shape[:-1]))
    for place in range(count):
        found = Box(*corners(np.multiply, found, Box(x.lower[..., place], x.upper[..., place])))
    relative = (count + 1.0) * (2.0 * step.machine.unit + 4.0 * OWN_UNIT)
    lost = 4.0 * (count + 1.0) * step.machine.smallest * size + 2.0**-1000
    safe = (relative < 0.25) & (size * (1.0 + 4.0 * relative) < step.machine.largest)
    lower = np.where(safe, found.lower - np.abs(found.lower) * relative - lost, -np.inf)
    return Box(shaped(lower), shaped(np.where(safe, found.upper + np.abs(found.upper) * relative + lost, np.inf)))


# ── over windows ────────────────────────────────────────────────────────────────────────────────────────────────
@rule("LpPool", "GlobalLpPool")
def norm_pool(step: Step) -> Box:
    """Bound the p-norm of each window, or of each channel. Padding is 0."""
    step.require_floats()
    x, power = step.box(0), float(step.attributes.get("p", 2))
    if not power >= 1:
        step.fail(f"its exponent {power:g}", "1 or more")
    if step.node.op_type == "GlobalLpPool":
        flat = (*x.shape[:2], prod(x.shape[2:]))
        found = _norm(step, Box(x.lower.reshape(flat), x.upper.reshape(flat)), power)
        shape = (*x.shape[:2], *[1] * (len(x.shape) - 2))
        return Box(found.lower.reshape(shape), found.upper.reshape(shape))
    windows = Windows.of(step, step.attributes["kernel_shape"], x.shape[2:])
    lower, upper = (windows.views(windows.padded(side, 0.0)) for side in (x.lower, x.upper))
    lead = lower.shape[: len(x.shape)]
    return _norm(step, Box(lower.reshape(*lead, -1), upper.reshape(*lead, -1)), power)
