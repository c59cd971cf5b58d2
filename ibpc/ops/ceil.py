"""Ceil: the least integer not below x."""

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
    """y = ⌈x⌉."""
    return torch.ceil(x)


OPERATOR = register(
    Operator(
        name="Ceil",
        summary="⌈x⌉, the least integer not below x",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=staircase(nominal, below=0.0, above=1.0),
        reads=(import_as("Ceil", (6, 13)),),
        writes=export_as("Ceil"),
        layers=(),
    )
)
