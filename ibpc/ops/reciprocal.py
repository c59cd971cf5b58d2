"""Reciprocal: 1 / x."""

from __future__ import annotations

from functools import partial
from math import inf

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import defined, spared, substituted
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 1 / x."""
    return 1.0 / x


def derivative(x: Tensor) -> Tensor:
    """−1 / x², also where x² would overflow."""
    return -(1.0 / x) / x


def one_sided(x: Interval) -> Tensor:
    """Return where the box lies on one side of 0. [∞, ∞], which an overflow leaves, stands for any large number."""
    return ((x.lower > 0) & (x.lower < inf)) | ((x.upper < 0) & (x.upper > -inf))


def interval(call: Call, x: Interval) -> Interval:
    """[1 / u, 1 / l] on one side of 0, exact; [−∞, ∞] where x may be 0, in binary32 also where it may be flushed."""
    box = Interval.bounds(*spared(call, x))
    safe = one_sided(x) & one_sided(box)
    box = substituted(safe, box, 1.0)
    return defined(safe, outward(call, 1.0 / box.upper, 1.0 / box.lower, 2 * ELEMENTARY_ULPS))


def curve(call: Call) -> Curve:
    """Return the curve: convex above 0, concave below, undefined where x may be 0."""
    return Curve(partial(nominal, call), derivative, (Bend.EITHER,), domain=one_sided)


OPERATOR = register(elementwise("Reciprocal", "1 / x", curved(curve, partial(nonlinear, nominal, interval)), (6, 13)))
