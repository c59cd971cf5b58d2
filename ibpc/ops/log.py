"""Log: the natural logarithm."""

from __future__ import annotations

import torch

from ibpc.interval import Interval
from ibpc.ops._curves import defined, defined_planes, spared, substituted, unbroken
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._planes import chord, midpoint
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call, Plane, Planes
from ibpc.rounding import ELEMENTARY_ULPS


def nominal(call: Call, x: torch.Tensor) -> torch.Tensor:
    """y = ln x; −∞ at 0, NaN below."""
    return torch.log(x)


def interval(call: Call, x: Interval) -> Interval:
    """[ln l, ln u], exact; −∞ where l is 0, in binary32 also where it may be flushed to 0. [−∞, ∞] for l < 0."""
    lower, upper = spared(call, x)
    safe = lower >= 0
    box = substituted(safe, Interval.bounds(lower, upper), 1.0)
    lower, upper = unbroken(call, torch.log(box.lower), torch.log(box.upper))
    return defined(safe, outward(call, lower, upper, 2 * ELEMENTARY_ULPS))


def relaxation(call: Call, x: Interval) -> Planes:
    """Chord below, tangent at the midpoint m above: the logarithm is concave. For l ≤ 0 the planes are ∓∞."""
    safe = x.lower > 0
    box = substituted(safe, x, 1.0)
    lower, upper = box.lower, box.upper
    middle = midpoint(lower, upper)
    tangent = 1.0 / middle
    at_lower, at_upper = torch.log(lower), torch.log(upper)
    secant = chord(lower, upper, at_lower, at_upper, tangent)
    below = torch.minimum(at_lower - secant * lower, at_upper - secant * upper)
    return defined_planes(safe, Planes(Plane((secant,), below), Plane((tangent,), torch.log(middle) - 1.0)))


OPERATOR = register(
    Operator(
        name="Log",
        summary="The natural logarithm",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(import_as("Log", (6, 13)),),
        writes=export_as("Log"),
        layers=(option_free_layer("Log"),),
    )
)
