"""LeakyRelu: x where x ≥ 0, alpha x elsewhere."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ops._elementwise import export_as, import_numbers, option_layer
from ibpc.ops._leaky import leaky_interval, leaky_planes
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import kink_at_zero, monotone, no_macs, nonlinear
from ibpc.ops.rules import Call, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x where x ≥ 0, alpha x elsewhere (Maas et al. 2013)."""
    return F.leaky_relu(x, call["alpha"])


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of a leaky rectifier; see `leaky_planes`."""
    return leaky_planes(x, lambda point: nominal(call, point), torch.full_like(x.lower, call["alpha"]))


_RISING = monotone(nominal, relaxation, ulps=1)


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)] for alpha from 0 to 1; see `leaky_interval` for the others. Exact.

    In binary32 alpha and the product are rounded: one unit in the last place each for the network and the bound.
    """
    if 0 <= call["alpha"] <= 1:
        return _RISING.interval(call, x)
    return leaky_interval(call, x, lambda point: nominal(call, point), ulps=2)


OPERATOR = register(
    Operator(
        name="LeakyRelu",
        summary="x where x ≥ 0, alpha x elsewhere",
        attributes={"alpha": {"type": "number", "default": 0.01}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, relaxation), kinks=kink_at_zero),
        reads=(import_numbers("LeakyRelu", (6, 16), "alpha"),),
        writes=export_as("LeakyRelu", "alpha"),
        layers=(
            option_layer(
                "LeakyReLU",
                "negative_slope",
                {"description": "Slope where the input is negative", "type": "number", "default": 0.01},
                "alpha",
            ),
        ),
    )
)
