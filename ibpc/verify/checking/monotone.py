"""Functions that never fall in any operand: [f(l), f(u)], attained; in binary32 widened by the error of an execution.

Executions are assumed to be within 8 ulps (16 u relative), plus an absolute error for functions that may be composed of
an exponential and a sum, where cancellation loses digits:
sigmoid as (1 + tanh(x/2)) / 2, tanh as 1 − 2 / (e²ˣ + 1), elu as eˣ − 1, softplus as ln(1 + eˣ),
sinh as (eˣ − e⁻ˣ) / 2, its inverse as ln(|x| + √(x² + 1)), that of tanh as ln((1 + x) / (1 − x)) / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.linear import reduced_axes
from ibpc.verify.checking.rules import Step, careful, rule
from ibpc.verify.checking.values import Array, Box, unknown, unless

Function = Callable[[Array], NDArray[Any]]

_HARD: Final = {"alpha": 0.2, "beta": 0.5}


def rising(step: Step, function: Function, absolute: float = 0.0) -> Box:
    """Bound an elementary function of the operand, whose error is 8 ulps plus `absolute` u."""
    x = step.box(0)
    return step.near(function(x.lower), function(x.upper), absolute=absolute)


# ── exact ───────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Relu")
@careful
def relu(step: Step) -> Box:
    """Bound max(x, 0), exactly."""
    x = step.box(0)
    return Box(np.maximum(x.lower, 0.0), np.maximum(x.upper, 0.0))


@rule("Clip")
@careful
def clip(step: Step) -> Box:
    """Bound min(max(x, least), most), exactly. Ends are attributes before version 11."""
    x = step.box(0)
    least = step.constant(1).wide if step.has(1) else step.attributes.get("min", -np.inf)
    most = step.constant(2).wide if step.has(2) else step.attributes.get("max", np.inf)
    lower, upper = (np.minimum(np.maximum(side, least), most) for side in (x.lower, x.upper))
    return Box(lower, upper)


@rule("Max", "Min")
@careful
def extreme(step: Step) -> Box:
    """Bound the greatest or least of the operands, exactly."""
    choose = np.maximum if step.node.op_type == "Max" else np.minimum
    boxes = [step.box(slot) for slot in range(len(step.operands))]
    lower, upper = boxes[0].lower, boxes[0].upper
    for box in boxes[1:]:
        lower, upper = choose(lower, box.lower), choose(upper, box.upper)
    return Box(lower, upper)


@rule("ReduceMax", "ReduceMin")
def reduce_extreme(step: Step) -> Box:
    """Bound the greatest or least element along axes, exactly."""
    x, axes, keep = step.box(0), reduced_axes(step), bool(step.attributes.get("keepdims", 1))
    if axes is None:
        return x
    if not x.lower.size:
        step.fail("its operand is empty")
    choose = np.max if step.node.op_type == "ReduceMax" else np.min
    lower, upper = (np.asarray(choose(side, axis=axes, keepdims=keep)) for side in (x.lower, x.upper))
    return unless(unknown(x).any(axes, keepdims=keep), Box(lower, upper))


# ── piecewise linear ────────────────────────────────────────────────────────────────────────────────────────────
@rule("LeakyRelu")
@careful
def leaky_relu(step: Step) -> Box:
    """Bound x where x ≥ 0, alpha x elsewhere."""
    return _leaky(step, np.asarray(float(step.attributes.get("alpha", 0.01))))


@rule("PRelu")
@careful
def prelu(step: Step) -> Box:
    """Bound x where x ≥ 0, slope x elsewhere."""
    return _leaky(step, step.constant(1).wide)


def _leaky(step: Step, slope: Array) -> Box:
    """Bound by the values at l, u, and 0 if it lies between them, as slopes may be negative. One product."""
    x = step.box(0)
    points = [x.lower, x.upper, np.clip(0.0, x.lower, x.upper)]
    slopes = step.machine.flushed(slope, slope)
    values = [np.where(point >= 0, point, factor * point) for point in points for factor in slopes]
    wide = step.near(np.minimum.reduce(values), np.maximum.reduce(values), ulps=1)
    linear = x.lower >= 0
    return Box(np.where(linear, x.lower, wide.lower), np.where(linear, x.upper, wide.upper))


@rule("HardSigmoid")
@careful
def hard_sigmoid(step: Step) -> Box:
    """Bound min(max(alpha x + beta, 0), 1): a product and a sum, clipped exactly."""
    x = step.box(0)
    alpha, beta = (np.float64(step.attributes.get(name, np.float32(value))) for name, value in _HARD.items())
    ends = [np.where(alpha >= 0, *pair) for pair in ((x.lower, x.upper), (x.upper, x.lower))]
    values, moduli = [alpha * end + beta for end in ends], [np.abs(alpha * end) + abs(beta) for end in ends]
    errors = [
        step.machine.sum_error(4, size, float(np.abs(end).max(initial=0.0)))
        for size, end in zip(moduli, ends, strict=True)
    ]
    lower, upper = (np.clip(value, 0.0, 1.0) for value in (values[0] - errors[0], values[1] + errors[1]))
    return Box(lower, upper)


# ── elementary ──────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Sigmoid")
@careful
def sigmoid(step: Step) -> Box:
    """Bound 1 / (1 + e⁻ˣ)."""
    return rising(step, lambda x: 1.0 / (1.0 + np.exp(-x)), absolute=10.0)


@rule("Tanh")
@careful
def tanh(step: Step) -> Box:
    """Bound the hyperbolic tangent."""
    return rising(step, np.tanh, absolute=14.0)


@rule("Softplus")
@careful
def softplus(step: Step) -> Box:
    """Bound ln(1 + eˣ)."""
    return rising(step, lambda x: np.logaddexp(x, 0.0), absolute=18.0)


@rule("Exp")
@careful
def exponential(step: Step) -> Box:
    """Bound eˣ."""
    return rising(step, np.exp)


@rule("Log")
def logarithm(step: Step) -> Box:
    """Bound ln x; NaN at negative numbers bounds nothing. Near 1 the error is absolute, as ln x is near 0."""
    return rising(step, np.log, absolute=1.0)


@rule("Sqrt")
def root(step: Step) -> Box:
    """Bound √x; NaN at negative numbers bounds nothing."""
    return rising(step, np.sqrt)


@rule("Softsign")
def softsign(step: Step) -> Box:
    """Bound x / (1 + |x|): three roundings and no cancellation. NaN at ±∞ bounds nothing."""
    x = step.box(0)
    return step.near(x.lower / (1.0 + np.abs(x.lower)), x.upper / (1.0 + np.abs(x.upper)), ulps=3)


@rule("Erf")
@careful
def error_function(step: Step) -> Box:
    """Bound the error function. One minus a polynomial times e⁻ˣ² is off by 3 u and the 16 u of the exponential."""
    return rising(step, lambda x: np.asarray(np.vectorize(erf, otypes=[np.float64])(x)), absolute=22.0)


@rule("Atan")
@careful
def arc_tangent(step: Step) -> Box:
    """Bound the inverse of the tangent. Nothing cancels in it."""
    return rising(step, np.arctan)


@rule("Asinh")
@careful
def area_sine(step: Step) -> Box:
    """Bound the inverse of the hyperbolic sine: a logarithm whose argument is off by 3 u, and its own error near 1."""
    return rising(step, np.arcsinh, absolute=5.0)


@rule("Atanh")
def area_tangent(step: Step) -> Box:
    """Bound the inverse of the hyperbolic tangent; NaN beyond −1 and 1 bounds nothing.

    It is half of a logarithm whose argument is off by 3 u.
    """
    return rising(step, np.arctanh, absolute=4.0)


@rule("Sinh")
@careful
def hyperbolic_sine(step: Step) -> Box:
    """Bound (eˣ − e⁻ˣ) / 2. Exponentials are off by 16 u cosh x ≤ 16 u (1 + |sinh x|), two more operations round."""
    x = step.box(0)
    return _halved(step, step.near(np.sinh(x.lower), np.sinh(x.upper), ulps=9, absolute=19.0))


@rule("Cosh")
@careful
def hyperbolic_cosine(step: Step) -> Box:
    """Bound (eˣ + e⁻ˣ) / 2, which falls up to 0 and rises from there; two operations round besides the exponentials."""
    x = step.box(0)
    least = np.cosh(np.clip(0.0, x.lower, x.upper))
    return _halved(step, step.near(least, np.cosh(x.magnitude), ulps=9))


def _halved(step: Step, found: Box) -> Box:
    """Return the box of half of a sum, infinite where the sum itself may overflow."""
    half = 0.5 * step.machine.largest
    return Box(np.where(found.lower < -half, -np.inf, found.lower), np.where(found.upper > half, np.inf, found.upper))


@rule("Elu")
@careful
def elu(step: Step) -> Box:
    """Bound x where x ≥ 0, alpha (eˣ − 1) elsewhere."""
    return _exponential_unit(step, float(step.attributes.get("alpha", 1.0)), 1.0)


@rule("Celu")
@careful
def celu(step: Step) -> Box:
    """Bound x where x ≥ 0, alpha (e^(x / alpha) − 1) elsewhere, for a positive alpha.

    The quotient t rounds too, which changes eᵗ by |t| eᵗ u ≤ 0.37 u. For x ≥ 0 the formula of the standard, alpha
    Elu(t), rounds x twice.
    """
    alpha = float(step.attributes.get("alpha", 1.0))
    if not alpha > step.machine.smallest:
        step.fail(f"alpha {alpha}", "a positive number")
    x = step.box(0)
    below = [alpha * np.expm1(np.minimum(side, 0.0) / alpha) for side in (x.lower, x.upper)]
    wide, same = step.near(below[0], below[1], absolute=20.0 * alpha), step.near(x.lower, x.upper, ulps=3)
    return Box(np.where(x.lower >= 0, same.lower, wide.lower), np.where(x.upper >= 0, same.upper, wide.upper))


@rule("Selu")
@careful
def selu(step: Step) -> Box:
    """Bound gamma x where x ≥ 0, gamma alpha (eˣ − 1) elsewhere."""
    alpha = float(step.attributes.get("alpha", 1.67326319217681884765625))
    return _exponential_unit(step, alpha, float(step.attributes.get("gamma", 1.05070102214813232421875)))


def _exponential_unit(step: Step, alpha: float, gamma: float) -> Box:
    """Bound by the values at l, u, and 0 if it lies between them. For x ≥ 0 it is a product with gamma only."""
    if 0 < abs(gamma) < step.machine.smallest:
        step.fail(f"gamma {gamma} may be flushed to zero")
    x = step.box(0)
    points = [x.lower, x.upper, np.clip(0.0, x.lower, x.upper)]
    values = [gamma * np.where(point >= 0, point, alpha * np.expm1(np.minimum(point, 0.0))) for point in points]
    least, most = np.minimum.reduce(values), np.maximum.reduce(values)
    wide = step.near(least, most, absolute=18.0 * abs(alpha * gamma))
    straight = Box(x.lower, x.upper) if gamma == 1.0 else step.near(least, most, ulps=1)
    linear = x.lower >= 0
    return Box(np.where(linear, straight.lower, wide.lower), np.where(linear, straight.upper, wide.upper))
