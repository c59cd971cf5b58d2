"""Planes of functions that are convex or concave piece by piece, as gated activations and exponential units are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import pi, sqrt
from typing import Final, TypeAlias

import numpy as np

from ibpc.verify.checking.gates import cubic_gate, gate_error, logistic, normal_gate
from ibpc.verify.checking.planes.base import BISECTIONS, Function, Pair, Part, Sketch, planes
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array

# Where the curvature of x · gate(x) changes sign.
_TURNS_OF_GELU: Final = (-sqrt(2.0), sqrt(2.0))
_TURNS_OF_CUBIC_GELU: Final = (-1.4185040087908283555, 1.4185040087908283555)
_TURN_OF_SWISH: Final = 2.3993572805154676678
_TURNS_OF_MISH: Final = (-2.25637639636079312, 1.4905711794854284593)


# The least slope, the chord's, and the greatest.
Slopes: TypeAlias = "tuple[Array, Array, Array]"


@dataclass(frozen=True)
class Piece:
    """A stretch up to `end` on which a function is convex or concave, and its derivative there."""

    end: float
    is_convex: bool
    derivative: Function


Side: TypeAlias = "tuple[Piece, tuple[Array, Array]]"


def pieced(step: Step, function: Function, pieces: Sequence[Piece]) -> Sketch:
    """Return planes of a continuous function that is convex or concave on each of its pieces.

    Over a box in one piece the plane on the side where the function bends away is a tangent, the other the chord. Over
    other boxes both planes may have any slope that f has there. Offsets are the extremes of f − line over the pieces,
    bounded by its values at the ends of a piece and by a tangent at a point with about the slope of the line. A choice
    picks where a tangent touches (0 is the lower end, 1 the upper), or the slope (0 is the least that f has at an end
    of a piece in the box, 1/2 the chord's, 1 the greatest); its default is 1/2. Functions take flat arrays.
    """
    x = step.box(0)
    lower, upper = x.lower.ravel(), x.upper.ravel()
    ends = [lower, *(np.clip(piece.end, lower, upper) for piece in pieces[:-1]), upper]
    sides = list(zip(pieces, pairwise(ends), strict=True))
    slopes = _slopes(function, sides, lower, upper)

    def tune(choices: Array) -> tuple[Sequence[Pair], Pair]:
        below, above = (_leaning(slopes, sides, bend, choices[:, side]) for side, bend in enumerate((True, False)))
        return [(below, above)], _offsets(function, sides, below, above)

    ((pair,), offsets) = tune(np.full((1, 2, lower.size), 0.5))
    part = Part(0, lambda rows: rows, pair[0][0], pair[1][0], x.magnitude.ravel())
    steepest = np.maximum.reduce([np.abs(slope) for slope in slopes])
    return Sketch([replace(part, steepest=steepest)], offsets[0][0], offsets[1][0], tune=tune)


def _slopes(function: Function, sides: Sequence[Side], lower: Array, upper: Array) -> Slopes:
    """Return the least slope of f at the ends of pieces in the box, the chord's slope, and the greatest."""
    width = upper - lower
    wide = width > 0
    secant = np.where(wide, (function(upper) - function(lower)) / np.where(wide, width, 1.0), 0.0)
    least, greatest = secant, secant
    for piece, (first, last) in sides:
        for slope in (piece.derivative(first), piece.derivative(last)):
            met = (last > first) & np.isfinite(slope)
            least = np.where(met, np.minimum(least, slope), least)
            greatest = np.where(met, np.maximum(greatest, slope), greatest)
    return least, secant, greatest


def _leaning(slopes: Slopes, sides: Sequence[Side], is_convex: bool, choice: Array) -> Array:
    """Return the slope for a choice: over a box across pieces, any between the least and the greatest.

    Over a box in one piece it is a tangent's if the piece's convexity equals `is_convex`, else the chord's.
    """
    least, secant, greatest = slopes
    lower, upper = sides[0][1][0], sides[-1][1][1]
    down, up = np.maximum(1.0 - 2.0 * choice, 0.0), np.maximum(2.0 * choice - 1.0, 0.0)
    slope = secant + down * (least - secant) + up * (greatest - secant)
    start = -np.inf
    for piece, _ in sides:
        inside = (lower >= start) & (upper <= piece.end)
        touch = np.clip(lower + choice * (upper - lower), lower, upper)
        tangent = piece.derivative(touch) if piece.is_convex == is_convex else secant
        slope = np.where(inside, np.where(np.isfinite(tangent), tangent, secant), slope)
        start = piece.end
    return np.asarray(slope)


def _offsets(function: Function, sides: Sequence[Side], below: Array, above: Array) -> Pair:
    """Return the greatest offset of the lower plane and the least of the upper one."""
    lower: Array = np.minimum.reduce([_least(function, piece, ends, below) for piece, ends in sides])
    upper = [_least(lambda point: -function(point), _turned(piece), ends, -above) for piece, ends in sides]
    return lower, -np.minimum.reduce(upper)


def _turned(piece: Piece) -> Piece:
    """Return the piece of the negated function."""
    return Piece(piece.end, not piece.is_convex, lambda x: -piece.derivative(x))


def _least(function: Function, piece: Piece, ends: tuple[Array, Array], slope: Array) -> Array:
    """Return a lower bound of f − slope · x between two ends of a piece.

    If f is concave the minimum is at an end. If f is convex, f − line falls up to any point where f′ is less than the
    slope and rises from any point where it is not; between two such points f lies above its tangent at a third.
    """
    start, end = ends
    if not piece.is_convex:
        return np.asarray(np.minimum(function(start) - slope * start, function(end) - slope * end))
    low, high = start + 0.0 * slope, end + 0.0 * slope
    for _ in range(BISECTIONS):
        middle = 0.5 * low + 0.5 * high
        before = piece.derivative(middle) < slope
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    point = 0.5 * low + 0.5 * high
    tilt = piece.derivative(point) - slope
    within: Array = function(point) - slope * point + np.minimum(tilt * (low - point), tilt * (high - point))
    return np.asarray(np.minimum.reduce([function(low) - slope * low, function(high) - slope * high, within]))


def _bell(turns: tuple[float, float], derivative: Function) -> list[Piece]:
    """Return the pieces of x · gate(x): concave, convex around 0, and concave again."""
    return [
        Piece(turns[0], False, derivative),
        Piece(turns[1], True, derivative),
        Piece(np.inf, False, derivative),
    ]


@planes("HardSwish")
def hard_swish(step: Step) -> Sketch:
    """Return planes of x min(max(x / 6 + 1/2, 0), 1): 0, a convex parabola, and x."""
    pieces = [
        Piece(-3.0, True, np.zeros_like),
        Piece(3.0, True, lambda x: x / 3.0 + 0.5),
        Piece(np.inf, True, np.ones_like),
    ]
    return pieced(step, lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0), pieces)


