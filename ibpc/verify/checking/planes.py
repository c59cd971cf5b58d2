"""Two affine functions that hold a nonlinear one between them over a box, one short rule for each ONNX type.

A plane takes its slope from anywhere and its offset from the points at which function − line can be extreme, so that
what a rule chooses decides how tight a plane is, never whether it is sound. A type without a rule here, and an element
whose box is not finite, has its constant bounds for planes. Binary32 costs a plane what the rule of the type in
binary32 widens over the one in real arithmetic, at the wider end: the rules widen by the greatest error at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import erf, pi, prod, sqrt
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.gates import cubic_share, normal_share
from ibpc.verify.checking.values import (
    MACHINES,
    OWN_UNIT,
    RULES,
    Array,
    Box,
    Planes,
    Pull,
    Step,
    Term,
    broadcast_pull,
    scatter,
)
from ibpc.verify.checking.windows import Windows

Function: TypeAlias = Callable[[Array], NDArray[Any]]

# What the planes themselves round: some tens of operations on slopes, ends and values.
_OWN_ROUNDINGS: Final = 64.0
_OWN_SMALLEST: Final = 2.0**-1000
_BISECTIONS: Final = 30
# Where the curvature of a product of x and a share of it changes sign.
_TURNS_OF_GELU: Final = (-sqrt(2.0), sqrt(2.0))
_TURNS_OF_CUBIC_GELU: Final = (-1.4185040087908283555, 1.4185040087908283555)
_TURN_OF_SWISH: Final = 2.3993572805154676678
_TURNS_OF_MISH: Final = (-2.25637639636079312, 1.4905711794854284593)


@dataclass(frozen=True, eq=False)
class Part:
    """One operand's part of planes: slopes below and above, its greatest moduli, all (K,), and how rows spread.

    `copies` is how many rows add up in one element of the operand.
    """

    slot: int
    spread: Pull
    below: Array
    above: Array
    magnitude: Array
    copies: int = 1


@dataclass(frozen=True, eq=False)
class Sketch:
    """Planes before rounding is paid for: parts, offsets (K,), and the fan of `Planes`."""

    parts: Sequence[Part]
    lower: Array
    upper: Array
    fan: tuple[Array, Array] | None = None


PlaneRule: TypeAlias = Callable[[Step], Sketch]
PLANES: Final[dict[str, PlaneRule]] = {}


def planes(*types: str) -> Callable[[PlaneRule], PlaneRule]:
    """Register the planes of ONNX types."""

    def register(function: PlaneRule) -> PlaneRule:
        for type in types:
            if type in PLANES:
                raise AssertionError(f"bug in ibpc: two planes for {type}")
            PLANES[type] = function
        return function

    return register


def bent(step: Step, box: Box) -> Planes:
    """Return the planes of a node over its operands' boxes; `box` is what the rule of its type gives."""
    sketch, ends = PLANES[step.node.op_type](step), (box.lower.ravel(), box.upper.ravel())
    numbers = [sketch.lower, sketch.upper]
    for part in sketch.parts:
        numbers += [part.below, part.above, part.magnitude]
    sound = np.logical_and.reduce([np.isfinite(number) for number in numbers])
    lower, upper = (np.where(sound, own, end) for own, end in zip((sketch.lower, sketch.upper), ends, strict=True))
    terms = [
        Term(step.names[p.slot], p.spread, np.where(sound, p.below, 0.0), np.where(sound, p.above, 0.0))
        for p in sketch.parts
    ]
    moduli = np.maximum(np.abs(ends[0]), np.abs(ends[1])) + np.abs(lower) + np.abs(upper)
    for part in sketch.parts:
        steepest = np.maximum(np.abs(part.below), np.abs(part.above))
        moduli = moduli + np.where(sound, (1.0 + steepest) * part.magnitude * part.copies, 0.0)
    error = _execution_error(step, box).ravel() + _OWN_ROUNDINGS * OWN_UNIT * moduli + _OWN_SMALLEST
    fan = None
    if sketch.fan is not None:
        least, most = (np.where(sound, slope, np.nan) for slope in sketch.fan)
        fan = least, most
    return Planes(tuple(terms), lower, upper, np.where(np.isfinite(error), error, np.inf), fan)


