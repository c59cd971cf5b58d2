"""Neg: −x."""

from __future__ import annotations

from torch import Tensor

from ibpc.interval import Interval, Paired
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import apart
from ibpc.ops.rules import Call, PairedOperand, Rules


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = −x."""
    return -x


def interval(call: Call, x: Interval) -> Interval:
    """[−u, −l], or center −c and the same radius; exact in any arithmetic."""
    if x.is_centered:
        return Interval.around(-x.center, x.radius)
    return Interval.bounds(-x.upper, -x.lower)


def paired(call: Call, x: PairedOperand) -> Paired:
    """Negate a stack in one call; otherwise run both rules side by side."""
    if isinstance(x, Paired) and x.is_stacked:
        return Paired.stacked(-x.stack, x.radius)
    return apart(nominal, interval)(call, x)


OPERATOR = register(
    elementwise("Neg", "Elementwise negation", Rules(nominal, interval, paired, None, nominal), (6, 13))
)
