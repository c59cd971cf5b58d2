"""Products, quotients and powers, and functions that rise and fall."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.linear import scaled
from ibpc.verify.checking.values import Array, Box, Step, rule

Truth: TypeAlias = NDArray[np.bool_]


def corners(function: np.ufunc, x: Box, y: Box) -> tuple[Array, Array]:
    """Return the least and the greatest of the four corners; NaN at one makes both NaN."""
    values = [function(a, b) for a in (x.lower, x.upper) for b in (y.lower, y.upper)]
    return np.minimum.reduce(values), np.maximum.reduce(values)


@rule("Mul")
def multiply(step: Step) -> Box:
    """Bound a product: an affine function where a factor is constant, a square where both are the same value."""
    for slot, other in ((0, 1), (1, 0)):
        factor = step.value(other)
        if not isinstance(factor, Box):
            return scaled(step, slot, factor.wide, np.zeros(()), roundings=1)
    if step.names[0] == step.names[1]:
        return _raised(step, step.box(0), np.square, np.asarray(True), ulps=1)
    return step.near(*corners(np.multiply, step.box(0), step.box(1)), ulps=1)


@rule("Div")
def divide(step: Step) -> Box:
    """Bound a quotient; a divisor that may be 0 bounds nothing. By a constant it is an affine function."""
    step.require_floats()
    x, y = step.box(0), step.box(1)
    safe = (y.lower > step.machine.smallest) | (y.upper < -step.machine.smallest)
    if not isinstance(step.value(1), Box) and bool(safe.all()):
        return scaled(step, 0, 1.0 / y.lower, np.zeros(()), roundings=2)
    one = Box(np.where(safe, y.lower, 1.0), np.where(safe, y.upper, 1.0))
    bounds = step.near(*corners(np.divide, x, one), ulps=1)
    return Box(np.where(safe, bounds.lower, -np.inf), np.where(safe, bounds.upper, np.inf))


@rule("Reciprocal")
def reciprocal(step: Step) -> Box:
    """Bound 1 / x; an x that may be 0 bounds nothing."""
    x = step.box(0)
    safe = (x.lower > step.machine.smallest) | (x.upper < -step.machine.smallest)
    bounds = step.near(1.0 / x.upper, 1.0 / x.lower)
    return Box(np.where(safe, bounds.lower, -np.inf), np.where(safe, bounds.upper, np.inf))


# ── powers ──────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Pow")
def power(step: Step) -> Box:
    """Bound x to constant positive powers: whole ones, or others of an x that is never negative."""
    exponent = step.constant(1).wide
    if not bool((exponent > 0).all()):
        step.fail("its exponent", "positive numbers")
    step.require_floats()
    return _raised(step, step.box(0), lambda x: np.power(x, exponent), exponent % 2 == 0, ulps=8)


def _raised(step: Step, x: Box, function: Callable[[Array], Array], even: Truth, ulps: int) -> Box:
    """Bound a function that rises from 0, where it is even; elsewhere it never falls."""
    least, most = (np.where(even, *ends) for ends in ((_least_modulus(x), x.lower), (x.magnitude, x.upper)))
    return step.near(function(least), function(most), ulps=ulps)


def _least_modulus(x: Box) -> Array:
    return np.maximum(np.maximum(x.lower, -x.upper), 0.0)


@rule("Abs")
def modulus(step: Step) -> Box:
    """Bound |x|, exactly."""
    x = step.box(0)
    return Box(_least_modulus(x), x.magnitude)


# ── waves ───────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Sin", "Cos")
def wave(step: Step) -> Box:
    """Bound a sine or cosine: 1 and −1 where a crest or trough may lie between the ends, else the values there.

    Assumed besides 8 ulps is an absolute error of 8 u, for zeros that are no binary32 numbers.
    """
    x = step.box(0)
    function, crest = (np.sin, pi / 2) if step.node.op_type == "Sin" else (np.cos, 0.0)
    ends = function(x.lower), function(x.upper)
    lower = np.where(_meets(x, crest + pi), -1.0, np.minimum(*ends))
    upper = np.where(_meets(x, crest), 1.0, np.maximum(*ends))
    bounds = step.near(lower, upper, absolute=8.0)
    known = x.magnitude < 2.0**20
    return Box(np.where(known, bounds.lower, -1.0 - 2.0**-20), np.where(known, bounds.upper, 1.0 + 2.0**-20))


def _meets(x: Box, place: float) -> Truth:
    """Return whether place + 2πk, for any whole k, may lie in the box: widened by more than 2π is off by."""
    slack = 2.0**-40 * (1.0 + x.magnitude)
    first = np.ceil((x.lower - slack - place) / (2 * pi))
    found = first * (2 * pi) + place <= x.upper + slack
    return np.asarray(found)


# ── softmax ─────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Softmax")
def softmax(step: Step) -> Box:
    """Bound 1 / (1 + Σ_{j≠i} e^{x_j − x_i}), which rises in x_i and falls in all others: attained at two corners.

    Before version 13 all axes from `axis` on are one.
    """
    x, early = step.box(0), step.version < 13
    axis = int(step.attributes.get("axis", 1 if early else -1)) % len(x.shape)
    shape = (*x.shape[:axis], -1) if early else x.shape
    lower, upper = (np.moveaxis(side.reshape(shape), axis, -1) for side in (x.lower, x.upper))
    ends = [np.moveaxis(side, -1, axis).reshape(x.shape) for side in (_share(lower, upper), _share(upper, lower))]
    least, most = (_softmax_error(step, side, lower.shape[-1]) for side in ends)
    return Box(ends[0] - least, ends[1] + most)


def _share(own: Array, others: Array) -> Array:
    """Return 1 / (1 + Σ_{j≠i} e^{others_j − own_i}) along the last axis."""
    result = np.empty_like(own)
    for i in range(own.shape[-1]):
        rest = np.delete(others, i, axis=-1)
        result[..., i] = 1.0 / (1.0 + np.exp(rest - own[..., i, None]).sum(-1))
    return result


def _softmax_error(step: Step, y: Array, terms: int) -> Array:
    """Return how far an execution may be off that subtracts m = max x and takes exponentials within 8 ulps.

    To first order, in u: 16 for each of the exponentials above and below, K for their sum, 2 for the quotient, all
    relative; x_i − m rounds, which changes y_i by at most ln(1/y_i) y_i ≤ 0.37, and by 104 y_i where e^{x_i − m} is
    not 0; in the sum it changes Σ y_j ln(1/y_j) ≤ ln K, relative. Exponentials may underflow.
    """
    unit = step.machine.unit
    relative = (36.0 + terms + log(terms)) * unit + (terms + 16.0) * 2.0**-52
    return y * relative + unit * np.minimum(104.0 * y, 0.5) + (terms + 8.0) * step.machine.smallest
