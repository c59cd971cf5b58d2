"""Sums of exponentials along an axis: their logarithm, and the share of each exponential (softmax).

Executions are assumed to subtract m = max x before they take exponentials, which are within 8 ulps. With unit roundoff
u, the sum Σ e^{x_j − m} of K terms then has a relative error of 16 u for the exponentials, K u for the sum, and ln K u
for the rounding of x_j − m: that changes e^{x_j − m} by u (m − x_j), and Σ y_j (m − x_j) is at most Σ y_j ln(1/y_j) ≤
ln K for the shares y. Exponentials may underflow. Infinities may become NaN: no element of a sum that may contain one
is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np

from ibpc.verify.checking.linear import reduced_axes
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, unless


def _by_corners(step: Step, function: Callable[[Array, Array], Array]) -> tuple[Array, Array, int]:
    """Return the least and greatest value of a function that rises in x_i and falls in all others, and the group size.

    Before version 13 all axes from `axis` on form one group.
    """
    x, early = step.box(0), step.version < 13
    axis = int(step.attributes.get("axis", 1 if early else -1)) % max(1, len(x.shape))
    shape = (*x.shape[:axis], -1) if early else x.shape
    lower, upper = (np.moveaxis(side.reshape(shape), axis, -1) for side in (x.lower, x.upper))
    lost = ~(np.isfinite(lower) & np.isfinite(upper)).all(-1, keepdims=True)
    low, high = (np.where(lost, 0.0, side) for side in (lower, upper))
    found = unless(np.broadcast_to(lost, low.shape), Box(function(low, high), function(high, low)))
    least, most = (np.moveaxis(side, -1, axis).reshape(x.shape) for side in (found.lower, found.upper))
    return least, most, lower.shape[-1]


@rule("Softmax")
def softmax(step: Step) -> Box:
    """Bound 1 / (1 + Σ_{j≠i} e^{x_j − x_i}), which rises in x_i and falls in all others: extremes are at corners."""
    lower, upper, terms = _by_corners(step, _share)
    return Box(lower - _softmax_error(step, lower, terms), upper + _softmax_error(step, upper, terms))


def _share(own: Array, others: Array) -> Array:
    """Return 1 / (1 + Σ_{j≠i} e^{others_j − own_i}) along the last axis."""
    result = np.empty_like(own)
    for i in range(own.shape[-1]):
        rest = np.delete(others, i, axis=-1)
        result[..., i] = 1.0 / (1.0 + np.exp(rest - own[..., i, None]).sum(-1))
    return result


def _softmax_error(step: Step, y: Array, terms: int) -> Array:
    """Return the greatest error of a share.

    To first order, in u: 16 for the exponentials in numerator and denominator each, K for their sum, 2 for the
    quotient, all relative; the rounding of x_i − m changes y_i by at most ln(1/y_i) y_i ≤ 0.37, and by at most 104 y_i
    where e^{x_i − m} is not 0; in the sum it costs ln K, relative.
    """
    unit = step.machine.unit
    relative = (36.0 + terms + log(terms)) * unit + (terms + 16.0) * 2.0**-52
    return y * relative + unit * np.minimum(104.0 * y, 0.5) + (terms + 8.0) * step.machine.smallest


@rule("LogSoftmax")
def log_softmax(step: Step) -> Box:
    """Bound −ln (1 + Σ_{j≠i} e^{x_j − x_i}), which rises in x_i and falls in all others.

    x_i − m rounds, as does its difference with the logarithm of the sum, which is within 8 ulps; none of the three is
    greater than |y_i|. The relative error of the sum is an absolute one of its logarithm.
    """
    lower, upper, terms = _by_corners(step, _log_share)
    return step.near(lower, upper, ulps=10, absolute=20.0 + terms + log(terms))


def _log_share(own: Array, others: Array) -> Array:
    """Return −ln (1 + Σ_{j≠i} e^{others_j − own_i}) along the last axis."""
    result = np.empty_like(own)
    for i in range(own.shape[-1]):
        rest = np.delete(others, i, axis=-1) - own[..., i, None]
        result[..., i] = -_log_sum(np.concatenate([np.zeros((*own.shape[:-1], 1)), rest], -1))
    return result


def _log_sum(x: Array) -> Array:
    """Return ln Σ eˣ along the last axis."""
    most = x.max(-1, keepdims=True)
    return np.asarray(most[..., 0] + np.log(np.exp(x - most).sum(-1)))


@rule("ReduceLogSumExp")
def reduce_log_sum(step: Step) -> Box:
    """Bound ln Σ eˣ along axes, which rises in every element.

    The relative error of the sum is an absolute one of its logarithm, which adds 16 u of at most ln K; adding m rounds
    once more. An execution that does not subtract m has no greater error, unless an exponential overflows or all of
    them vanish.
    """
    step.require_floats()
    x, axes, keep = step.box(0), reduced_axes(step) or (), bool(step.attributes.get("keepdims", 1))
    lost = ~(np.isfinite(x.lower) & np.isfinite(x.upper)).all(axes, keepdims=True)
    ends = []
    for side in (x.lower, x.upper):
        safe = np.where(lost, 0.0, side)
        most = safe.max(axes, keepdims=True)
        ends.append(most + np.log(np.exp(safe - most).sum(axes, keepdims=True)))
    count = x.lower.size // max(1, ends[0].size)
    wide = unless(lost, step.near(ends[0], ends[1], absolute=20.0 + count + 17.0 * log(count)))
    if keep:
        return wide
    return Box(np.squeeze(wide.lower, axes), np.squeeze(wide.upper, axes))