def _execution_error(step: Step, box: Box) -> Array:
    """Return how far one execution may be from the function of real numbers, anywhere in the box."""
    if not step.machine.unit:
        return np.zeros(box.shape)
    real = RULES[step.node.op_type](replace(step, machine=MACHINES["real"]))
    assert isinstance(real, Box)
    apart = np.maximum(real.lower - box.lower, box.upper - real.upper)
    return np.maximum(apart, 0.0) + 2.0 * step.machine.smallest


# ── functions of one operand ────────────────────────────────────────────────────────────────────────────────────
def _unary(
    step: Step, function: Function, slopes: tuple[Array, Array], points: Sequence[Array], fan: Any = None
) -> Sketch:
    """Return planes of two slopes; function − line has to be extreme over the box at one of the points."""
    x = step.box(0)
    below, above = slopes
    lower = np.minimum.reduce([function(point) - below * point for point in points])
    upper = np.maximum.reduce([function(point) - above * point for point in points])
    return _sketch(step, 0, x, (below, above), (lower, upper), fan)


def _sketch(
    step: Step, slot: int, x: Box, slopes: tuple[Array, Array], offsets: tuple[Array, Array], fan: Any = None
) -> Sketch:
    flat = [np.broadcast_to(side, x.shape).ravel() for side in (*slopes, *offsets)]
    part = Part(slot, lambda rows: rows, flat[0], flat[1], x.magnitude.ravel())
    return Sketch([part], flat[2], flat[3], fan)


def _chord(x: Box, low: Array, high: Array, otherwise: Array | float) -> Array:
    """Return the slope from (l, low) to (u, high), `otherwise` over a point."""
    width = x.upper - x.lower
    return np.asarray(np.where(width > 0, (high - low) / np.where(width > 0, width, 1.0), otherwise))


def _kinked(step: Step, left: Array, right: float) -> Sketch:
    """Return planes of left · x below 0 and right · x from 0 on.

    f − line is linear on either side of 0, so l, u and the point nearest to 0 decide. On the side where the kink
    points, lines through 0 of every slope between left and right touch: the one that is nearer on the whole is taken.
    """
    x = step.box(0)
    left = np.broadcast_to(left, x.shape)

    def function(point: Array) -> Array:
        return np.where(point >= 0, right * point, left * point)

    tangent = np.where((x.lower >= 0) | ((x.upper > 0) & (x.upper > -x.lower)), right, left)
    secant = _chord(x, function(x.lower), function(x.upper), tangent)
    convex = left <= right
    slopes = np.where(convex, tangent, secant), np.where(convex, secant, tangent)
    points = [x.lower, x.upper, np.clip(0.0, x.lower, x.upper)]
    free = (convex & (x.lower < 0) & (x.upper > 0)).ravel()
    fan = np.where(free, left.ravel(), np.nan), np.where(free, right, np.nan)
    return _unary(step, function, slopes, points, fan)


@planes("Relu")
def relu(step: Step) -> Sketch:
    """Return planes of max(x, 0)."""
    return _kinked(step, np.asarray(0.0), 1.0)


@planes("LeakyRelu")
def leaky_relu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, alpha x elsewhere."""
    return _kinked(step, np.asarray(float(step.attributes.get("alpha", 0.01))), 1.0)


@planes("PRelu")
def prelu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, slope x elsewhere."""
    return _kinked(step, step.constant(1).wide, 1.0)


@planes("Abs")
def modulus(step: Step) -> Sketch:
    """Return planes of |x|."""
    return _kinked(step, np.asarray(-1.0), 1.0)


