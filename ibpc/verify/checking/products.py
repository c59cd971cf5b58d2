"""Products, quotients and powers, and functions that rise and fall."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.linear import scaled
from ibpc.verify.checking.rules import Step, careful, rule
from ibpc.verify.checking.values import Array, Box, unknown, unless

Truth: TypeAlias = NDArray[np.bool_]


def corners(function: np.ufunc, x: Box, y: Box) -> tuple[Array, Array]:
    """Return the least and the greatest of the four corners; NaN at one makes both NaN."""
    values = [function(a, b) for a in (x.lower, x.upper) for b in (y.lower, y.upper)]
    return np.minimum.reduce(values), np.maximum.reduce(values)


@rule("Mul")
def multiply(step: Step) -> Box:
    """Bound a product: an affine function if a factor is constant, a square if both are the same value."""
    for slot, other in ((0, 1), (1, 0)):
        factor = step.value(other)
        if not isinstance(factor, Box):
            return scaled(step, slot, factor.wide, np.zeros(()), roundings=1)
    if step.names[0] == step.names[1]:
        x = step.box(0)
        return unless(unknown(x), _raised(step, x, np.square, np.asarray(True), ulps=1))
    return step.near(*corners(np.multiply, step.box(0), step.box(1)), ulps=1)


@rule("Div")
def divide(step: Step) -> Box:
    """Bound a quotient; nothing is known if the divisor may be 0. With a constant divisor it is an affine function."""
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
    """Bound 1 / x; nothing is known if x may be 0."""
    x = step.box(0)
    safe = (x.lower > step.machine.smallest) | (x.upper < -step.machine.smallest)
    bounds = step.near(1.0 / x.upper, 1.0 / x.lower)
    return Box(np.where(safe, bounds.lower, -np.inf), np.where(safe, bounds.upper, np.inf))


# ── powers ──────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Pow")
@careful
def power(step: Step) -> Box:
    """Bound x to constant positive powers: integers, or any for x ≥ 0."""
    exponent = step.constant(1).wide
    if not bool((exponent > 0).all()):
        step.fail("its exponent", "positive numbers")
    step.require_floats()
    return _raised(step, step.box(0), lambda x: np.power(x, exponent), exponent % 2 == 0, ulps=8)


def _raised(step: Step, x: Box, function: Callable[[Array], Array], even: Truth, ulps: int) -> Box:
    """Bound a function that is even and rises in |x| where `even`, and never falls elsewhere."""
    least, most = (np.where(even, *ends) for ends in ((_least_modulus(x), x.lower), (x.magnitude, x.upper)))
    return step.near(function(least), function(most), ulps=ulps)


def _least_modulus(x: Box) -> Array:
    return np.maximum(np.maximum(x.lower, -x.upper), 0.0)


@rule("Abs")
@careful
def modulus(step: Step) -> Box:
    """Bound |x|, exactly."""
    x = step.box(0)
    return Box(_least_modulus(x), x.magnitude)


# ── waves ───────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Sin", "Cos")
def wave(step: Step) -> Box:
    """Bound a sine or cosine: 1 and −1 where a crest or trough may lie between the ends, else the values there.

    Executions are assumed to have an absolute error of 8 u besides 8 ulps, since zeros are not binary32 numbers.
    """
    x = step.box(0)
    function, crest = (np.sin, pi / 2) if step.node.op_type == "Sin" else (np.cos, 0.0)
    ends = function(x.lower), function(x.upper)
    lower = np.where(_meets(x, crest + pi), -1.0, np.minimum(*ends))
    upper = np.where(_meets(x, crest), 1.0, np.maximum(*ends))
    bounds = step.near(lower, upper, absolute=8.0)
    known = x.magnitude < 2.0**20
    found = Box(np.where(known, bounds.lower, -1.0 - 2.0**-20), np.where(known, bounds.upper, 1.0 + 2.0**-20))
    return unless(~np.isfinite(x.magnitude), found)  # at infinity they are NaN


def _meets(x: Box, place: float) -> Truth:
    """Return whether place + 2πk, for any integer k, may lie in the box, widened by more than the error of 2πk."""
    slack = 2.0**-40 * (1.0 + x.magnitude)
    first = np.ceil((x.lower - slack - place) / (2 * pi))
    found = first * (2 * pi) + place <= x.upper + slack
    return np.asarray(found)
