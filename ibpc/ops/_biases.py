"""The bias of Conv, ConvTranspose and Gemm, and its magnitude: the sum of moduli that may cancel in a folded bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Shape
from ibpc.ops.base import Fill, Role
from ibpc.ops.rules import Call

BIAS: Final = Role("bias", Fill.BIAS, optional=True)
BIAS_MAGNITUDE: Final = Role("bias_magnitude", Fill.ZEROS, trainable=False, optional=True)


def expect_biases(parameters: Mapping[str, Shape], channels: int, where: str) -> None:
    """Raise GraphError unless the biases present have one value per output channel."""
    for role in (BIAS, BIAS_MAGNITUDE):
        if role.name in parameters and parameters[role.name] != (channels,):
            raise GraphError.at(where, f"{role.name} of shape {parameters[role.name]}", f"({channels},)")


def magnitude(
    call: Call, *, bias: Tensor | None = None, bias_magnitude: Tensor | None = None, **_: Tensor
) -> Tensor | None:
    """|bias|, or the sum of the moduli of the parts that a pass folded into the bias."""
    if bias_magnitude is not None:
        return bias_magnitude
    return None if bias is None else bias.abs()
