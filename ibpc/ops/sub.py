"""Sub: elementwise difference with broadcasting."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ibpc.ops._elementwise import broadcast_shape, export_as, import_as, option_free_layer
from ibpc.ops._sums import sum_of_two
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs
from ibpc.ops.rules import Call, Factors


def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """z = x − y."""
    return x - y


def local(call: Call) -> Factors:
    """Return the factors of the operands: 1 and −1."""
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
        rules=replace(sum_of_two(nominal), local=local),
        reads=(import_as("Sub", (7, 13, 14)),),
        writes=export_as("Sub"),
        layers=(option_free_layer("Sub"),),
    )
)
