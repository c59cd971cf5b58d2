"""Sums and differences of two operands, whose one rounding error is relative to the result, not to the operands."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import gain_of_sum, sum_of_radii, two_terms
from ibpc.ops.combinators import affine, no_magnitude, reach
from ibpc.ops.rules import Call, NominalRule, Operand, Rules
from ibpc.rounding import FLUSHED, Arithmetic, inflation, vanishing


def sum_of_two(nominal: NominalRule) -> Rules:
    """Return the rules of z = x ± y.

    In binary32 the radius is (1 + ρ) (r + ρ |c| + effects of underflow), with r = r₁ + r₂ and c the center of the sum:
    the network is off by u |z|, |z| ≤ |c| + r, and the center by u |c|. An operand in center/radius form is that box
    exactly; one in lower/upper form costs ρ |c₁| more, because its center and radius are rounded.
    """
    plain = affine(nominal, sum_of_radii, two_terms, no_magnitude, gain=gain_of_sum)

    def interval(call: Call, *operands: Operand, **parameters: Tensor) -> Interval:
        if call.arithmetic is Arithmetic.REAL:
            return plain.interval(call, *operands, **parameters)
        center = nominal(call, *(x.center if isinstance(x, Interval) else x for x in operands))
        growth = inflation(two_terms(call), call.unit)
        (share, scale), *others = [_radius(x, growth) for x in operands if isinstance(x, Interval)]
        for other, factor in others:
            share = torch.add(share, other, alpha=factor / scale)
        least = gain_of_sum(call) * FLUSHED + vanishing(two_terms(call))
        rounding = center.abs() + least / growth
        return Interval.scaled(center, torch.add(share, rounding, alpha=growth / scale), scale * (1.0 + growth))

    return replace(plain, interval=interval)


def _radius(x: Interval, growth: float) -> tuple[Tensor, float]:
    """Return the radius as (share, factor), with the error of converting from lower/upper."""
    if x.is_centered:
        return x.scaled_radius
    sign, radius = reach(x, growth)
    return radius, sign
