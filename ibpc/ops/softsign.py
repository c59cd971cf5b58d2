"""Softsign: x / (1 + |x|)."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Final

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined, substituted
from ibpc.ops._elementwise import elementwise
from ibpc.ops._s_shaped import SShape, s_shaped
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x / (1 + |x|); NaN at ±∞."""
    return x / (1.0 + x.abs())


def derivative(x: Tensor) -> Tensor:
    """1 / (1 + |x|)²."""
    share = 1.0 / (1.0 + x.abs())
    return share * share


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)], exact; [−∞, ∞] for an infinite box. Nothing cancels: a few roundings on either side."""
    safe = (x.lower > -inf) & (x.upper < inf)
    box = substituted(safe, x, 0.0)
    return defined(safe, outward(call, nominal(call, box.lower), nominal(call, box.upper), ELEMENTARY_ULPS))


CURVE: Final = SShape(lambda x: x / (1.0 + x.abs()), derivative)


OPERATOR = register(
    elementwise("Softsign", "x / (1 + |x|)", s_shaped(CURVE, partial(nonlinear, nominal, interval)), (1, 22))
)