@planes("Gelu")
def gelu(step: Step) -> Sketch:
    """Return planes of x Φ(x), or of its approximation, widened by the error of rounded numbers in a formula."""
    is_exact = step.attributes.get("approximate", b"none") == b"none"
    found = _normal_gelu(step) if is_exact else _cubic_gelu(step)
    missed = gate_error(step) * step.box(0).magnitude.ravel()

    def tune(choices: Array) -> tuple[Sequence[Pair], Pair]:
        assert found.tune is not None
        slopes, (lower, upper) = found.tune(choices)
        return slopes, (lower - missed, upper + missed)

    return replace(found, lower=found.lower - missed, upper=found.upper + missed, tune=tune)


def _normal_gelu(step: Step) -> Sketch:
    """Return planes of x Φ(x), with the derivative Φ(x) + x φ(x)."""
    return pieced(
        step,
        lambda x: x * normal_gate(x),
        _bell(_TURNS_OF_GELU, lambda x: normal_gate(x) + x * np.exp(-0.5 * x * x) / sqrt(2.0 * pi)),
    )


def _cubic_gelu(step: Step) -> Sketch:
    slope = sqrt(8.0 / pi)

    def derivative(x: Array) -> Array:
        gate = cubic_gate(x)
        return gate + x * gate * cubic_gate(-x) * slope * (1.0 + 3.0 * 0.044715 * x * x)

    return pieced(step, lambda x: x * cubic_gate(x), _bell(_TURNS_OF_CUBIC_GELU, derivative))


