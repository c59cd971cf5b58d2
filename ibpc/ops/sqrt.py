"""Sqrt: the square root."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._curves import defined, nonnegative, spared, substituted
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = √x; NaN below 0."""
    return torch.sqrt(x)


def derivative(x: Tensor) -> Tensor:
    """1 / (2 √x)."""
    return 0.5 / torch.sqrt(x)


def interval(call: Call, x: Interval) -> Interval:
    """[√l, √u], exact; [−∞, ∞] for l < 0. In binary32 an l that may be flushed counts as 0."""
    lower, upper = spared(call, x)
    safe = lower >= 0
    box = substituted(safe, Interval.bounds(lower, upper), 1.0)
    return defined(safe, nonnegative(outward(call, torch.sqrt(box.lower), torch.sqrt(box.upper), 2 * ELEMENTARY_ULPS)))


def curve(_call: Call) -> Curve:
    """Return the curve, which is concave and undefined below 0."""
    return Curve(torch.sqrt, derivative, (Bend.CONCAVE,), domain=lambda x: x.lower >= 0)


OPERATOR = register(
    Operator(
        name="Sqrt",
        summary="The square root",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(import_as("Sqrt", (6, 13)),),
        writes=export_as("Sqrt"),
        layers=(option_free_layer("Sqrt"),),
    )
)
