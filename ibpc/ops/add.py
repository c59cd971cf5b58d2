"""Add: elementwise sum with broadcasting."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ibpc.ir import Attributes, Shape
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._shapes import broadcast
from ibpc.ops.base import Call, Operator, affine, no_macs, no_magnitude, register


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the broadcast shape."""
    return broadcast(operands, "Add")


def nominal(call: Call, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """z = x + y."""
    return x + y


def absolute(call: Call, x: torch.Tensor | None, y: torch.Tensor | None, *, offset: float | None) -> torch.Tensor:
    """r(x) + r(y); an exact operand has no radius."""
    return sum_of_radii(call, x, y, offset=offset)


def sum_of_radii(call: Call, *radii: torch.Tensor | None, offset: float | None) -> torch.Tensor:
    """Return the sum of the radii that are there, in the shape of the output."""
    present = [radius for radius in radii if radius is not None]
    total = present[0]
    for radius in present[1:]:
        total = total + radius
    if len(present) < len(radii):
        total = total.expand(call.output)
    return total if offset is None else total + offset


def terms(call: Call) -> int:
    """Two terms."""
    return 2


OPERATOR = register(
    Operator(
        name="Add",
        summary="Elementwise sum with broadcasting",
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=affine(nominal, absolute, terms, no_magnitude),
        reads=(import_as("Add", (7, 13, 14)),),
        writes=export_as("Add"),
        layers=(option_free_layer("Add"),),
    )
)
