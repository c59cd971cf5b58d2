"""Selu: gamma x where x ≥ 0, gamma alpha (eˣ − 1) elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._elementwise import export_as, import_numbers, option_free_layer
from ibpc.ops._planes import inside
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import ELEMENTARY_ULPS, UNIT

# The constants of Klambauer et al. 2017 rounded to binary32: the defaults of ONNX.
ALPHA: Final = 1.6732631921768188
GAMMA: Final = 1.0507010221481323
# See Elu: for x < 0, eˣ − 1 is off by 17u, and by u more where a program multiplies gamma and alpha first.
EXPONENTIAL_ERROR: Final = 20 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = gamma x where x ≥ 0, gamma alpha (eˣ − 1) elsewhere (Klambauer et al. 2017, arXiv 1706.02515)."""
    gamma: float = call["gamma"]
    return gamma * F.elu(x, call["alpha"])


def derivative(call: Call, x: Tensor) -> Tensor:
    """Gamma where x > 0, gamma alpha eˣ elsewhere."""
    alpha: float = call["alpha"]
    gamma: float = call["gamma"]
    left = alpha * torch.exp(x.clamp(max=0.0))
    return gamma * torch.where(x > 0, torch.ones_like(x), left)


def interval(call: Call, x: Interval) -> Interval:
    """Return the least and greatest of the values at l, u and the point nearest to 0, where f may turn; exact.

    In binary32 the product is rounded, and for x < 0 the difference eˣ − 1 is off by 18u, however small it is.
    """
    values = [nominal(call, point) for point in (x.lower, x.upper, inside(0.0, x.lower, x.upper))]
    lower = torch.minimum(torch.minimum(values[0], values[1]), values[2])
    upper = torch.maximum(torch.maximum(values[0], values[1]), values[2])
    error = 2.0 * abs(call["gamma"] * call["alpha"]) * EXPONENTIAL_ERROR
    wide = outward(call, lower, upper, 2 * ELEMENTARY_ULPS, error)
    narrow = outward(call, lower, upper, 2 * ELEMENTARY_ULPS)
    linear = x.lower >= 0
    return Interval.bounds(torch.where(linear, narrow.lower, wide.lower), torch.where(linear, narrow.upper, wide.upper))


def curve(call: Call) -> Curve:
    """Return the curve: an exponential below 0, a line above."""
    bend = Bend.CONVEX if call["alpha"] * call["gamma"] >= 0 else Bend.CONCAVE
    return Curve(partial(nominal, call), partial(derivative, call), (bend, Bend.LINE), (0.0,))


OPERATOR = register(
    Operator(
        name="Selu",
        summary="gamma x where x ≥ 0, gamma alpha (eˣ − 1) elsewhere",
        attributes={"alpha": {"type": "number", "default": ALPHA}, "gamma": {"type": "number", "default": GAMMA}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(import_numbers("Selu", (6, 22), "alpha", "gamma"),),
        writes=export_as("Selu", "alpha", "gamma"),
        layers=(option_free_layer("SELU"),),
    )
)
