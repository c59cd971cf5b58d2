"""GlobalMaxPool: the greatest element over all spatial dimensions, which stay with size 1."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import export_as, import_as
from ibpc.ops._pools import global_layer, global_shape
from ibpc.ops._reductions import greatest_planes
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import monotone, no_macs
from ibpc.ops.rules import Call, Plane, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = max of x over dimensions 2 and up."""
    return x.amax(list(range(2, len(call.output))), keepdim=True)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of the maximum over all positions; see `greatest_planes`."""
    positions = prod(call.operands[0][2:])

    def view(value: Tensor) -> Tensor:
        return value.reshape([-1, *call.output[1:], positions])

    (slope, offset), (above_slope, above_offset) = greatest_planes(view(x.lower), view(x.upper))
    return Planes(Plane((slope,), offset, (view,)), Plane((above_slope,), above_offset, (view,)))


OPERATOR = register(
    Operator(
        name="GlobalMaxPool",
        summary="The greatest element over all spatial dimensions, which stay with size 1",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=partial(global_shape, "GlobalMaxPool"),
        macs=no_macs,
        rules=replace(monotone(nominal, relaxation, ulps=0), selects=True),
        reads=(import_as("GlobalMaxPool", (1, 22)),),
        writes=export_as("GlobalMaxPool"),
        layers=tuple(global_layer("AdaptiveMaxPool", dimensions) for dimensions in (1, 2, 3)),
    )
)