@planes("Clip")
def clip(step: Step) -> Sketch:
    """Return planes of min(max(x, least), most): chords to a bend where one is inside, else 0 or 1."""
    x = step.box(0)
    least = step.constant(1).wide if step.has(1) else np.asarray(step.attributes.get("min", -np.inf))
    most = step.constant(2).wide if step.has(2) else np.asarray(step.attributes.get("max", np.inf))
    if bool((least > most).any()):
        step.fail("its least is above its greatest")

    def function(point: Array) -> Array:
        return np.asarray(np.minimum(np.maximum(point, least), most))

    end, start = np.minimum(x.upper, most), np.maximum(x.lower, least)
    rising = _chord(Box(x.lower, end), function(x.lower), function(end), 0.0)
    falling = _chord(Box(start, x.upper), function(start), function(x.upper), 0.0)
    below = np.where(x.upper > most, falling, np.where(least - x.lower > x.upper - least, 0.0, 1.0))
    above = np.where(x.lower < least, rising, np.where(x.upper - most > most - x.lower, 0.0, 1.0))
    points = [x.lower, x.upper, np.clip(least, x.lower, x.upper), np.clip(most, x.lower, x.upper)]
    return _unary(step, function, (below, above), points)


# ── convex, concave, S-shaped ───────────────────────────────────────────────────────────────────────────────────
def _convex(step: Step, function: Function, derivative: Function) -> Sketch:
    """Return the tangent at the middle below, the chord above."""
    slopes, offsets = _convex_lines(step.box(0), function, derivative)
    return _sketch(step, 0, step.box(0), slopes, offsets)


def _concave(step: Step, function: Function, derivative: Function) -> Sketch:
    """Return the chord below, the tangent at the middle above."""
    slopes, offsets = _convex_lines(step.box(0), lambda x: -function(x), lambda x: -derivative(x))
    return _sketch(step, 0, step.box(0), (-slopes[1], -slopes[0]), (-offsets[1], -offsets[0]))


def _convex_lines(x: Box, function: Function, derivative: Function) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    middle = 0.5 * x.lower + 0.5 * x.upper
    tangent = derivative(middle)
    low, high = function(x.lower), function(x.upper)
    secant = _chord(x, low, high, tangent)
    offsets = function(middle) - tangent * middle, np.maximum(low - secant * x.lower, high - secant * x.upper)
    return (tangent, secant), offsets


@planes("Exp")
def exponential(step: Step) -> Sketch:
    """Return planes of eˣ, which is convex."""
    return _convex(step, np.exp, np.exp)


@planes("Softplus")
def softplus(step: Step) -> Sketch:
    """Return planes of ln(1 + eˣ), which is convex."""
    return _convex(step, lambda x: np.logaddexp(x, 0.0), _logistic)


