"""Planes of functions that are convex or concave: a tangent on one side, the chord on the other."""

from __future__ import annotations

import numpy as np

from ibpc.verify.checking.gates import logistic
from ibpc.verify.checking.planes.base import Function, Sketch, planes
from ibpc.verify.checking.planes.pieces import Piece, pieced
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array


def convex(step: Step, function: Function, derivative: Function) -> Sketch:
    """Return the tangent at the middle below, the chord above; functions take flat arrays."""
    return pieced(step, function, [Piece(np.inf, True, derivative)])


def _concave(step: Step, function: Function, derivative: Function) -> Sketch:
    """Return the chord below, the tangent at the middle above."""
    return pieced(step, function, [Piece(np.inf, False, derivative)])


@planes("Exp")
def exponential(step: Step) -> Sketch:
    """Return planes of eˣ, which is convex."""
    return convex(step, np.exp, np.exp)


@planes("Cosh")
def hyperbolic_cosine(step: Step) -> Sketch:
    """Return planes of (eˣ + e⁻ˣ) / 2, which is convex."""
    return convex(step, np.cosh, np.sinh)


@planes("Softplus")
def softplus(step: Step) -> Sketch:
    """Return planes of ln(1 + eˣ), which is convex."""
    return convex(step, lambda x: np.logaddexp(x, 0.0), logistic)


@planes("Celu")
def celu(step: Step) -> Sketch:
    """Return planes of x where x ≥ 0, alpha (e^(x / alpha) − 1) elsewhere, which is convex."""
    alpha = float(step.attributes.get("alpha", 1.0))

    def function(x: Array) -> Array:
        return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))

    return convex(step, function, lambda x: np.exp(np.minimum(x, 0.0) / alpha))


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
    return convex(step, _where_positive(step, lambda x: 1.0 / x), lambda x: -1.0 / (x * x))


def _where_positive(step: Step, function: Function) -> Function:
    positive = step.box(0).lower.ravel() > 0
    return lambda x: np.where(positive, function(x), np.nan)


@planes("Pow")
def power(step: Step) -> Sketch:
    """Return planes of constant powers where they are convex: even ones, and those of at least 1 for x ≥ 0."""
    x, exponent = step.box(0), step.constant(1).wide
    if np.broadcast_shapes(x.shape, exponent.shape) != x.shape:
        step.fail("its exponents are more than its base")
    powers = np.broadcast_to(exponent, x.shape).ravel()
    is_convex = (powers % 2 == 0) & (powers > 0) | (x.lower.ravel() >= 0) & (powers >= 1)

    def function(point: Array) -> Array:
        return np.where(is_convex, np.power(point, powers), np.nan)

    return convex(step, function, lambda point: powers * np.power(point, powers - 1.0))
