"""Tanh: the hyperbolic tangent."""

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

# PyTorch and ONNX Runtime are within 3 ulps (and may exceed 1). 1 − 2 / (e²ˣ + 1) with an exponential within 8 ulps has
# an absolute error of up to 13u near 0, where tanh vanishes.
ABSOLUTE_ERROR: Final = 14 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = tanh x."""
    return torch.tanh(x)


def derivative(x: Tensor) -> Tensor:
    """1 − tanh² x, computed as 4 sigmoid(2x) sigmoid(−2x) to avoid cancellation."""
    return 4.0 * (torch.sigmoid(2.0 * x) * torch.sigmoid(-2.0 * x))


CURVE: Final = SShape(torch.tanh, derivative)


OPERATOR = register(
    Operator(
        name="Tanh",
        summary="Hyperbolic tangent",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=s_shaped(CURVE, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)),
        reads=(import_as("Tanh", (6, 13)),),
        writes=export_as("Tanh"),
        layers=(option_free_layer("Tanh"),),
    )
)
