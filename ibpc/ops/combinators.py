"""Rule combinators, with which the rules of most operators take one line.

Each turns an operator's function and a property of it (affine, monotone, only moving elements) into all rules of a
record. The docstrings derive the bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import prod

import torch
from torch import Tensor

from ibpc.interval import Interval, Paired
from ibpc.ops.rules import (
    Call,
    IntervalRule,
    NominalRule,
    Operand,
    PairedOperand,
    PairedRule,
    RelaxationRule,
    Rules,
    TermsRule,
)
from ibpc.rounding import (
    ELEMENTARY_ULPS,
    FLUSHED,
    RAISED,
    Arithmetic,
    down,
    guard_overflow,
    inflation,
    unraised,
    up,
    vanishing,
)


class Sharing(Enum):
    """When the paired rule of an affine operator runs nominal value and center in one call.

    ALWAYS copies them into a stack to save a pass over the weight (convolutions, products); WHEN_STACKED does it only
    if the operand is a stack already (cheap operators).
    """

    ALWAYS = "always"
    WHEN_STACKED = "when stacked"


def affine(
    nominal: NominalRule,
    absolute: NominalRule,
    terms: TermsRule,
    magnitude: Callable[..., Tensor | None],
    sharing: Sharing = Sharing.WHEN_STACKED,
    gain: Callable[..., Tensor | float] | None = None,
) -> Rules:
    """Return the rules of y = W x + b, affine in all operands jointly.

    Interval rule: center W c + b, radius |W| r (Gowal et al. 2018, arXiv 1810.12715, equation 6): exact per output
    over a box. In binary32 it is (1 + ρ) (|W| (r + ρ |c|) + ρ |b|), ρ from `ibpc.rounding.inflation`: ρ |c| rides along
    in the same |W| product, 1 + ρ in the guard against overflow. Where sums may overflow, the radius is infinite.

    `absolute(call, *radii, offset, **parameters)` is |W| r + offset, `terms(call)` the number of products summed
    into one output, `magnitude(call, **parameters)` an upper bound of |b| that broadcasts to the output or None.
    Exact operands arrive as plain tensors: for their radius `absolute` gets None in real arithmetic, and the rounding
    error they cause in binary32.

    `gain(call, **parameters)` is Σ |W| of each output, in the shape of the offset. With it binary32 costs less: the
    effect of underflow in an operand is added to the offset, a constant, instead of to each radius; and if W is the
    parameter `weight` (and `absolute` homogeneous in it), it is raised before the product instead of the radius after.
    """

    def interval(call: Call, *operands: Operand, **parameters: Tensor) -> Interval:
        centers = tuple(x.center if isinstance(x, Interval) else x for x in operands)
        center = nominal(call, *centers, **parameters)
        if call.arithmetic is Arithmetic.REAL:
            radii = tuple(x.radius if isinstance(x, Interval) else None for x in operands)
            return Interval.around(center, absolute(call, *radii, offset=None, **parameters))
        growth, least = inflation(terms(call), call.unit), vanishing(terms(call))
        bias = magnitude(call, **parameters)
        offset: Tensor | float = least if bias is None else bias * growth + least
        if gain is not None:
            offset = gain(call, **parameters) * FLUSHED + offset
        if gain is not None and "weight" in parameters:
            (operand,) = operands
            assert isinstance(operand, Interval)
            raised = {**parameters, "weight": parameters["weight"] * RAISED}
            sign, distance = reach(operand, growth)
            share = absolute(call, distance, offset=sign * RAISED * offset, **raised)
            return Interval.scaled(center, share, sign * unraised(growth))
        radii = tuple(_inflated(x, growth, FLUSHED if gain is None else 0.0) for x in operands)
        return Interval.around(center, guard_overflow(absolute(call, *radii, offset=offset, **parameters), growth))

    def paired(call: Call, *operands: PairedOperand, **parameters: Tensor) -> Paired:
        pairs = [x for x in operands if isinstance(x, Paired)]
        if sharing is Sharing.WHEN_STACKED and not all(pair.is_stacked for pair in pairs):
            return apart(nominal, interval)(call, *operands, **parameters)
        stacks = tuple(x.stack if isinstance(x, Paired) else x for x in operands)
        radii = tuple(x.radius if isinstance(x, Paired) else None for x in operands)
        stack = nominal(call, *stacks, **parameters)
        return Paired.stacked(stack, absolute(call, *radii, offset=None, **parameters))

    return Rules(nominal, interval, paired, None, nominal)


def reach(operand: Interval, growth: float) -> tuple[float, Tensor]:
    """Return (sign, sign · (r + ρ |c|)); for l ≥ 0 the negative form saves a pass, −(r + ρ c) = l − (1 + ρ) c."""
    if operand.is_nonnegative:
        return -1.0, torch.sub(operand.lower, operand.center, alpha=1.0 + growth)
    return 1.0, _inflated(operand, growth, 0.0)


def _inflated(operand: Operand, growth: float, flushed: float) -> Tensor:
    """Return r + ρ |c| + `flushed`, the most that underflow may change."""
    if isinstance(operand, Interval):
        total = torch.add(operand.radius, operand.modulus, alpha=growth)
    else:
        total = operand.abs() * growth
    return total + flushed if flushed else total


def passthrough(nominal: NominalRule, absolute: NominalRule | None = None) -> Rules:
    """Return the rules of an operator that only moves elements (reshape, transpose, slice, concatenation).

    Every output is a copy of one input element or a constant, so the rule applies to lower/upper and center/radius
    alike, exactly, in any arithmetic. `absolute` is the rule for radii where it differs (Pad: zeros).
    """
    on_radii = nominal if absolute is None else absolute

    def interval(call: Call, *operands: Operand, **parameters: Tensor) -> Interval:
        if all(x.is_centered for x in operands if isinstance(x, Interval)):
            centers = tuple(x.center if isinstance(x, Interval) else x for x in operands)
            radii = tuple(x.radius if isinstance(x, Interval) else torch.zeros_like(x) for x in operands)
            return Interval.around(nominal(call, *centers, **parameters), on_radii(call, *radii, **parameters))
        lowers = tuple(x.lower if isinstance(x, Interval) else x for x in operands)
        uppers = tuple(x.upper if isinstance(x, Interval) else x for x in operands)
        copies = absolute is None and all(isinstance(x, Interval) and x.is_nonnegative for x in operands)
        made = Interval.nonnegative if copies else Interval.bounds
        return made(nominal(call, *lowers, **parameters), nominal(call, *uppers, **parameters))

    def paired(call: Call, *operands: PairedOperand, **parameters: Tensor) -> Paired:
        pairs = [x for x in operands if isinstance(x, Paired)]
        if not pairs or not all(pair.is_stacked for pair in pairs):
            return apart(nominal, interval)(call, *operands, **parameters)
        stacks = tuple(x.stack if isinstance(x, Paired) else x for x in operands)
        radii = tuple(x.radius if isinstance(x, Paired) else torch.zeros_like(x) for x in operands)
        return Paired.stacked(nominal(call, *stacks, **parameters), on_radii(call, *radii, **parameters))

    return Rules(nominal, interval, paired, None, nominal)


def monotone(
    nominal: NominalRule, relaxation: RelaxationRule, ulps: int = ELEMENTARY_ULPS, absolute: float = 0.0
) -> Rules:
    """Return the rules of an operator that does not decrease in any operand: [f(l), f(u)], exact.

    Any binary32 implementation of f is assumed to be within `ulps` units in the last place (0 if exact) plus
    `absolute`. The bound moves by twice that, because the network's evaluation errs and so does the bound's own.
    """

    def interval(call: Call, *operands: Operand, **parameters: Tensor) -> Interval:
        lowers = tuple(x.lower if isinstance(x, Interval) else x for x in operands)
        uppers = tuple(x.upper if isinstance(x, Interval) else x for x in operands)
        lower, upper = nominal(call, *lowers, **parameters), nominal(call, *uppers, **parameters)
        return outward(call, lower, upper, 2 * ulps, 2.0 * absolute)

    return Rules(nominal, interval, apart(nominal, interval), relaxation, nominal)


def nonlinear(nominal: NominalRule, interval: IntervalRule, relaxation: RelaxationRule) -> Rules:
    """Return the rules of an operator that needs an interval rule of its own."""
    return Rules(nominal, interval, apart(nominal, interval), relaxation, nominal)


def kink_at_zero(call: Call, **parameters: Tensor) -> tuple[float, ...]:
    """Return where the slope of a rectifier changes: at 0."""
    return (0.0,)


def outward(call: Call, lower: Tensor, upper: Tensor, ulps: int = 1, absolute: float = 0.0) -> Interval:
    """Return [lower, upper], in binary32 moved outward by `ulps` roundings and by `absolute` (both 0: exact)."""
    if call.arithmetic is Arithmetic.REAL or (ulps == 0 and absolute == 0.0):
        return Interval.bounds(lower, upper)
    if absolute == 0.0:
        return Interval.bounds(down(lower, ulps), up(upper, ulps))
    return Interval.bounds(down(lower - absolute, ulps), up(upper + absolute, ulps))


def apart(nominal: NominalRule, interval: IntervalRule) -> PairedRule:
    """Return the paired rule that runs the nominal and the interval rule side by side."""

    def paired(call: Call, *operands: PairedOperand, **parameters: Tensor) -> Paired:
        values = tuple(x.nominal if isinstance(x, Paired) else x for x in operands)
        boxes = tuple(x.interval if isinstance(x, Paired) else x for x in operands)
        return Paired.separate(nominal(call, *values, **parameters), interval(call, *boxes, **parameters))

    return paired


def nonnegative_weights(nominal: NominalRule) -> NominalRule:
    """Return the rule |W| r + offset of a linear operator of one operand without a negative weight, where |W| is W."""

    def absolute(call: Call, radius: Tensor, *, offset: float | None) -> Tensor:
        result = nominal(call, radius)
        return result if offset is None else result + offset

    return absolute


def no_magnitude(call: Call, **parameters: Tensor) -> None:
    """Return None: the operator has no offset."""
    return None


def macs_of(terms: TermsRule) -> TermsRule:
    """Return the multiply-accumulates of one sample where each output sums `terms(call)` products."""
    return lambda call: prod(call.output[1:]) * terms(call)


def no_macs(call: Call) -> int:
    """Return 0: the operator has no weight or product worth counting."""
    return 0
