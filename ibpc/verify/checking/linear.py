"""Sums of products with constants: y = W x + b has the bounds W⁺ l + W⁻ u + b and W⁺ u + W⁻ l + b, which are attained.

Also sums and differences of boxes, and scales and shifts by constants. Affine functions are kept as such, so that rows
of a specification can be pulled back through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Final

import numpy as np

from ibpc.verify.checking.pulls import broadcast_pull
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Affine, Array, Box, Constant, Pull

_UNDERFLOW: Final = 2.0**-100


def stacked(box: Box) -> Array:
    """Return lower ends, upper ends and greatest moduli, stacked: (3, …)."""
    return np.stack([box.lower, box.upper, box.magnitude])


def split_product(
    product: Callable[[Array, Array], Array], ends: Array, weight: Constant
) -> tuple[Array, Array, Array]:
    """Return the least and greatest W x and the greatest |W| |x| of `stacked` ends, by positive and negative parts."""
    positive, negative = product(ends, weight.positive), product(ends, weight.negative)
    return positive[0] + negative[1], positive[1] + negative[0], positive[2] - negative[2]


def largest(box: Box) -> float:
    """Return the largest modulus in a box."""
    return float(box.magnitude.max(initial=0.0))


# ── products with a constant matrix, and of two boxes ───────────────────────────────────────────────────────────
@rule("Gemm")
def gemm(step: Step) -> Box:
    """Bound alpha A' B' + beta C with a constant A or B, and a constant C."""
    left, right = _factor(step, 0, "transA"), _factor(step, 1, "transB")
    if isinstance(left, Box) and isinstance(right, Box):
        step.fail("both factors depend on the network's inputs")
    beta = float(step.attributes.get("beta", 1.0))
    bias = Constant(step.constant(2).wide * beta) if step.has(2) else Constant(np.zeros(()))
    alpha, scale = abs(float(step.attributes.get("alpha", 1.0))), max(1.0, abs(beta))
    return _product(step, left, right, bias, max(alpha, scale), alpha)


def _factor(step: Step, slot: int, attribute: str) -> Box | Constant:
    """Return a factor of a Gemm, transposed if the attribute says so; a constant factor is multiplied by alpha.

    Constants are cached for the next walk. Products of two binary32 numbers are exact in binary64.
    """
    value, transposed = step.value(slot), bool(step.attributes.get(attribute, 0))
    if isinstance(value, Box):
        return Box(value.lower.T, value.upper.T) if transposed else value
    if attribute not in step.memory:
        weight = value.wide * float(step.attributes.get("alpha", 1.0))
        step.memory[attribute] = Constant(weight.T if transposed else weight)
    kept: Constant = step.memory[attribute]
    return kept


@rule("MatMul")
def matmul(step: Step) -> Box:
    """Bound a matrix product, batched as in numpy."""
    left, right = step.value(0), step.value(1)
    if isinstance(left, Box) and isinstance(right, Box):
        return _product_of_boxes(step, left, right)
    return _product(step, left, right, Constant(np.zeros(())))


def _product(
    step: Step, left: Box | Constant, right: Box | Constant, bias: Constant, scale: float = 1.0, alpha: float = 1.0
) -> Box:
    """Bound the product of a box and a constant, plus a bias; `scale` is the greatest factor of a sum that underflowed.

    The weight includes a factor of modulus `alpha`; intermediate results may overflow without it, or because of it.
    """
    slot = 0 if isinstance(left, Box) else 1
    box, weight = (left, right) if isinstance(left, Box) else (right, left)
    assert isinstance(box, Box)
    assert isinstance(weight, Constant)
    missing = tuple(axis for axis, side in ((-2, left), (-1, right)) if len(side.shape) == 1)
    if len(weight.shape) == 1:
        weight = Constant(weight.wide.reshape(_as_matrix(weight.shape, 1 - slot)))
    shape = _as_matrix(box.shape, slot)
    shape = (1,) * (len(weight.shape) - len(shape)) + shape
    ends = stacked(Box(box.lower.reshape(shape), box.upper.reshape(shape)))
    inner = weight.shape[-2] if slot == 0 else weight.shape[-1]
    multiply = np.matmul if slot == 0 else (lambda x, w: w @ x)
    lower, upper, moduli = split_product(multiply, ends, weight)
    turned = box is not step.operands[slot]
    pulls = [(step.names[slot], _matrix_pull(weight, shape, lower.shape, slot, turned))]
    lower, upper, moduli = (np.squeeze(side, axis=missing) for side in (lower, upper, moduli))
    before = np.maximum(moduli / min(1.0, alpha), max(1.0, alpha) * largest(box))
    moduli = moduli + bias.magnitude
    # A product, n − 1 sums, alpha, beta and the bias.
    error = step.machine.sum_error(inner + 4, moduli, scale * (1.0 + largest(box)), before)
    plain = all(step.attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    exact = step.machine.whole_ends(box, weight, bias, moduli) & plain
    return step.affine_box((lower + bias.wide, upper + bias.wide), error, moduli, pulls, bias.wide, exact)


def _as_matrix(shape: tuple[int, ...], slot: int) -> tuple[int, ...]:
    """Return the shape of a factor as a matrix: a vector is a row on the left, a column on the right."""
    if len(shape) > 1:
        return shape
    return (1, *shape) if slot == 0 else (*shape, 1)


def _matrix_pull(weight: Constant, shape: tuple[int, ...], output: tuple[int, ...], slot: int, turned: bool) -> Pull:
    """Return the pull of a product with a matrix: C W for rows C in the shape of the output.

    A box that was broadcast over several matrices gets the sum; one that was transposed is transposed back.
    """
    matrix, size = np.swapaxes(weight.wide, -1, -2), prod(shape)

    def pull(rows: Array) -> Array:
        shaped = rows.reshape(len(rows), *output)
        pulled = shaped @ matrix if slot == 0 else matrix @ shaped
        along = tuple(axis + 1 for axis, length in enumerate(shape) if length == 1 != pulled.shape[axis + 1])
        summed = pulled.sum(along, keepdims=True)
        return np.asarray(np.swapaxes(summed, -1, -2) if turned else summed).reshape(len(rows), size)

    return pull


def _product_of_boxes(step: Step, left: Box, right: Box) -> Box:
    """Bound Σ_j a_ij b_jk: each product of two boxes by its corners, one j after the other."""
    ends = [(side.lower, side.upper) for side in (left, right)]
    first = [end[None, :] if end.ndim == 1 else end for end in ends[0]]
    second = [end[:, None] if end.ndim == 1 else end for end in ends[1]]
    lower = upper = magnitude = np.zeros(())
    for j in range(first[0].shape[-1]):
        corners = [a[..., :, j, None] * b[..., None, j, :] for a in first for b in second]
        least, most = np.minimum.reduce(corners), np.maximum.reduce(corners)
        lower, upper = lower + least, upper + most
        magnitude = magnitude + np.maximum(np.abs(least), np.abs(most))
    if len(left.shape) == 1:
        lower, upper, magnitude = lower[..., 0, :], upper[..., 0, :], magnitude[..., 0, :]
    if len(right.shape) == 1:
        lower, upper, magnitude = lower[..., 0], upper[..., 0], magnitude[..., 0]
    factor = max(largest(left), largest(right))
    error = step.machine.sum_error(first[0].shape[-1] + 1, magnitude, factor)
    return step.affine_box((lower, upper), error, magnitude)


# ── elementwise ─────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Add", "Sum")
def add(step: Step) -> Box:
    """Bound a sum of any number of operands."""
    return _sum(step, [1.0] * len(step.operands))


@rule("Sub")
def subtract(step: Step) -> Box:
    """Bound a difference."""
    return _sum(step, [1.0, -1.0])


@rule("Mean")
def mean(step: Step) -> Box:
    """Bound the mean of the operands."""
    return _sum(step, [1.0 / len(step.operands)] * len(step.operands), extra=3)


def _sum(step: Step, signs: Sequence[float], extra: int = 0) -> Box:
    """Bound Σ sign · operand, broadcast. A box that occurs twice with opposite signs is not recognized."""
    boxes = [step.box(slot) for slot in range(len(signs))]
    output = np.broadcast_shapes(*(box.shape for box in boxes))
    lower, upper, magnitude, offset = np.zeros((4, *output))
    pulls: list[tuple[str, Pull]] = []
    for slot, (box, sign) in enumerate(zip(boxes, signs, strict=True)):
        lower = lower + (sign * box.lower if sign > 0 else sign * box.upper)
        upper = upper + (sign * box.upper if sign > 0 else sign * box.lower)
        magnitude = magnitude + abs(sign) * box.magnitude
        operand = step.value(slot)
        if isinstance(operand, Box):
            pulls.append((step.names[slot], broadcast_pull(box.shape, output, sign)))
        else:
            offset = offset + sign * operand.wide
    # A single rounding is relative to the result, which may be far smaller than its terms.
    ends = np.maximum(np.abs(lower), np.abs(upper)) if len(signs) == 2 else magnitude
    error = step.machine.sum_error(len(signs) - 1 + extra, ends, before=magnitude / min(map(abs, signs)))
    return step.affine_box((lower, upper), error, magnitude, pulls, offset)


@rule("Neg")
def negative(step: Step) -> Box:
    """Bound −x, exactly."""
    x = step.box(0)
    nothing = np.zeros(x.lower.size)
    return Box(-x.upper, -x.lower, Affine(((step.names[0], np.negative),), nothing, nothing))


def scaled(
    step: Step,
    slot: int,
    scale: Array,
    shift: Array,
    roundings: int,
    parts: Array | float = 0.0,
    before: Array | float = 0.0,
) -> Box:
    """Bound scale · x + shift with constants that broadcast; `parts` is the sum of the moduli in the shift.

    `before` is the size of intermediate results.
    """
    x = step.box(slot)
    output = np.broadcast_shapes(x.shape, scale.shape, shift.shape)
    one, other = scale * x.lower, scale * x.upper
    lower, upper = np.minimum(one, other) + shift, np.maximum(one, other) + shift
    moduli = np.broadcast_to(np.abs(scale) * x.magnitude + parts, output)
    error = step.machine.sum_error(roundings, moduli, largest(x), before)
    pull = broadcast_pull(x.shape, output, scale)
    return step.affine_box((lower, upper), error, moduli, [(step.names[slot], pull)], shift)


@rule("BatchNormalization")
def batch_normalization(step: Step) -> Box:
    """Bound (x − mean) / √(variance + epsilon) · scale + shift, in this order or as one product and one sum.

    Root, quotient, products and sums round at most eight times; the root or its inverse may be off by 8 ulps.
    """
    if step.attributes.get("training_mode", 0):
        step.fail("it is in training mode")
    if not step.attributes.get("spatial", 1):
        step.fail("it is not spatial", "statistics of channels")
    channels = (-1, *[1] * (len(step.value(0).shape) - 2))
    scale, shift, mean_, variance = (step.constant(slot).wide.reshape(channels) for slot in (1, 2, 3, 4))
    inverse = 1.0 / np.sqrt(variance + float(step.attributes.get("epsilon", 1e-5)))
    factor = scale * inverse
    # An underflow before the quotient is scaled by it.
    apart = np.abs(mean_) + step.box(0).magnitude
    vanished = _UNDERFLOW * (inverse + np.abs(factor)) * (1.0 + apart)
    before = apart * np.maximum(1.0, np.maximum(inverse, np.abs(scale)))
    parts = np.abs(shift) + np.abs(factor * mean_) + vanished
    return scaled(step, 0, factor, shift - factor * mean_, 24, parts, before)


# ── along axes ──────────────────────────────────────────────────────────────────────────────────────────────────
def reduced_axes(step: Step) -> tuple[int, ...] | None:
    """Return the axes of a reduction as nonnegative numbers, None if it reduces nothing."""
    rank = len(step.value(0).shape)
    axes = step.integers(1, "axes")
    if not axes:
        return None if step.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(axis % rank for axis in axes)


@rule("ReduceSum", "ReduceMean")
def reduce_sum(step: Step) -> Box:
    """Bound a sum or mean along axes."""
    x, axes, keep = step.box(0), reduced_axes(step), bool(step.attributes.get("keepdims", 1))
    if axes is None:
        return x
    if step.node.op_type == "ReduceMean":
        step.require_floats()
    count = prod(x.shape[axis] for axis in axes)
    divisor = float(count) if step.node.op_type == "ReduceMean" else 1.0
    lower, upper, magnitude = (side.sum(axes, keepdims=keep) / divisor for side in (x.lower, x.upper, x.magnitude))
    error = step.machine.sum_error(count + 2, np.asarray(magnitude), before=magnitude * divisor)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))

    def pull(rows: Array) -> Array:
        share = rows.reshape(len(rows), *kept) / divisor
        return np.broadcast_to(share, (len(rows), *x.shape)).reshape(len(rows), -1)

    ends = np.asarray(lower), np.asarray(upper)
    return step.affine_box(ends, error, np.asarray(magnitude), [(step.names[0], pull)])


@rule("CumSum")
def cumulative(step: Step) -> Box:
    """Bound cumulative sums along an axis, without the element itself if `exclusive`, backward if `reverse`."""
    x, axis = step.box(0), int(step.constant(1).array.ravel()[0]) % max(1, len(step.value(0).shape))
    backward, exclusive = bool(step.attributes.get("reverse", 0)), bool(step.attributes.get("exclusive", 0))
    lower, upper, magnitude = (_running(side, axis, backward, exclusive) for side in (x.lower, x.upper, x.magnitude))
    error = step.machine.sum_error(x.shape[axis] if x.shape else 1, magnitude)

    def pull(rows: Array) -> Array:
        shaped = rows.reshape(len(rows), *x.shape)
        return _running(shaped, axis + 1, not backward, exclusive).reshape(len(rows), -1)

    return step.affine_box((lower, upper), error, magnitude, [(step.names[0], pull)])


def _running(x: Array, axis: int, backward: bool, exclusive: bool) -> Array:
    """Return cumulative sums, from the end if `backward`, without the element itself if `exclusive`."""
    turned = np.flip(x, axis) if backward else x
    sums = np.cumsum(turned, axis)
    if exclusive:
        sums = np.concatenate(
            [np.zeros_like(np.take(x, [0], axis)), np.take(sums, range(x.shape[axis] - 1), axis)], axis
        )
    return np.flip(sums, axis) if backward else sums