@planes("Swish")
def swish(step: Step) -> Sketch:
    """Return planes of x / (1 + e^(−alpha x)); for a negative alpha it is concave where −alpha makes it convex."""
    alpha = float(step.attributes.get("alpha", 1.0))
    turn = _TURN_OF_SWISH / abs(alpha)

    def derivative(x: Array) -> Array:
        return np.asarray(logistic(alpha * x) + alpha * x * logistic(alpha * x) * logistic(-alpha * x))

    pieces = _bell((-turn, turn), derivative)
    if alpha < 0:
        pieces = [replace(piece, is_convex=not piece.is_convex) for piece in pieces]
    return pieced(step, lambda x: x * logistic(alpha * x), pieces)


@planes("Mish")
def mish(step: Step) -> Sketch:
    """Return planes of x tanh(s), s = ln(1 + eˣ), with the derivative tanh(s) + x sigmoid(x) / cosh²(s)."""

    def derivative(x: Array) -> Array:
        soft = np.logaddexp(x, 0.0)
        return np.asarray(np.tanh(soft) + x * logistic(x) * 4.0 * logistic(2.0 * soft) * logistic(-2.0 * soft))

    return pieced(step, lambda x: x * np.tanh(np.logaddexp(x, 0.0)), _bell(_TURNS_OF_MISH, derivative))


@planes("Sinh")
def hyperbolic_sine(step: Step) -> Sketch:
    """Return planes of (eˣ − e⁻ˣ) / 2: concave below 0, convex above."""
    return pieced(step, np.sinh, [Piece(0.0, False, np.cosh), Piece(np.inf, True, np.cosh)])


@planes("Atanh")
def area_tangent(step: Step) -> Sketch:
    """Return planes of the inverse of the hyperbolic tangent: concave below 0, convex above; NaN beyond −1 and 1."""

    def derivative(x: Array) -> Array:
        return np.asarray(1.0 / ((1.0 - x) * (1.0 + x)))

    return pieced(step, np.arctanh, [Piece(0.0, False, derivative), Piece(np.inf, True, derivative)])


@planes("Selu")
def selu(step: Step) -> Sketch:
    """Return planes of gamma x where x ≥ 0, gamma alpha (eˣ − 1) elsewhere."""
    alpha = float(step.attributes.get("alpha", 1.67326319217681884765625))
    gamma = float(step.attributes.get("gamma", 1.05070102214813232421875))
    return _bent_then_straight(step, gamma * alpha, gamma)


@planes("Elu")
def elu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, alpha (eˣ − 1) elsewhere: convex everywhere for an alpha in [0, 1]."""
    alpha = float(step.attributes.get("alpha", 1.0))
    if not 0.0 <= alpha <= 1.0:
        return _bent_then_straight(step, alpha, 1.0)

    def derivative(x: Array) -> Array:
        return np.where(x >= 0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))

    return pieced(step, partial(_exponential_and_line, alpha, 1.0), [Piece(np.inf, True, derivative)])


def _bent_then_straight(step: Step, left: float, right: float) -> Sketch:
    """Return planes of left (eˣ − 1) below 0 and right x above."""
    below = Piece(0.0, left >= 0, lambda x: left * np.exp(np.minimum(x, 0.0)))
    above = Piece(np.inf, True, lambda x: np.full_like(x, right))
    return pieced(step, partial(_exponential_and_line, left, right), [below, above])


def _exponential_and_line(left: float, right: float, x: Array) -> Array:
    return np.asarray(np.where(x >= 0, right * x, left * np.expm1(np.minimum(x, 0.0))))
