"""Floor: the greatest integer not above x."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.ops._elementwise import export_as, import_as
from ibpc.ops._shapes import same_as_operand
from ibpc.ops._steps import staircase
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ⌊x⌋."""
    return torch.floor(x)


OPERATOR = register(
    Operator(
        name="Floor",
        summary="⌊x⌋, the greatest integer not above x",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=staircase(nominal, below=-1.0, above=0.0),
        reads=(import_as("Floor", (6, 13)),),
        writes=export_as("Floor"),
        layers=(),
    )
)