@planes("Elu")
def elu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, alpha (eˣ − 1) elsewhere: convex for alpha of at most 1."""
    alpha = float(step.attributes.get("alpha", 1.0))
    least = 0.0 if 0.0 <= alpha <= 1.0 else np.nan

    def function(x: Array) -> Array:
        return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0.0)))

    return _convex(step, function, lambda x: np.where(x >= 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))) + least)


@planes("Log")
def logarithm(step: Step) -> Sketch:
    """Return planes of ln x, which is concave; nothing at 0 and below."""
    return _concave(step, _where_positive(step, np.log), lambda x: 1.0 / x)


@planes("Sqrt")
def root(step: Step) -> Sketch:
    """Return planes of √x, which is concave."""
    return _concave(step, np.sqrt, lambda x: 0.5 / np.sqrt(x))


@planes("Reciprocal")
def reciprocal(step: Step) -> Sketch:
    """Return planes of 1 / x, which is convex above 0; nothing at 0 and below."""
    return _convex(step, _where_positive(step, lambda x: 1.0 / x), lambda x: -1.0 / (x * x))


def _where_positive(step: Step, function: Function) -> Function:
    positive = step.box(0).lower > 0
    return lambda x: np.where(positive, function(x), np.nan)


@planes("Pow")
def power(step: Step) -> Sketch:
    """Return planes of constant powers where they are convex: even ones, and those of at least 1 above 0."""
    x, exponent = step.box(0), step.constant(1).wide
    if np.broadcast_shapes(x.shape, exponent.shape) != x.shape:
        step.fail("its exponents are more than its base")
    convex = (exponent % 2 == 0) & (exponent > 0) | (x.lower >= 0) & (exponent >= 1)

    def function(point: Array) -> Array:
        return np.where(convex, np.power(point, exponent), np.nan)

    return _convex(step, function, lambda point: exponent * np.power(point, exponent - 1.0))


def _logistic(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


@planes("Sigmoid")
def sigmoid(step: Step) -> Sketch:
    """Return planes of 1 / (1 + e⁻ˣ)."""
    return _s_shaped(step, _logistic, lambda x: _logistic(x) * _logistic(-x))


@planes("Tanh")
def tanh(step: Step) -> Sketch:
    """Return planes of the hyperbolic tangent."""
    return _s_shaped(step, np.tanh, lambda x: 1.0 - np.tanh(x) ** 2)


@planes("Erf")
def error_function(step: Step) -> Sketch:
    """Return planes of the error function."""
    function = np.vectorize(erf, otypes=[np.float64])
    return _s_shaped(step, function, lambda x: 2.0 / sqrt(pi) * np.exp(-x * x))


def _s_shaped(step: Step, function: Function, derivative: Function) -> Sketch:
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
    return _sketch(step, 0, x, (below, above), (lower, upper))


def _upper_slope(x: Box, function: Function, derivative: Function) -> tuple[Array, Array]:
    """Return the slope of the upper plane and where it touches."""
    start, end = np.zeros(x.shape), np.maximum(np.minimum(-x.lower, x.upper), 0.0)
    low = function(x.lower)

    def passes(point: Array) -> NDArray[np.bool_]:
        return np.asarray(function(point) + derivative(point) * (x.lower - point) >= low)

    for _ in range(_BISECTIONS):
        middle = 0.5 * start + 0.5 * end
        high = passes(middle)
        start, end = np.where(high, start, middle), np.where(high, middle, end)
    touch = np.where(x.lower >= 0, 0.5 * x.lower + 0.5 * x.upper, np.minimum(end, x.upper))
    by_chord = (x.upper <= 0) | ((x.lower < 0) & ~passes(x.upper))
    tangent = derivative(touch)
    return np.where(by_chord, _chord(x, low, function(x.upper), tangent), tangent), touch


# ── piece by piece ──────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Piece:
    """A stretch up to `end` on which a function is convex or concave, and its derivative there."""

    end: float
    is_convex: bool
    derivative: Function


def _pieced(step: Step, function: Function, pieces: Sequence[Piece]) -> Sketch:
    """Return planes of a continuous function that is convex or concave on each of some pieces.

    Over a box in one piece the plane on the side where the function bends away is the tangent at the middle; all others
    have the slope of the chord. Their offsets are the extremes of f − line over the pieces: at an end, or beyond the
    tangent at a point where the slope is about that of the line.
    """
    x = step.box(0)
    turns = [np.clip(piece.end, x.lower, x.upper) for piece in pieces[:-1]]
    ends = [x.lower, *turns, x.upper]
    middle = 0.5 * x.lower + 0.5 * x.upper
    below = above = _chord(x, function(x.lower), function(x.upper), 0.0)
    for start, piece in zip([-np.inf, *(piece.end for piece in pieces)], pieces, strict=False):
        inside = (x.lower >= start) & (x.upper <= piece.end)
        below = np.where(inside & piece.is_convex, piece.derivative(middle), below)
        above = np.where(inside & (not piece.is_convex), piece.derivative(middle), above)
    lower = np.minimum.reduce(
        [_least(function, piece, side, below) for piece, side in zip(pieces, pairwise(ends), strict=True)]
    )
    upper = -np.minimum.reduce(
        [
            _least(lambda point: -function(point), _turned(piece), side, -above)
            for piece, side in zip(pieces, pairwise(ends), strict=True)
        ]
    )
    return _sketch(step, 0, x, (below, above), (lower, upper))


def _turned(piece: Piece) -> Piece:
    """Return the piece of the negated function."""
    return Piece(piece.end, not piece.is_convex, lambda x: -piece.derivative(x))


def _least(function: Function, piece: Piece, ends: tuple[Array, Array], slope: Array) -> Array:
    """Return a lower bound of f − slope · x between two ends of a piece.

    Where f is concave it is attained at an end. Where f is convex it lies above its tangent at any point d, so
    f − line is at least its value at d and the least of (f′(d) − slope) (x − d), which is at an end.
    """
    start, end = ends
    if not piece.is_convex:
        return np.asarray(np.minimum(function(start) - slope * start, function(end) - slope * end))
    low, high = start, end
    for _ in range(_BISECTIONS):
        middle = 0.5 * low + 0.5 * high
        before = piece.derivative(middle) < slope
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    point = 0.5 * low + 0.5 * high
    tilt = piece.derivative(point) - slope
    return np.asarray(function(point) - slope * point + np.minimum(tilt * (start - point), tilt * (end - point)))


def _bell(turns: tuple[float, float], derivative: Function) -> list[Piece]:
    """Return the pieces of x times a share of it: concave, convex about 0, and concave again."""
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
    return _pieced(step, lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0), pieces)


@planes("Gelu")
def gelu(step: Step) -> Sketch:
    """Return planes of x Φ(x), with the derivative Φ(x) + x φ(x), or of its approximation."""
    if step.attributes.get("approximate", b"none") == b"none":
        return _pieced(
            step,
            lambda x: x * normal_share(x),
            _bell(_TURNS_OF_GELU, lambda x: normal_share(x) + x * np.exp(-0.5 * x * x) / sqrt(2.0 * pi)),
        )
    slope = sqrt(8.0 / pi)

    def derivative(x: Array) -> Array:
        share = cubic_share(x)
        return share + x * share * cubic_share(-x) * slope * (1.0 + 3.0 * 0.044715 * x * x)

    return _pieced(step, lambda x: x * cubic_share(x), _bell(_TURNS_OF_CUBIC_GELU, derivative))


@planes("Swish")
def swish(step: Step) -> Sketch:
    """Return planes of x / (1 + e^(−alpha x)): for a negative alpha it is concave where it is convex for −alpha."""
    alpha = float(step.attributes.get("alpha", 1.0))
    turn = _TURN_OF_SWISH / abs(alpha)

    def derivative(x: Array) -> Array:
        return np.asarray(_logistic(alpha * x) + alpha * x * _logistic(alpha * x) * _logistic(-alpha * x))

    pieces = _bell((-turn, turn), derivative)
    if alpha < 0:
        pieces = [replace(piece, is_convex=not piece.is_convex) for piece in pieces]
    return _pieced(step, lambda x: x * _logistic(alpha * x), pieces)


@planes("Mish")
def mish(step: Step) -> Sketch:
    """Return planes of x tanh(s), s = ln(1 + eˣ), with the derivative tanh(s) + x sigmoid(x) / cosh²(s)."""

    def derivative(x: Array) -> Array:
        soft = np.logaddexp(x, 0.0)
        return np.asarray(np.tanh(soft) + x * _logistic(x) * 4.0 * _logistic(2.0 * soft) * _logistic(-2.0 * soft))

    return _pieced(step, lambda x: x * np.tanh(np.logaddexp(x, 0.0)), _bell(_TURNS_OF_MISH, derivative))


@planes("Selu")
def selu(step: Step) -> Sketch:
    """Return planes of gamma x where x ≥ 0, gamma alpha (eˣ − 1) elsewhere: convex on either side of 0."""
    alpha = float(step.attributes.get("alpha", 1.67326319217681884765625))
    gamma = float(step.attributes.get("gamma", 1.05070102214813232421875))
    sign = 1.0 if alpha * gamma >= 0 else np.nan

    def function(x: Array) -> Array:
        return sign * gamma * np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0.0)))

    left = Piece(0.0, True, lambda x: gamma * alpha * np.exp(np.minimum(x, 0.0)))
    return _pieced(step, function, [left, Piece(np.inf, True, lambda x: np.full_like(x, gamma))])


@planes("Celu")
def celu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, alpha (e^(x / alpha) − 1) elsewhere, which is convex."""
    alpha = float(step.attributes.get("alpha", 1.0))

    def function(x: Array) -> Array:
        return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))

    return _convex(step, function, lambda x: np.exp(np.minimum(x, 0.0) / alpha))


