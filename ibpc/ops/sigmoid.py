"""Sigmoid: 1 / (1 + e⁻ˣ)."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._s_shaped import SShape, s_shaped
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import monotone, no_macs
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

# PyTorch is within 2 ulps, also where 1 / (1 + e⁻ˣ) underflows. ONNX Runtime's rational function exceeds 8 ulps by up
# to 2.4u for x < −11, and may exceed 1. (1 + tanh(x / 2)) / 2 with a tanh within 8 ulps is off by 9u.
ABSOLUTE_ERROR: Final = 10 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = 1 / (1 + e⁻ˣ)."""
    return torch.sigmoid(x)


def derivative(x: Tensor) -> Tensor:
    """y (1 − y), with 1 − y computed as sigmoid(−x) to avoid cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


CURVE: Final = SShape(torch.sigmoid, derivative)


OPERATOR = register(
    Operator(
        name="Sigmoid",
        summary="1 / (1 + e⁻ˣ)",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=s_shaped(CURVE, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)),
        reads=(import_as("Sigmoid", (6, 13)),),
        writes=export_as("Sigmoid"),
        layers=(option_free_layer("Sigmoid"),),
    )
)
