"""Sub: elementwise difference with broadcasting."""

from __future__ import annotations

from dataclasses import replace

import torch

from ibpc.ops._elementwise import (
    broadcast_shape,
    export_as,
    gain_of_sum,
    import_as,
    option_free_layer,
    sum_of_radii,
    two_terms,
)
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import affine, no_macs, no_magnitude
from ibpc.ops.rules import Call, Factors


def nominal(call: Call, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """z = x − y."""
    return x - y


def local(call: Call) -> Factors:
    """Count the second operand negatively."""
    return (1.0, -1.0)


OPERATOR = register(
    Operator(
        name="Sub",
        summary="Elementwise difference with broadcasting",
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape("Sub"),
        macs=no_macs,
        rules=replace(affine(nominal, sum_of_radii, two_terms, no_magnitude, gain=gain_of_sum), local=local),
        reads=(import_as("Sub", (7, 13, 14)),),
        writes=export_as("Sub"),
        layers=(option_free_layer("Sub"),),
    )
)
