"""GlobalAveragePool: the mean over all spatial dimensions, which stay with size 1."""

from __future__ import annotations

from functools import partial
from math import prod

from torch import Tensor

from ibpc.ops._elementwise import export_as, import_as
from ibpc.ops._pools import global_layer, global_shape
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import affine, no_macs, no_magnitude, nonnegative_weights
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = mean of x over dimensions 2 and up."""
    return x.mean(list(range(2, len(call.output))), keepdim=True)


def terms(call: Call) -> int:
    """Return the number of positions and 1 for the division, or for the product with a rounded reciprocal."""
    return prod(call.operands[0][2:]) + 1


OPERATOR = register(
    Operator(
        name="GlobalAveragePool",
        summary="The mean over all spatial dimensions, which stay with size 1",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=partial(global_shape, "GlobalAveragePool"),
        macs=no_macs,
        rules=affine(nominal, nonnegative_weights(nominal), terms, no_magnitude),
        reads=(import_as("GlobalAveragePool", (1, 22)),),
        writes=export_as("GlobalAveragePool"),
        layers=tuple(global_layer("AdaptiveAvgPool", dimensions) for dimensions in (1, 2, 3)),
    )
)
