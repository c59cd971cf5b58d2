"""Functions that jump: rounding to integers, conversions, remainders, quantization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibpc.verify.checking.choices import Truth, known, verdict
from ibpc.verify.checking.linear import scaled
from ibpc.verify.checking.products import corners
from ibpc.verify.checking.rules import Step, careful, rule
from ibpc.verify.checking.values import INTEGERS, LAST_WHOLE, Array, Box, unless

_BOOLEAN = 9
_FLOAT, _DOUBLE = 1, 11


@rule("Floor", "Ceil", "Round", "Sign")
@careful
def stepped(step: Step) -> Box:
    """Bound a step function, exactly. Round takes halves to the nearest even integer."""
    x = step.box(0)
    function = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Sign": np.sign}[step.node.op_type]
    return Box(function(x.lower), function(x.upper))


@rule("ThresholdedRelu")
def thresholded(step: Step) -> Box:
    """Bound x where x > alpha, 0 elsewhere, exactly; alpha is the limit from the right."""
    x, alpha = step.box(0), float(step.attributes.get("alpha", 1.0))
    return _hull([(x.upper > alpha, Box(np.maximum(x.lower, alpha), x.upper)), (x.lower <= alpha, _nothing(x))])


@rule("Shrink")
def shrink(step: Step) -> Box:
    """Bound x + bias where x < −lambd, else x − bias where x > lambd, else 0: one rounding; ends may be limits."""
    x = step.box(0)
    bias, lambd = (float(step.attributes.get(name, value)) for name, value in (("bias", 0.0), ("lambd", 0.5)))
    if lambd < 0:
        step.fail(f"lambd {lambd:g}", "a number of at least 0")

    def shifted(lower: Array, upper: Array, by: float) -> Box:
        return step.near(lower + by, upper + by, ulps=1) if by else Box(lower, upper)

    return _hull(
        [
            (x.lower < -lambd, shifted(x.lower, np.minimum(x.upper, -lambd), bias)),
            (x.upper > lambd, shifted(np.maximum(x.lower, lambd), x.upper, -bias)),
            ((x.lower <= lambd) & (x.upper >= -lambd), _nothing(x)),
        ]
    )


def _nothing(x: Box) -> Box:
    return Box(np.zeros(x.shape), np.zeros(x.shape))


def _hull(pieces: Sequence[tuple[Truth, Box]]) -> Box:
    """Return the hull of all pieces that are possible."""
    lower = np.minimum.reduce([np.where(possible, box.lower, np.inf) for possible, box in pieces])
    upper = np.maximum.reduce([np.where(possible, box.upper, -np.inf) for possible, box in pieces])
    return Box(lower, upper)


@rule("Cast")
def cast(step: Step) -> Box:
    """Bound a conversion: to binary32 by rounding, to integers toward zero, to booleans as x ≠ 0."""
    return _converted(step, int(step.attributes["to"]))


@rule("CastLike")
def cast_like(step: Step) -> Box:
    """Bound a conversion to the element type of the second operand."""
    if step.element_type == 0:
        step.fail("the element type of its output is not known")
    return _converted(step, step.element_type)


def _converted(step: Step, to: int) -> Box:
    x = step.box(0)
    if to == _DOUBLE:
        return x
    if to == _FLOAT:  # rounding is monotone; the number itself stays inside for real arithmetic
        lower, upper = (side.astype(np.float32).astype(np.float64) for side in (x.lower, x.upper))
        return Box(np.minimum(x.lower, lower), np.maximum(x.upper, upper))
    if to == _BOOLEAN:
        sure = known(x)
        zero = (x.lower <= 0) & (x.upper >= 0)
        return verdict(sure & ~zero, ~sure | (x.lower != 0) | (x.upper != 0))
    if to not in INTEGERS:
        step.fail(f"element type {to}", "floats of 32 or 64 bits, integers or booleans")
    least, greatest = INTEGERS[to]
    inside = (x.lower > least - 1.0) & (x.upper < greatest + 1.0)
    most = greatest if greatest < LAST_WHOLE else np.inf  # the greatest 64-bit integer is not a binary64 number
    return Box(np.where(inside, np.trunc(x.lower), least), np.where(inside, np.trunc(x.upper), most))


# ── remainders and quantization ─────────────────────────────────────────────────────────────────────────────────
@rule("Mod")
def remainder(step: Step) -> Box:
    """Bound the remainder by a constant: by its values at the ends if no jump lies between them, else by its range.

    It rises with slope 1 and jumps down by |y|, so a box narrower than |y| has no jump if and only if the value rose.
    With `fmod` it has the sign of x and is exact, else it has the sign of y.
    """
    x, y, fmod = step.box(0), step.constant(1).wide, bool(step.attributes.get("fmod", 0))
    if not bool((np.abs(y) > step.machine.smallest).all()):
        step.fail("its divisor may be 0")
    size, function = np.abs(y), np.fmod if fmod else np.remainder
    if fmod:
        least, most = np.where(x.lower >= 0, 0.0, np.maximum(x.lower, -size)), np.where(x.upper <= 0, 0.0, size)
        most = np.minimum(most, np.maximum(x.upper, 0.0))
    else:
        least, most = np.minimum(y, 0.0) + 0.0 * x.lower, np.maximum(y, 0.0) + 0.0 * x.upper
    low, high = function(x.lower, y), function(x.upper, y)
    smooth = ((x.upper - x.lower) * (1.0 + 2.0**-40) < size) & (low < high) | (x.lower == x.upper)
    lower, upper = np.where(smooth, low, least), np.where(smooth, high, most)
    found = Box(lower, upper) if fmod else step.near(lower, upper, ulps=1)
    return unless(~np.isfinite(x.magnitude), found)  # at infinity it is NaN


@rule("QuantizeLinear")
def quantize(step: Step) -> Box:
    """Bound saturate(round(x / scale) + zero point): the quotient within two roundings, the rest exact."""
    _require_binary32(step, "precision")
    x = step.box(0)
    scale, zero = _along_axis(step, 1), _along_axis(step, 2) if step.has(2) else np.zeros(())
    to = int(step.attributes.get("output_dtype", 0)) or step.element_type or 2
    if to not in INTEGERS or not bool((scale > step.machine.smallest).all()):
        step.fail(f"a quantization to element type {to}", "integers of 8 or 16 bits and positive scales")
    quotient = step.near(x.lower / scale, x.upper / scale, ulps=2)
    lower, upper = (np.clip(np.rint(side) + zero, *INTEGERS[to]) for side in (quotient.lower, quotient.upper))
    return Box(lower, upper)


@rule("DynamicQuantizeLinear")
def quantize_dynamically(step: Step) -> list[Box]:
    """Bound x / scale + zero point in 8 bits, with scale = (most − least) / 255 and zero point = −least / scale.

    Least and most are over all elements and 0. Nothing is known if both may be 0.
    """
    x = step.box(0)
    least, most = (np.array([end(side, initial=0.0) for side in (x.lower, x.upper)]) for end in (np.min, np.max))
    width = step.near(most[0] - least[1], most[1] - least[0], ulps=1)
    scale = step.near(width.lower / 255.0, width.upper / 255.0, ulps=1)
    if not float(scale.lower) > 4.0 * step.machine.smallest or not np.isfinite(scale.upper):
        zero = Box(np.asarray(0.0), np.asarray(255.0))
        free = Box(np.asarray(-np.inf), np.asarray(np.inf))
        return [Box(np.zeros(x.shape), np.full(x.shape, 255.0)), free, zero]
    offset = step.near(*corners(np.divide, Box(-least[1], -least[0]), scale), ulps=1)
    first, last = (np.rint(np.clip(side, 0.0, 255.0)) for side in (offset.lower, offset.upper))
    zero = Box(first, last)
    quotient = step.near(*corners(np.divide, x, scale), ulps=2)
    ends = np.rint(quotient.lower) + zero.lower, np.rint(quotient.upper) + zero.upper
    return [Box(np.clip(ends[0], 0.0, 255.0), np.clip(ends[1], 0.0, 255.0)), scale, zero]


@rule("DequantizeLinear")
def dequantize(step: Step) -> Box:
    """Bound (x − zero point) · scale."""
    _require_binary32(step, "output_dtype")
    scale, zero = _along_axis(step, 1), _along_axis(step, 2) if step.has(2) else np.zeros(())
    return scaled(step, 0, scale, -zero * scale, 3, np.abs(zero * scale))


def _require_binary32(step: Step, attribute: str) -> None:
    """Fail unless the node computes in floats of 32 bits."""
    if step.attributes.get(attribute, 0) not in (0, _FLOAT) or step.constant(1).array.dtype != np.float32:
        step.fail("its scale or its precision", "floats of 32 bits")


def _along_axis(step: Step, slot: int) -> Array:
    """Return the scale or zero point in a shape that broadcasts: one number, or one for each index of `axis`."""
    values, rank = step.constant(slot).wide, len(step.value(0).shape)
    if step.attributes.get("block_size", 0) or values.ndim > 1:
        step.fail("its scales are of blocks", "one scale, or one for each channel")
    axis = int(step.attributes.get("axis", 1)) % rank if rank else 0
    return values.reshape(-1, *[1] * (rank - axis - 1)) if values.size > 1 else values.reshape(())