@planes("Softsign")
def softsign(step: Step) -> Sketch:
    """Return planes of x / (1 + |x|), with the derivative 1 / (1 + |x|)²."""
    return _s_shaped(step, lambda x: x / (1.0 + np.abs(x)), lambda x: 1.0 / np.square(1.0 + np.abs(x)))


@planes("HardSigmoid")
def hard_sigmoid(step: Step) -> Sketch:
    """Return planes of min(max(alpha x + beta, 0), 1): chords to a bend where one is inside, else 0 or alpha.

    The rule of the type widens nothing at ends that are cut to 0 or 1, so the planes pay for what is not cut: there
    |alpha x| ≤ 1 + |beta|.
    """
    x = step.box(0)
    alpha, beta = (
        float(step.attributes.get(name, np.float32(value))) for name, value in (("alpha", 0.2), ("beta", 0.5))
    )

    def function(point: Array) -> Array:
        return np.clip(alpha * point + beta, 0.0, 1.0)

    if alpha == 0:
        return _unary(step, function, (np.zeros(x.shape), np.zeros(x.shape)), [x.lower])
    first, last = sorted((-beta / alpha, (1.0 - beta) / alpha))
    before, behind = np.minimum(x.upper, last), np.maximum(x.lower, first)
    opening = _chord(Box(x.lower, before), function(x.lower), function(before), 0.0)
    closing = _chord(Box(behind, x.upper), function(behind), function(x.upper), 0.0)
    inner, outer = np.where(x.lower < first, opening, alpha), np.where(x.upper > last, closing, alpha)
    convex = np.where(x.lower >= first, outer, np.where(first - x.lower > x.upper - first, 0.0, outer))
    concave = np.where(x.upper <= last, inner, np.where(x.upper - last > last - x.lower, 0.0, inner))
    slopes = (convex, concave) if alpha > 0 else (concave, convex)
    kinks = [np.clip(end, x.lower, x.upper) for end in (first, last)]
    sketch = _unary(step, function, slopes, [x.lower, x.upper, *kinks])
    error = 8.0 * step.machine.unit * (1.0 + 2.0 * abs(beta)) + 8.0 * step.machine.smallest
    return replace(sketch, lower=sketch.lower - error, upper=sketch.upper + error)


