"""Normalizations: elements over the deviation or the norm of their group, and over a power of what is near them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod, sqrt
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ibpc.verify.checking.norms import least_modulus
from ibpc.verify.checking.values import OWN_UNIT, Array, Box, Machine, Step, rule, unless

_MOST_CORNERS: Final = 8
_MOST_NUMBERS: Final = 2**21
_STEPS: Final = 60
# What the checker's own formulas round, relative: some tens of operations beside the sums.
_OWN: Final = 2.0**-46
_STASH: Final = (1, 11)


@dataclass(frozen=True, eq=False)
class Groups:
    """Elements by groups, (groups, size), and what each is multiplied by and added to in the end."""

    x: Box
    scale: Array
    shift: Array


# ── the greatest standardized value ─────────────────────────────────────────────────────────────────────────────
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
        result[start : start + len(rows)] = found + np.abs(found) * ((size + 16.0) * _OWN)
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
        """Return Σ p² + n ε − t Σ p, and where that of the p which are not t is 0."""
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

    With q = −p, V² = max_τ (2 τ Σ q − τ² (Σ q² + n ε)) / N, which for any τ is at least a sum of terms that are least
    at an end of each q. In small groups all corners are tried: P + v √A is convex, so the greatest V is at one.
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
    """Return the greatest V at the corners of the boxes of p, with what it may round."""
    size = low.shape[-1]
    result = np.full(len(low), -np.inf)
    for sides in product((False, True), repeat=size):
        p = np.where(sides, high, low)
        result = np.maximum(result, p.sum(-1) / np.sqrt((np.square(p).sum(-1) + added) * (size - 1)))
    return np.asarray(result + size * 2.0**-48)


def _crossing(function: Callable[[Array], tuple[Array, Array]], most: Array) -> Array:
    """Return about where a function that is linear piece by piece turns from positive to negative, from 0 to `most`.

    Besides its value it gives where its piece is 0, which is tried wherever it lies between the ends that are left.
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


