"""Products of two operands: rules of operators that are linear in each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ibpc.interval import Interval, Paired
from ibpc.ops.combinators import Sharing, affine, apart, no_magnitude
from ibpc.ops.rules import (
    BilinearRules,
    Call,
    IntervalRule,
    NominalRule,
    Operand,
    PairedOperand,
    RelaxationRule,
    Rules,
    TermsRule,
)
from ibpc.rounding import FLUSHED, Arithmetic


def bilinear(
    product: NominalRule, terms: TermsRule, both: IntervalRule, relaxation: RelaxationRule, sharing: Sharing
) -> Rules:
    """Return the rules of `product(call, x, y)`, linear in x and in y.

    With an exact operand it is affine, with center c · y and radius r · |y| (see `ibpc.ops.combinators.affine`), and
    the bounds are exact. The rule `both` bounds the product of two boxes.
    """
    by_right = scaling(product, product, terms, sharing)
    by_left = scaling(_swapped(product), _swapped(product), terms, sharing)

    def interval(call: Call, x: Operand, y: Operand) -> Interval:
        if isinstance(x, Interval) and isinstance(y, Interval):
            return both(call, x, y)
        if isinstance(x, Interval):
            return by_right.interval(call, x, weight=y)
        return by_left.interval(call, y, weight=x)

    def paired(call: Call, x: PairedOperand, y: PairedOperand) -> Paired:
        if isinstance(x, Paired) and isinstance(y, Paired):
            return apart(product, interval)(call, x, y)
        if isinstance(x, Paired):
            return by_right.paired(call, x, weight=y)
        return by_left.paired(call, y, weight=x)

    return BilinearRules(product, interval, paired, relaxation, product)


def scaling(product: NominalRule, of_radii: NominalRule, terms: TermsRule, sharing: Sharing) -> Rules:
    """Return the affine rules of x ↦ product(x, weight): radius `of_radii`(r, |weight|)."""

    def nominal(call: Call, x: Tensor, *, weight: Tensor) -> Tensor:
        return product(call, x, weight)

    def absolute(call: Call, radius: Tensor, *, offset: float | None, weight: Tensor) -> Tensor:
        result = of_radii(call, radius, weight.abs())
        return result if offset is None else result + offset

    return affine(nominal, absolute, terms, no_magnitude, sharing)


def _swapped(product: NominalRule) -> NominalRule:
    return lambda call, x, y: product(call, y, x)


def flushable(call: Call, x: Interval) -> Interval:
    """Return the box, in binary32 widened by the most that flushing its elements to zero can change.

    A large factor may multiply that change, so it is covered before the product.
    """
    if call.arithmetic is Arithmetic.REAL:
        return x
    return Interval.bounds(x.lower - FLUSHED, x.upper + FLUSHED)


def corners(x: Interval, y: Interval, function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of a function, monotone in each operand, at the corners of two boxes.

    If any corner gives NaN, both are NaN.
    """
    values = [function(left, right) for left in (x.lower, x.upper) for right in (y.lower, y.upper)]
    lower = torch.minimum(torch.minimum(values[0], values[1]), torch.minimum(values[2], values[3]))
    upper = torch.maximum(torch.maximum(values[0], values[1]), torch.maximum(values[2], values[3]))
    return lower, upper
