"""Planes of piecewise linear functions: Relu and its kin, Abs, Clip, HardSigmoid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ibpc.verify.checking.planes.base import Sketch, chord, planes, touching
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array, Box


def _kinked(step: Step, left: Array) -> Sketch:
    """Return planes of left · x below 0 and x from 0 on.

    f − line is linear on either side of 0, so it is extreme at l, u or the point nearest to 0. On the side where the
    kink points, lines through 0 of every slope between left and 1 touch: the one that is closer overall is used.
    """
    x = step.box(0)
    left = np.broadcast_to(left, x.shape)

    def function(point: Array) -> Array:
        return np.where(point >= 0, point, left * point)

    tangent = np.where((x.lower >= 0) | ((x.upper > 0) & (x.upper > -x.lower)), 1.0, left)
    secant = chord(x, function(x.lower), function(x.upper), tangent)
    convex = left <= 1.0
    slopes = np.where(convex, tangent, secant), np.where(convex, secant, tangent)
    points = [x.lower, x.upper, np.clip(0.0, x.lower, x.upper)]
    free = (convex & (x.lower < 0) & (x.upper > 0)).ravel()
    fan = np.where(free, left.ravel(), np.nan), np.where(free, 1.0, np.nan)
    return touching(x, function, slopes, points, fan)


@planes("Relu")
def relu(step: Step) -> Sketch:
    """Return planes of max(x, 0)."""
    return _kinked(step, np.asarray(0.0))


@planes("LeakyRelu")
def leaky_relu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, alpha x elsewhere."""
    return _kinked(step, np.asarray(float(step.attributes.get("alpha", 0.01))))


@planes("PRelu")
def prelu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, slope x elsewhere."""
    return _kinked(step, step.constant(1).wide)


@planes("Abs")
def modulus(step: Step) -> Sketch:
    """Return planes of |x|."""
    return _kinked(step, np.asarray(-1.0))


@planes("Clip")
def clip(step: Step) -> Sketch:
    """Return planes of min(max(x, least), most): slopes are those of chords to a kink inside the box, else 0 or 1."""
    x = step.box(0)
    least = step.constant(1).wide if step.has(1) else np.asarray(step.attributes.get("min", -np.inf))
    most = step.constant(2).wide if step.has(2) else np.asarray(step.attributes.get("max", np.inf))
    if bool((least > most).any()):
        step.fail("its least is above its greatest")

    def function(point: Array) -> Array:
        return np.asarray(np.minimum(np.maximum(point, least), most))

    end, start = np.minimum(x.upper, most), np.maximum(x.lower, least)
    rising = chord(Box(x.lower, end), function(x.lower), function(end), 0.0)
    falling = chord(Box(start, x.upper), function(start), function(x.upper), 0.0)
    below = np.where(x.upper > most, falling, np.where(least - x.lower > x.upper - least, 0.0, 1.0))
    above = np.where(x.lower < least, rising, np.where(x.upper - most > most - x.lower, 0.0, 1.0))
    points = [x.lower, x.upper, np.clip(least, x.lower, x.upper), np.clip(most, x.lower, x.upper)]
    return touching(x, function, (below, above), points)


@planes("HardSigmoid")
def hard_sigmoid(step: Step) -> Sketch:
    """Return planes of min(max(alpha x + beta, 0), 1): slopes of chords to a kink inside the box, else 0 or alpha.

    The interval rule does not widen ends that are clipped to 0 or 1, so the planes pay for the rounding of points that
    are not clipped: there |alpha x| ≤ 1 + |beta|.
    """
    x = step.box(0)
    alpha, beta = (
        float(step.attributes.get(name, np.float32(value))) for name, value in (("alpha", 0.2), ("beta", 0.5))
    )

    def function(point: Array) -> Array:
        return np.clip(alpha * point + beta, 0.0, 1.0)

    if alpha == 0:
        return touching(x, function, (np.zeros(x.shape), np.zeros(x.shape)), [x.lower])
    first, last = sorted((-beta / alpha, (1.0 - beta) / alpha))
    before, behind = np.minimum(x.upper, last), np.maximum(x.lower, first)
    opening = chord(Box(x.lower, before), function(x.lower), function(before), 0.0)
    closing = chord(Box(behind, x.upper), function(behind), function(x.upper), 0.0)
    inner, outer = np.where(x.lower < first, opening, alpha), np.where(x.upper > last, closing, alpha)
    convex = np.where(x.lower >= first, outer, np.where(first - x.lower > x.upper - first, 0.0, outer))
    concave = np.where(x.upper <= last, inner, np.where(x.upper - last > last - x.lower, 0.0, inner))
    slopes = (convex, concave) if alpha > 0 else (concave, convex)
    kinks = [np.clip(end, x.lower, x.upper) for end in (first, last)]
    sketch = touching(x, function, slopes, [x.lower, x.upper, *kinks])
    error = 8.0 * step.machine.unit * (1.0 + 2.0 * abs(beta)) + 8.0 * step.machine.smallest
    return replace(sketch, lower=sketch.lower - error, upper=sketch.upper + error)
