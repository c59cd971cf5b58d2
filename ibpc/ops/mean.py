"""Mean: the mean of any number of operands, elementwise, with broadcasting."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ibpc.ops._elementwise import broadcast_shape, export_as, import_as, option_free_layer, sum_of_radii
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import affine, no_macs, no_magnitude
from ibpc.ops.rules import Call


def nominal(call: Call, *operands: Tensor) -> Tensor:
    """y = (x₀ + x₁ + …) / n."""
    return reduce(torch.add, operands) / len(operands)


def absolute(call: Call, *radii: Tensor | None, offset: float | None) -> Tensor:
    """Return the mean of the radii."""
    mean = sum_of_radii(call, *radii, offset=None) / len(radii)
    return mean if offset is None else mean + offset


def terms(call: Call) -> int:
    """Return the number of operands, and 1 for the division."""
    return len(call.operands) + 1


OPERATOR = register(
    Operator(
        name="Mean",
        summary="Mean of the operands, elementwise",
        attributes={},
        operands=(1, None),
        roles=(),
        shape=broadcast_shape("Mean"),
        macs=no_macs,
        rules=affine(nominal, absolute, terms, no_magnitude),
        reads=(import_as("Mean", (6, 8, 13)),),
        writes=export_as("Mean"),
        layers=(option_free_layer("Mean"),),
    )
)
