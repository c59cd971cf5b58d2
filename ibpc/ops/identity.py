"""Identity: x."""

from __future__ import annotations

from torch import Tensor

from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x."""
    return x


OPERATOR = register(
    Operator(
        name="Identity",
        summary="The operand itself",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(import_as("Identity", (1, 13, 14, 16, 19, 21, 23, 24, 25)),),
        writes=export_as("Identity"),
        layers=(option_free_layer("Identity"),),
    )
)