# ── several operands, and windows ───────────────────────────────────────────────────────────────────────────────
@planes("Mul")
def multiply(step: Step) -> Sketch:
    """Return planes of a product of two boxes (McCormick 1976), or of a square.

    l_y x + l_x y − l_x l_y ≤ x y ≤ u_y x + l_x y − l_x u_y, from (x − l_x)(y − l_y) ≥ 0 and (x − l_x)(u_y − y) ≥ 0.
    """
    if step.names[0] == step.names[1]:
        return _convex(step, np.square, lambda x: 2.0 * x)
    x, y = step.box(0), step.box(1)
    shape = np.broadcast_shapes(x.shape, y.shape)
    low_x, low_y, high_y = (np.broadcast_to(side, shape).ravel() for side in (x.lower, y.lower, y.upper))
    parts = [
        _broadcast_part(slot, box, shape, slopes)
        for slot, box, slopes in ((0, x, (low_y, high_y)), (1, y, (low_x, low_x)))
    ]
    return Sketch(parts, -low_x * low_y, -low_x * high_y)


def _broadcast_part(slot: int, box: Box, shape: tuple[int, ...], slopes: tuple[Array, Array]) -> Part:
    magnitude = np.broadcast_to(box.magnitude, shape).ravel()
    copies = magnitude.size // max(1, box.lower.size)
    return Part(slot, broadcast_pull(box.shape, shape), *slopes, magnitude, copies)


