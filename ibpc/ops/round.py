"""Round: the nearest integer, half to even."""

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
    """y = the integer nearest to x, of two the even one."""
    return torch.round(x)


OPERATOR = register(
    Operator(
        name="Round",
        summary="The integer nearest to x, the even one of two",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=staircase(nominal, below=-0.5, above=0.5),
        reads=(import_as("Round", (11, 22)),),
        writes=export_as("Round"),
        layers=(),
    )
)