# ── what an execution misses ────────────────────────────────────────────────────────────────────────────────────
def _least_variance(x: Box) -> Array:
    """Return a lower bound of the variance of each group, (groups, 1).

    For any e with Σ e = 0, √(n variance) ≥ Σ e x / ‖e‖. Tried are the deviations of the boxes' centers, and those of
    the points that are as near to one another as the boxes let them be.
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


@dataclass(frozen=True, eq=False)
class _Missed:
    """What an execution misses of a standardized value, (groups, 1) but for `absolute`, and where that is known.

    `steepest` is the greatest inverse deviation that it can have.
    """

    relative: Array
    absolute: Array
    steepest: Array
    known: NDArray[np.bool_]


def _missed(machine: Machine, x: Box, epsilon: float, scale: Array) -> _Missed:
    """Return how far a standardized value is off, with m₁ and m₂ the greatest means of |x| and x².

    The mean misses γ m₁, γ = γₙ₊₄. As the mean of squares without the square of the mean, the variance misses
    γ (m₂ + 2 m₁²) + γ² m₁², and less as the mean of squares of deviations; relative to variance + ε that is κ, which
    changes the inverse root by 1 / √(1 − κ), besides a root and a quotient within 8 ulps each. x − mean, or x and the
    mean scaled apart, round a few times relative to |x| + m₁.
    """
    size, unit, smallest = x.shape[-1], machine.unit, machine.smallest
    if (size + 4) * unit >= 0.25:
        one = np.ones(x.shape)
        return _Missed(one, one, one, np.zeros(x.shape, bool))
    gamma = (size + 4) * unit / (1.0 - (size + 4) * unit)
    first, second = (side.mean(-1, keepdims=True) for side in (x.magnitude, np.square(x.magnitude)))
    least = _least_variance(x) + epsilon
    lost = gamma * (second + (2.0 + gamma) * first * first) + 4.0 * (size + 16) * smallest
    lost = lost / least + 4.0 * unit
    growth = 1.0 / np.sqrt(1.0 - np.minimum(lost, 0.5))
    relative = growth * (1.0 + 64.0 * unit) - 1.0 + _OWN
    steepest = (1.0 + relative) / np.sqrt(least)
    absolute = (gamma * first + 4.0 * unit * (x.magnitude + first)) * steepest
    absolute = absolute + 16.0 * smallest * (1.0 + steepest + x.magnitude + first)
    greatest = 8.0 * (1.0 + steepest) * (1.0 + np.abs(scale)) * (1.0 + x.magnitude + first)
    known = (lost < 0.5) & (4.0 * size * second < machine.largest) & (greatest < machine.largest)
    return _Missed(relative, absolute, steepest, known)


def _in_arithmetic(step: Step, groups: Groups, value: Box, missed: _Missed) -> Box:
    """Return the scaled and shifted values with all that an execution misses of them."""
    unit, smallest, scale = step.machine.unit, step.machine.smallest, groups.scale
    low = value.lower - np.abs(value.lower) * missed.relative - missed.absolute
    high = value.upper + np.abs(value.upper) * missed.relative + missed.absolute
    lower, upper = np.minimum(scale * low, scale * high), np.maximum(scale * low, scale * high)
    flushed = 16.0 * smallest * (2.0 + np.maximum(np.abs(low), np.abs(high)) + np.abs(scale))
    slack = [(16.0 * unit + _OWN) * (np.abs(end) + np.abs(groups.shift)) + flushed for end in (lower, upper)]
    return unless(~missed.known, Box(lower + groups.shift - slack[0], upper + groups.shift + slack[1]))


def _finite(x: Box) -> tuple[Box, NDArray[np.bool_]]:
    """Return the box with 0 in place of groups that have an element with an infinite end, and where these are."""
    lost = ~(np.isfinite(x.lower) & np.isfinite(x.upper)).all(-1, keepdims=True)
    return Box(np.where(lost, 0.0, x.lower), np.where(lost, 0.0, x.upper)), np.broadcast_to(lost, x.shape)


def _epsilon(step: Step) -> float:
    epsilon = float(step.attributes.get("epsilon", np.float32(1e-5)))
    if not epsilon > step.machine.smallest:
        step.fail(f"epsilon {epsilon:g}", "a positive number")
    return epsilon


def _by_groups(step: Step, count: int, scale: Array, shift: Array) -> tuple[Groups, NDArray[np.bool_]]:
    """Return the elements in `count` groups, scale and shift being in the shape of the operand."""
    x, shape = step.box(0), (count, -1)
    if not x.lower.size:
        step.fail("its operand is empty")
    box, lost = _finite(Box(x.lower.reshape(shape), x.upper.reshape(shape)))
    wide = [np.broadcast_to(each, x.shape).reshape(shape) for each in (scale, shift)]
    return Groups(box, wide[0], wide[1]), lost


def _standardize(step: Step, count: int, scale: Array, shift: Array) -> tuple[Box, Groups, _Missed]:
    """Bound (x − mean) / √(variance + ε) · scale + shift over `count` groups of elements, in the order of the file."""
    step.require_floats()
    epsilon = _epsilon(step)
    groups, lost = _by_groups(step, count, scale, shift)
    value = standardized(groups.x, epsilon)
    missed = _missed(step.machine, groups.x, epsilon, groups.scale)
    found = unless(lost, _in_arithmetic(step, groups, value, missed))
    shape = step.value(0).shape
    return Box(found.lower.reshape(shape), found.upper.reshape(shape)), groups, missed


# ── standardizations ────────────────────────────────────────────────────────────────────────────────────────────
@rule("LayerNormalization")
def layer_normalization(step: Step) -> list[Box]:
    """Bound the standardization over the dimensions from `axis` on, and mean and inverse deviation where asked for."""
    axis, scale, shift = _layer(step)
    shape = step.value(0).shape
    result, groups, missed = _standardize(step, prod(shape[:axis]), scale, shift)
    if len([name for name in step.node.output if name]) < 2:
        return [result]
    if not bool(np.isfinite(step.box(0).lower + step.box(0).upper).all()):
        step.fail("its mean is asked for, and a number may be infinite")
    x, kept = groups.x, (*shape[:axis], *[1] * (len(shape) - axis))
    mean = [side.mean(-1) for side in (x.lower, x.upper, x.magnitude)]
    error = step.machine.sum_error(x.shape[-1] + 2, mean[2])
    apart = x.lower + x.upper
    apart = 0.5 * np.abs(apart - apart.mean(-1, keepdims=True)) + 0.5 * (x.upper - x.lower)
    greatest = np.square(apart).mean(-1, keepdims=True) * (1.0 + _OWN) + _epsilon(step)
    least = (1.0 - np.minimum(missed.relative, 1.0)) / np.sqrt(greatest)
    inverse = unless(~missed.known.all(-1, keepdims=True), Box(least[:, :1], missed.steepest[:, :1]))
    return [
        result,
        Box((mean[0] - error).reshape(kept), (mean[1] + error).reshape(kept)),
        Box(inverse.lower.reshape(kept), inverse.upper.reshape(kept)),
    ]


def _layer(step: Step) -> tuple[int, Array, Array]:
    """Return the first axis that is normalized, scale and shift."""
    rank = len(step.value(0).shape)
    axis = int(step.attributes.get("axis", -1))
    if step.attributes.get("stash_type", 1) not in _STASH:
        step.fail(f"it computes in element type {step.attributes['stash_type']}", "floats of 32 or 64 bits")
    scale, shift = (step.constant(slot).wide if step.has(slot) else np.asarray(float(slot == 1)) for slot in (1, 2))
    return axis % rank, scale, shift


@rule("InstanceNormalization", "GroupNormalization")
def group_normalization(step: Step) -> Box:
    """Bound the standardization over each channel, or over groups of channels, with all their positions.

    GroupNormalization has one scale and shift for each group before version 21, one for each channel from it on.
    """
    shape = step.value(0).shape
    count = int(step.attributes.get("num_groups", 0)) or shape[1]
    if shape[1] % count or step.attributes.get("stash_type", 1) not in _STASH:
        step.fail(f"{count} groups of {shape[1]} channels, or a stash_type that is no float of 32 bits")
    factors = []
    for slot in (1, 2):
        values = step.constant(slot).wide
        if step.node.op_type == "GroupNormalization" and step.version < 21:
            values = np.repeat(values, shape[1] // count)
        factors.append(values.reshape(-1, *[1] * (len(shape) - 2)))
    return _standardize(step, shape[0] * count, factors[0], factors[1])[0]


# ── by norms ────────────────────────────────────────────────────────────────────────────────────────────────────
def _over_norm(x: Box, norm: Callable[[Array, Array], Array], power: float) -> Box:
    """Bound x_i over a norm of |x_i| and the sum of the other |x_j|ᵖ, which rises in x_i and falls in |x_i| Σ.

    The others are at their least for x_i ≥ 0 and at their greatest below in the upper bound, and the other way round in
    the lower one. Sums without one term are differences, moved outward by what those round.
    """
    powers = [end**power for end in (least_modulus(x), x.magnitude)]
    totals = [each.sum(-1, keepdims=True) for each in powers]
    slack = x.shape[-1] * 2.0**-51
    least = np.maximum(totals[0] * (1.0 - slack) - powers[0], 0.0)
    most = np.maximum(totals[1] * (1.0 + slack) - powers[1], 0.0)
    lower = x.lower / norm(np.abs(x.lower), np.where(x.lower >= 0, most, least))
    return Box(lower, x.upper / norm(np.abs(x.upper), np.where(x.upper >= 0, least, most)))


@rule("RMSNormalization")
def rms_normalization(step: Step) -> Box:
    """Bound x / √(mean x² + ε) · scale over the dimensions from `axis` on.

    The sum of squares misses γₙ of itself, of which the root takes half, and what underflows is relative to ε; root and
    quotient are within 8 ulps each.
    """
    step.require_floats()
    axis, scale, _ = _layer(step)
    shape, epsilon, machine = step.value(0).shape, _epsilon(step), step.machine
    groups, lost = _by_groups(step, prod(shape[:axis]), scale, np.zeros(()))
    x, size = groups.x, groups.x.shape[-1]
    value = _over_norm(x, lambda own, others: np.sqrt((own * own + others) / size + epsilon), 2)
    relative = (size + 64.0) * machine.unit + 16.0 * machine.smallest / epsilon + size * 2.0**-50
    known = (4.0 * size * np.square(x.magnitude).mean(-1, keepdims=True) < machine.largest) & (relative < 0.25)
    absolute = np.full(x.shape, 16.0 * machine.smallest * (1.0 + epsilon**-0.5))
    missed = _Missed(np.full(x.shape, relative), absolute, absolute, np.broadcast_to(known, x.shape))
    found = unless(lost, _in_arithmetic(step, groups, value, missed))
    return Box(found.lower.reshape(shape), found.upper.reshape(shape))


@rule("LpNormalization")
def lp_normalization(step: Step) -> Box:
    """Bound x / ‖x‖ₚ along an axis, p 1 or 2; of nothing but zeros it is 0.

    As in RMSNormalization; where the sum may be so small that underflow takes a part of it, nothing is known.
    """
    step.require_floats()
    power, machine = int(step.attributes.get("p", 2)), step.machine
    if power not in (1, 2):
        step.fail(f"its norm {power}", "1 or 2")
    x = step.box(0)
    axis = int(step.attributes.get("axis", -1)) % len(x.shape)
    box, lost = _finite(Box(np.moveaxis(x.lower, axis, -1), np.moveaxis(x.upper, axis, -1)))
    size = box.shape[-1]

    def norm(own: Array, others: Array) -> Array:
        total = own**power + others
        return np.where(total > 0, total, 1.0) ** (1.0 / power)

    value = _over_norm(box, norm, power)
    least, most = ((end**power).sum(-1, keepdims=True) for end in (least_modulus(box), box.magnitude))
    enough = (least >= 4.0 * (size + 4) * machine.smallest / (machine.unit or 1.0)) | (most == 0)
    known = (4.0 * most < machine.largest) & enough
    relative = 2.0 * (size + 48.0) * machine.unit + size * 2.0**-49
    slack = [np.abs(end) * relative + 16.0 * machine.smallest for end in (value.lower, value.upper)]
    found = unless(lost | ~known, Box(value.lower - slack[0], value.upper + slack[1]))
    return Box(np.moveaxis(found.lower, -1, axis), np.moveaxis(found.upper, -1, axis))


# ── over channels ───────────────────────────────────────────────────────────────────────────────────────────────
@rule("LRN")
def local_response(step: Step) -> Box:
    """Bound x / (bias + alpha / size · Σ x²)^beta, the squares of the channels of a window around its own.

    With b all of the base but its own square, x / (b + a x²)^beta falls in |x| b. In x ≥ 0 it rises up to
    x² = b / (a (2 beta − 1)), or without end for beta ≤ 1/2, and falls from there; a small error in that place does not
    matter, for it is flat there.

    The base of a binary32 execution is off by γ of itself for a plain sum. Others slide along the channels, add
    one square and subtract another: then it is off by γ of the greatest base of all channels, for two terms of each.
    """
    step.require_floats()
    x, machine = step.box(0), step.machine
    count = int(step.attributes["size"])
    alpha, beta, bias = (
        float(step.attributes.get(name, np.float32(value)))
        for name, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    if count % 2 == 0:
        step.fail(f"its size {count}", "an odd number, for evaluators differ about the window of an even one")
    if alpha < 0 or beta < 0 or not bias > machine.smallest or len(x.shape) < 3:
        step.fail(f"alpha {alpha:g}, beta {beta:g}, bias {bias:g}", "alpha and beta of at least 0, a positive bias")
    rate, channels = alpha / count, x.shape[1]
    squares = [np.square(end) for end in (least_modulus(x), x.magnitude)]
    least, most = (bias + rate * _beside(square, count) for square in squares)

    def quotient(value: Array, base: Array) -> Array:
        return np.asarray(value / (base + rate * np.square(value)) ** beta)

    def greatest(lower: Array, upper: Array) -> Array:
        top = np.sqrt(least / (rate * (2.0 * beta - 1.0))) if rate > 0 and beta > 0.5 else np.inf
        above = quotient(np.clip(top, np.maximum(lower, 0.0), np.maximum(upper, 0.0)), least)
        return np.where(upper >= 0, above, np.maximum(quotient(lower, most), quotient(upper, most)))

    everything = most + rate * squares[1]
    terms = 2 * channels + count + 8
    lost = (
        terms
        * machine.unit
        * 2.0
        * (everything + rate * squares[1]).max(1, keepdims=True)
        / (least + rate * squares[0])
    )
    lost = lost + 4.0 * (count + 4) * (1.0 + rate) * machine.smallest / bias
    relative = (1.0 - np.minimum(lost, 0.5)) ** -beta * (1.0 + (64.0 + 90.0 * beta) * machine.unit) - 1.0
    relative = relative + (count + 32.0) * (1.0 + beta) * 2.0**-50
    known = (lost < 0.5) & ((4.0 * everything) ** max(1.0, beta) * (1.0 + x.magnitude) < machine.largest)
    ends = -greatest(-x.upper, -x.lower), greatest(x.lower, x.upper)
    slack = [np.abs(end) * relative + 16.0 * machine.smallest * (1.0 + bias**-beta) for end in ends]
    return unless(~known, Box(ends[0] - slack[0], ends[1] + slack[1]))


def _beside(squares: Array, count: int) -> Array:
    """Return the sum over the window of each channel but for its own: (count − 1) // 2 before it, the rest behind."""
    before = (count - 1) // 2
    widths = [(0, 0)] * squares.ndim
    widths[1] = (before, count - 1 - before)
    views = sliding_window_view(np.pad(squares, widths), count, axis=1)
    return np.asarray(np.delete(views, before, axis=-1).sum(-1))
