"""Sum: the sum of any number of operands, elementwise, with broadcasting."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ibpc.ops._elementwise import (
    broadcast_shape,
    export_as,
    gain_of_sum,
    import_as,
    option_free_layer,
    sum_of_radii,
)
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import affine, no_macs, no_magnitude
from ibpc.ops.rules import Call


def nominal(call: Call, *operands: Tensor) -> Tensor:
    """y = x₀ + x₁ + …."""
    return reduce(torch.add, operands)


def terms(call: Call) -> int:
    """Return the number of operands."""
    return len(call.operands)


OPERATOR = register(
    Operator(
        name="Sum",
        summary="Sum of the operands, elementwise",
        attributes={},
        operands=(1, None),
        roles=(),
        shape=broadcast_shape("Sum"),
        macs=no_macs,
        rules=affine(nominal, sum_of_radii, terms, no_magnitude, gain=gain_of_sum),
        reads=(import_as("Sum", (6, 8, 13)),),
        writes=export_as("Sum"),
        layers=(option_free_layer("Sum"),),
    )
)