@planes("Max", "Min")
def extreme(step: Step) -> Sketch:
    """Return planes of the greatest or least operand."""
    boxes = [step.box(slot) for slot in range(len(step.operands))]
    shape = np.broadcast_shapes(*(box.shape for box in boxes))
    lowers, uppers = (
        np.stack([np.broadcast_to(side, shape).ravel() for side in sides])
        for sides in ([box.lower for box in boxes], [box.upper for box in boxes])
    )
    spreads = [broadcast_pull(box.shape, shape) for box in boxes]
    copies = max(prod(shape) // max(1, box.lower.size) for box in boxes)
    names = [slot if isinstance(step.value(slot), Box) else -1 for slot in range(len(boxes))]
    if step.node.op_type == "Min":
        return _mirrored(_greatest(-uppers, -lowers, names, spreads, copies))
    return _greatest(lowers, uppers, names, spreads, copies)


@planes("MaxPool")
def max_pool(step: Step) -> Sketch:
    """Return planes of the greatest element of each window.

    Below: the element of greatest lower bound. Above: the same one where no other reaches that bound, else the
    greatest upper bound. What lies outside the padded data is no element.
    """
    x = step.box(0)
    windows = Windows.of(step, step.attributes["kernel_shape"], x.shape[2:])
    rank = len(windows.kernel)
    sources = windows.views(windows.padded(np.arange(float(x.lower.size)).reshape(x.shape), -1.0))
    flat = sources.reshape(*sources.shape[: sources.ndim - rank], -1)
    columns = np.moveaxis(flat, -1, 0).reshape(flat.shape[-1], -1).astype(np.int64)
    lowers, uppers = (np.where(columns >= 0, side.ravel()[columns], -np.inf) for side in (x.lower, x.upper))
    sizes = np.where(columns >= 0, x.magnitude.ravel()[columns], 0.0)
    picked = np.arange(len(columns))[:, None] == lowers.argmax(0)[None]
    rivals = np.where(picked, -np.inf, uppers).max(0)
    alone = lowers.max(0) >= rivals
    missing = ((columns >= 0) & ~np.isfinite(lowers + uppers)).any(0)
    parts = [
        Part(0, _window_spread(column, x.lower.size), np.where(missing, np.nan, chosen), 1.0 * (chosen & alone), size)
        for column, chosen, size in zip(columns, picked, sizes, strict=True)
    ]
    return Sketch(parts, np.zeros(lowers.shape[1]), np.where(alone, 0.0, uppers.max(0)))


def _window_spread(sources: NDArray[np.int64], size: int) -> Pull:
    positions = np.flatnonzero(sources >= 0)
    return scatter(sources[positions], positions, size)


def _greatest(lowers: Array, uppers: Array, slots: Sequence[int], spreads: Sequence[Pull], copies: int) -> Sketch:
    """Return planes of the greatest of n boxes (n, K); −∞ stands for none, slot −1 for a constant.

    Below: the one of the greatest middle, for the greatest is at least that. Above, with c the greatest lower bound,
    c + Σ s_k (x_k − l_k), s_k = max(u_k − c, 0) / (u_k − l_k): no term is negative, and each is at least x_k − c at
    both ends of its box. Where that is higher at the middle than the greatest upper bound, that bound.
    """
    there = np.isfinite(lowers) & np.isfinite(uppers)
    low, high = np.where(there, lowers, 0.0), np.where(there, uppers, 0.0)
    middles = np.where(there, 0.5 * low + 0.5 * high, -np.inf)
    floor, ceiling = lowers.max(0), uppers.max(0)
    width = high - low
    slopes = np.where(there & (width > 0), np.maximum(high - floor, 0.0) / np.where(width > 0, width, 1.0), 0.0)
    offset = floor - (slopes * low).sum(0)
    flat = offset + np.where(there, slopes * middles, 0.0).sum(0) > ceiling
    slopes, offset = np.where(flat, 0.0, slopes), np.where(flat, ceiling, offset)
    picked = np.arange(len(lowers))[:, None] == middles.argmax(0)[None]
    fixed = np.array([slot < 0 for slot in slots])[:, None]
    lower = np.where(picked & fixed, low, 0.0).sum(0)
    upper = offset + np.where(fixed, slopes * low, 0.0).sum(0)
    missing = (~there & (uppers > -np.inf)).any(0) | ~np.isfinite(floor) | ~np.isfinite(ceiling)
    parts = [
        Part(
            slot,
            spread,
            np.where(missing, np.nan, chosen.astype(np.float64)),
            slope,
            np.maximum(np.abs(least), np.abs(most)),
            copies,
        )
        for slot, spread, chosen, slope, least, most in zip(slots, spreads, picked, slopes, low, high, strict=True)
        if slot >= 0
    ]
    return Sketch(parts, lower, upper)


def _mirrored(sketch: Sketch) -> Sketch:
    """Return the planes of −f(−x), given those of f."""
    parts = [replace(part, below=part.above, above=part.below) for part in sketch.parts]
    return Sketch(parts, -sketch.upper, -sketch.lower)
