"""Softplus: ln(1 + eˣ)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.ir import Shape
from ibpc.ops._bends import Bend, Curve, curved
from ibpc.ops._elementwise import export_as, import_as
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import monotone, no_macs
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

# PyTorch and ONNX Runtime are within 3 ulps. In ln(fl(1 + eˣ)) with an exponential within 8 ulps the argument has a
# relative error of 17u, so the result has an absolute one of 17u, for x < −10 more than any number of its ulps. An
# exponential that overflows is not allowed for.
ABSOLUTE_ERROR: Final = 18 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = ln(1 + eˣ), without overflow and without the jump of torch's own function at 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def curve(call: Call) -> Curve:
    """Return the curve, which is convex; its derivative is the sigmoid."""
    return Curve(partial(nominal, call), torch.sigmoid, (Bend.CONVEX,))


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Softplus layer."""
    return LayerPlan({})


OPERATOR = register(
    Operator(
        name="Softplus",
        summary="ln(1 + eˣ)",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(monotone, nominal, absolute=ABSOLUTE_ERROR)),
        reads=(import_as("Softplus", (1, 22)),),
        writes=export_as("Softplus"),
        layers=(
            Layer(
                "Softplus",
                {"beta": {"description": "Sharpness; only 1 is supported", "const": 1, "default": 1}},
                plan,
            ),
        ),
    )
)
