"""Bounds of standardized elements, and of variances from below, in real arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import sqrt
from typing import Final

import numpy as np

from ibpc.verify.checking.arithmetic import OWN_UNIT
from ibpc.verify.checking.groups import OWN_SHARE
from ibpc.verify.checking.values import Array, Box

_MOST_CORNERS: Final = 8
_MOST_NUMBERS: Final = 2**21
_STEPS: Final = 60


def standardized(x: Box, epsilon: float) -> Box:
    """Bound (x_i − mean) / √(variance + ε) over each group, x (groups, n), in real arithmetic.

    With p_j = x_i − x_j for the N = n − 1 others, P = Σ p_j / N, A = (Σ p_j² + n ε) / N and V = P / √A, it is
    √N V / √(1 + N (1 − V²)), which rises in V and, the others fixed, in x_i. The least value is the greatest one of −x,
    negated.
    """
    return Box(-_greatest(-x.upper, -x.lower, epsilon), _greatest(x.lower, x.upper, epsilon))


def _greatest(lower: Array, upper: Array, epsilon: float) -> Array:
    """Return an upper bound of each standardized value: x_i is at its upper end, the p_j range over boxes."""
    size = lower.shape[-1]
    others, result = size - 1, np.zeros(lower.size)
    if not others:
        return result.reshape(lower.shape)
    at_once = max(1, _MOST_NUMBERS // size)
    for start in range(0, lower.size, at_once):
        group, place = np.divmod(np.arange(start, min(lower.size, start + at_once)), size)
        own, rows = upper[group, place, None], np.arange(len(place))
        slack = 2.0**-50 * (np.abs(own) + np.maximum(np.abs(lower), np.abs(upper))[group])
        low, high = own - upper[group] - slack, own - lower[group] + slack
        low[rows, place] = high[rows, place] = 0.0
        ratio, is_above = np.empty(len(rows)), high.sum(-1) > 0
        for chosen, bound in ((is_above, _above), (~is_above, _below)):
            ratio[chosen] = bound(low[chosen], high[chosen], size * epsilon)
        found = sqrt(others) * ratio / np.sqrt(1.0 + others * (1.0 - ratio) * (1.0 + ratio))
        result[start : start + len(rows)] = found + np.abs(found) * ((size + 16.0) * OWN_SHARE)
    return result.reshape(lower.shape)


def _above(low: Array, high: Array, added: float) -> Array:
    """Return a bound of V ≥ 0 for each row of boxes of p, `added` being n ε.

    For any p* with A* = (Σ p*² + n ε) / N, √A ≥ (Σ p* p + n ε) / (N √A*) by Cauchy and Schwarz. So P − V* √A is at most
    a sum of c_j p_j − V* n ε / (N √A*), which its signs maximize, and V is above V* by at most that over the least √A.
    It is 0 for the best p*: all p_j as near to one t as they can be, with t Σ p = Σ p² + n ε.
    """
    others = low.shape[-1] - 1
    reach = high.sum(-1)
    far = np.where(reach > 0, (np.square(high).sum(-1) + added) / np.where(reach > 0, reach, 1.0), 1.0)

    def excess(t: Array) -> tuple[Array, Array]:
        """Return Σ p² + n ε − t Σ p, and the t at which its present linear piece is 0."""
        near = np.clip(t[:, None], low, high)
        held = np.where(near == t[:, None], 0.0, near)
        total, squares = held.sum(-1), np.square(held).sum(-1) + added
        return squares - t * total, np.where(total > 0, squares / np.where(total > 0, total, 1.0), np.inf)

    t = _crossing(excess, np.maximum(far, high.max(-1)))
    best = np.clip(t[:, None], low, high)
    best = np.where((low == 0.0) & (high == 0.0), 0.0, best)
    root = np.sqrt((np.square(best).sum(-1) + added) / others) * (1.0 + (others + 8.0) * OWN_UNIT)
    ratio = np.maximum(best.sum(-1) / others / root, 0.0)
    pulls = (1.0 - (ratio / root)[:, None] * best) / others
    missed = np.maximum(pulls * low, pulls * high).sum(-1) - ratio * added / (others * root)
    sizes = (1.0 + (ratio / root)[:, None] * np.abs(best)) / others * np.maximum(np.abs(low), np.abs(high))
    missed = missed + (others + 16.0) * 2.0 * OWN_UNIT * (sizes.sum(-1) + ratio * added / (others * root))
    smallest = np.square(np.maximum(np.maximum(low, -high), 0.0)).sum(-1)
    least = np.sqrt((smallest + added) / others) * (1.0 - (others + 8.0) * OWN_UNIT)
    return np.asarray(np.minimum(ratio * (1.0 + 2.0**-48) + np.maximum(missed, 0.0) / least, 1.0))


def _below(low: Array, high: Array, added: float) -> Array:
    """Return a bound of V for each row of boxes of p where no P is positive.

    With q = −p, V² = max_τ (2 τ Σ q − τ² (Σ q² + n ε)) / N. For any τ this is at least a sum of terms, each least at an
    end of its q. In small groups all corners are tried: P + v √A is convex, so the greatest V is at one of them.
    """
    others = low.shape[-1] - 1

    def terms(tau: Array) -> tuple[Array, Array]:
        """Return for each q the end at which its term is least, and the term."""
        ends = [(q, tau[:, None] * q * (2.0 - tau[:, None] * q)) for q in (-high, -low)]
        is_first = ends[0][1] <= ends[1][1]
        return np.where(is_first, ends[0][0], ends[1][0]), np.minimum(ends[0][1], ends[1][1])

    def slope(tau: Array) -> tuple[Array, Array]:
        q, _ = terms(tau)
        total, squares = q.sum(-1), np.square(q).sum(-1) + added
        return total - tau * squares, total / squares

    tau = _crossing(slope, np.maximum(-low.sum(-1), 0.0) / added + 1.0)
    q, term = terms(tau)
    square = (term.sum(-1) - tau * tau * added) / others
    size = (tau[:, None] * np.abs(q) * (2.0 + tau[:, None] * np.abs(q))).sum(-1) + tau * tau * added
    square = square - (others + 16.0) * 2.0 * OWN_UNIT * size / others
    found = -np.sqrt(np.maximum(square, 0.0))
    return np.asarray(np.minimum(found, _at_corners(low, high, added)) if others < _MOST_CORNERS else found)


def _at_corners(low: Array, high: Array, added: float) -> Array:
    """Return the greatest V at the corners of the boxes of p, plus its rounding."""
    size = low.shape[-1]
    result = np.full(len(low), -np.inf)
    for sides in product((False, True), repeat=size):
        p = np.where(sides, high, low)
        result = np.maximum(result, p.sum(-1) / np.sqrt((np.square(p).sum(-1) + added) * (size - 1)))
    return np.asarray(result + size * 2.0**-48)


def _crossing(function: Callable[[Array], tuple[Array, Array]], most: Array) -> Array:
    """Return approximately where a piecewise linear function changes from positive to negative in [0, most].

    Besides its value the function returns the zero of its present piece, which is tried if it lies in the bracket.
    """
    start, end = np.zeros_like(most), most
    guess = 0.5 * most
    for _ in range(_STEPS):
        value, crossing = function(guess)
        start, end = np.where(value > 0, guess, start), np.where(value > 0, end, guess)
        inside = (crossing > start) & (crossing < end)
        following = np.where(inside, crossing, 0.5 * start + 0.5 * end)
        if bool(((end - start <= 2.0**-48 * most) | (value == 0) | (following == guess)).all()):
            break
        guess = np.where(value == 0, guess, following)
    return guess


def least_variance(x: Box) -> Array:
    """Return a lower bound of the variance of each group, (groups, 1).

    For any e with Σ e = 0, √(n variance) ≥ Σ e x / ‖e‖. Tried are the deviations of the boxes' centers, then those of
    points moved as close together as the boxes allow.
    """
    point = 0.5 * x.lower + 0.5 * x.upper
    size, result = point.shape[-1], np.zeros((len(point), 1))
    for _ in range(24):
        apart = point - point.mean(-1, keepdims=True)
        rest, length = np.abs(apart.sum(-1, keepdims=True)), np.sqrt(np.square(apart).sum(-1, keepdims=True))
        least = np.minimum(apart * x.lower, apart * x.upper).sum(-1, keepdims=True)
        reach = (np.abs(apart) * x.magnitude).sum(-1, keepdims=True)
        least = least - rest * x.magnitude.max(-1, keepdims=True) - size * 2.0**-50 * reach
        root = np.maximum(least, 0.0) / np.where(length > 0, length, 1.0)
        result = np.maximum(result, np.square(root) * ((1.0 - size * 2.0**-48) / size))
        point = np.clip(point.mean(-1, keepdims=True), x.lower, x.upper)
    return result
