"""Planes of products and quotients of two values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ibpc.verify.checking.planes.base import Pair, Part, Sketch, planes
from ibpc.verify.checking.planes.convex import convex
from ibpc.verify.checking.pulls import broadcast_pull
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array, Box


@planes("Mul")
def multiply(step: Step) -> Sketch:
    """Return planes of a product of two boxes (McCormick 1976), or of a square.

    l_y x + l_x y − l_x l_y ≤ x y ≤ u_y x + l_x y − l_x u_y, from (x − l_x)(y − l_y) ≥ 0 and (x − l_x)(u_y − y) ≥ 0.
    Choices are the shares of the other two planes, u_y x + u_x y − u_x u_y below and l_y x + u_x y − u_x l_y above.
    """
    if step.names[0] == step.names[1]:
        return _square(step)
    x, y = step.box(0), step.box(1)
    shape = np.broadcast_shapes(x.shape, y.shape)
    low_x, high_x, low_y, high_y = (
        np.broadcast_to(side, shape).ravel() for side in (x.lower, x.upper, y.lower, y.upper)
    )

    def tune(choices: Array) -> tuple[Sequence[Pair], Pair]:
        below, above = choices[:, 0], choices[:, 1]
        of_x = _between(low_y, high_y, below), _between(high_y, low_y, above)
        of_y = _between(low_x, high_x, below), _between(low_x, high_x, above)
        least = _between(low_x * low_y, high_x * high_y, below)
        most = _between(low_x * high_y, high_x * low_y, above)
        return [of_x, of_y], (-least, -most)

    parts = [
        _broadcast_part(slot, box, shape, slopes, np.maximum(np.abs(slopes[0]), np.abs(slopes[1]) + np.abs(other)))
        for slot, box, slopes, other in ((0, x, (low_y, high_y), 0.0), (1, y, (low_x, low_x), high_x))
    ]
    return Sketch(parts, -low_x * low_y, -low_x * high_y, tune=tune)


def _between(first: Array, second: Array, share: Array) -> Array:
    """Return (1 − share) · first + share · second."""
    return (1.0 - share) * first + share * second


def _square(step: Step) -> Sketch:
    """Return the planes of x²: below, a tangent at a chosen point of the box; above, the chord.

    A tangent of a convex function lies below it wherever it touches.
    """
    plain, x = convex(step, np.square, lambda x: 2.0 * x), step.box(0)
    (part,) = plain.parts

    def tune(choices: Array) -> tuple[Sequence[Pair], Pair]:
        touch = _between(x.lower.ravel(), x.upper.ravel(), choices[:, 0])
        ones = np.ones_like(touch)
        return [(2.0 * touch, part.above * ones)], (-(touch**2), plain.upper * ones)

    return replace(plain, parts=[replace(part, steepest=2.0 * part.magnitude)], tune=tune)


def _broadcast_part(slot: int, box: Box, shape: tuple[int, ...], slopes: Pair, steepest: Array | float = 0.0) -> Part:
    magnitude = np.broadcast_to(box.magnitude, shape).ravel()
    copies = magnitude.size // max(1, box.lower.size)
    return Part(slot, broadcast_pull(box.shape, shape), *slopes, magnitude, copies, steepest)


@planes("Div")
def divide(step: Step) -> Sketch:
    """Return planes of x / y, y on one side of 0: those of x r, with r = 1 / y between its tangent and its chord.

    1 / y is convex above 0 and concave below. With m the middle of y, it is bounded by 2/m − y/m² and
    1/l + 1/u − y/(l u); the sign of r's coefficient, which is l_x in both planes of the product, selects one of them.
    """
    x, y = step.box(0), step.box(1)
    shape = np.broadcast_shapes(x.shape, y.shape)
    low_x, low_y, high_y = (np.broadcast_to(side, shape).ravel() for side in (x.lower, y.lower, y.upper))
    one_sided = (low_y > 0) | (high_y < 0)
    low_y, high_y = np.where(one_sided, low_y, np.nan), np.where(one_sided, high_y, np.nan)
    middle = 0.5 * low_y + 0.5 * high_y
    tangent, chord = (-1.0 / middle**2, 2.0 / middle), (-1.0 / (low_y * high_y), 1.0 / low_y + 1.0 / high_y)
    is_tangent_below = (low_x >= 0) == (low_y > 0)
    below, above = _either(is_tangent_below, tangent, chord), _either(is_tangent_below, chord, tangent)
    least, greatest = 1.0 / high_y, 1.0 / low_y
    parts = [
        _broadcast_part(0, x, shape, (least, greatest)),
        _broadcast_part(1, y, shape, (low_x * below[0], low_x * above[0])),
    ]
    return Sketch(parts, low_x * (below[1] - least), low_x * (above[1] - greatest))


def _either(condition: Array, first: Pair, second: Pair) -> Pair:
    """Return the slope and offset of the first line where the condition holds, of the second elsewhere."""
    return np.where(condition, first[0], second[0]), np.where(condition, first[1], second[1])
