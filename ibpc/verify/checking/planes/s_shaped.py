"""Planes of functions that rise in the shape of an S: Sigmoid, Tanh, Erf, Softsign."""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.gates import logistic
from ibpc.verify.checking.planes.base import BISECTIONS, Function, Sketch, chord, planes, unary
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array, Box


def s_shaped(step: Step, function: Function, derivative: Function) -> Sketch:
    """Return planes of an increasing f, convex below 0 and concave above, f(x) + f(−x) constant.

    Above: the chord over a box below 0, the tangent at the middle over one above 0; else the tangent at the first
    d ≥ 0 that passes above (l, f(l)), or the chord where none in the box does: then f rises faster than it from 0 to
    u. Over [0, u] f − line is greatest at d or u, over [l, 0], where it is convex, at an end. Below: mirrored.
    """
    x = step.box(0)
    above, touch = _upper_slope(x, function, derivative)
    below, mirrored = _upper_slope(Box(-x.upper, -x.lower), function, derivative)
    lower = np.minimum.reduce([function(p) - below * p for p in (x.lower, x.upper, -mirrored)])
    upper = np.maximum.reduce([function(p) - above * p for p in (x.lower, x.upper, touch)])
    return unary(x, (below, above), (lower, upper))


def _upper_slope(x: Box, function: Function, derivative: Function) -> tuple[Array, Array]:
    """Return the slope of the upper plane and where it touches."""
    start, end = np.zeros(x.shape), np.maximum(np.minimum(-x.lower, x.upper), 0.0)
    low = function(x.lower)

    def passes(point: Array) -> NDArray[np.bool_]:
        return np.asarray(function(point) + derivative(point) * (x.lower - point) >= low)

    for _ in range(BISECTIONS):
        middle = 0.5 * start + 0.5 * end
        high = passes(middle)
        start, end = np.where(high, start, middle), np.where(high, middle, end)
    touch = np.where(x.lower >= 0, 0.5 * x.lower + 0.5 * x.upper, np.minimum(end, x.upper))
    by_chord = (x.upper <= 0) | ((x.lower < 0) & ~passes(x.upper))
    tangent = derivative(touch)
    return np.where(by_chord, chord(x, low, function(x.upper), tangent), tangent), touch


@planes("Sigmoid")
def sigmoid(step: Step) -> Sketch:
    """Return planes of 1 / (1 + e⁻ˣ)."""
    return s_shaped(step, logistic, lambda x: logistic(x) * logistic(-x))


@planes("Tanh")
def tanh(step: Step) -> Sketch:
    """Return planes of the hyperbolic tangent."""
    return s_shaped(step, np.tanh, lambda x: 1.0 - np.tanh(x) ** 2)


@planes("Erf")
def error_function(step: Step) -> Sketch:
    """Return planes of the error function."""
    function = np.vectorize(erf, otypes=[np.float64])
    return s_shaped(step, function, lambda x: 2.0 / sqrt(pi) * np.exp(-x * x))


@planes("Softsign")
def softsign(step: Step) -> Sketch:
    """Return planes of x / (1 + |x|), with the derivative 1 / (1 + |x|)²."""
    return s_shaped(step, lambda x: x / (1.0 + np.abs(x)), lambda x: 1.0 / np.square(1.0 + np.abs(x)))
