"""Planes of functions that rise in the shape of an S: Sigmoid, Tanh, Erf, Softsign, Atan, Asinh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import erf, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.gates import logistic
from ibpc.verify.checking.planes.base import BISECTIONS, Function, Pair, Sketch, planes, unary
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array


def s_shaped(step: Step, function: Function, derivative: Function) -> Sketch:
    """Return planes of an increasing f, convex below 0 and concave above, f(x) + f(−x) constant.

    Above: over a box above 0 any tangent; otherwise tangents at points from the first d ≥ 0 on whose tangent passes
    above (l, f(l)); or the chord, if there is no such point in the box or the box lies below 0: then f rises faster
    than the chord from 0 to u. Over [0, u] f − line is greatest at d or u; over [l, 0], where it is convex, at an end;
    the same holds for lines that rise less than the chord. Below: mirrored. A choice picks the point: 1 is the first
    one, 0 the end; the default is the middle of the box.
    """
    x = step.box(0)
    lower, upper = x.lower.ravel(), x.upper.ravel()
    anchors = [_anchor(*ends, function, derivative) for ends in ((-upper, -lower), (lower, upper))]

    def tune(choices: Array) -> tuple[Sequence[Pair], Pair]:
        lines = zip((-lower, upper), anchors, (choices[:, 0], choices[:, 1]), strict=True)
        (below, mirrored), (above, touch) = (_line(end, anchor, share, derivative) for end, anchor, share in lines)
        least = np.minimum.reduce([function(p) - below * p for p in (lower, upper, -mirrored)])
        most = np.maximum.reduce([function(p) - above * p for p in (lower, upper, touch)])
        return [(below, above)], (least, most)

    middle = 0.5 * lower + 0.5 * upper
    start = np.stack([_nearest(-middle, -lower, anchors[0]), _nearest(middle, upper, anchors[1])])
    (slopes,), offsets = tune(start[None])
    (below, above), (least, most) = ((low.reshape(x.shape), high.reshape(x.shape)) for low, high in (slopes, offsets))
    (part,) = unary(x, (below, above), (least, most)).parts
    part = replace(part, steepest=float(derivative(np.zeros(()))))
    return Sketch([part], least.ravel(), most.ravel(), tune=tune)


def _line(end: Array, anchor: tuple[Array, ...], share: Array, derivative: Function) -> Pair:
    """Return the slope of the upper plane, and the point it touches: `share` of the way from the end to the first."""
    first, touches, secant = anchor
    point = np.minimum(np.maximum(end + share * (first - end), first), end)
    point = np.where(np.isfinite(point), point, first)
    return np.where(touches > 0, derivative(point), share * secant), point


def _nearest(point: Array, end: Array, anchor: tuple[Array, ...]) -> Array:
    """Return how far `point` lies on the way from the end to the first point, at most 1; 1 for chords."""
    first, touches, _ = anchor
    wide = (touches > 0) & (end > first)
    share = (end - point) / np.where(wide, end - first, 1.0)
    return np.where(wide & np.isfinite(share), np.minimum(share, 1.0), 1.0)


def _anchor(lower: Array, upper: Array, function: Function, derivative: Function) -> tuple[Array, ...]:
    """Return the first point where an upper plane may touch, whether one does (1 or 0), and the chord's slope."""
    start, end = np.zeros(lower.shape), np.maximum(np.minimum(-lower, upper), 0.0)
    low = function(lower)

    def passes(point: Array) -> NDArray[np.bool_]:
        return np.asarray(function(point) + derivative(point) * (lower - point) >= low)

    for _ in range(BISECTIONS):
        middle = 0.5 * start + 0.5 * end
        high = passes(middle)
        start, end = np.where(high, start, middle), np.where(high, middle, end)
    first = np.where(lower >= 0, lower, np.minimum(end, upper))
    touches = (lower >= 0) | ((upper > 0) & passes(upper))
    width = upper - lower
    secant = np.where(width > 0, (function(upper) - low) / np.where(width > 0, width, 1.0), derivative(first))
    return first, touches.astype(np.float64), secant


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


@planes("Atan")
def arc_tangent(step: Step) -> Sketch:
    """Return planes of the inverse of the tangent, with the derivative 1 / (1 + x²)."""
    return s_shaped(step, np.arctan, lambda x: 1.0 / (1.0 + np.square(x)))


@planes("Asinh")
def area_sine(step: Step) -> Sketch:
    """Return planes of the inverse of the hyperbolic sine, with the derivative 1 / √(1 + x²)."""
    return s_shaped(step, np.arcsinh, lambda x: 1.0 / np.sqrt(1.0 + np.square(x)))
