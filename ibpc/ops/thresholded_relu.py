"""ThresholdedRelu: x where x > alpha, 0 elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._elementwise import export_as, import_numbers
from ibpc.ops._pieces import Piece, pieces_interval, pieces_relaxation
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x where x > alpha, 0 elsewhere."""
    return torch.where(x > call["alpha"], x, torch.zeros_like(x))


def pieces(call: Call) -> tuple[Piece, ...]:
    """Return 0 up to alpha, and x from there on."""
    return Piece(-inf, call["alpha"], 0.0, 0.0), Piece(call["alpha"], inf, 1.0, 0.0, is_open_left=True)


def interval(call: Call, x: Interval) -> Interval:
    """See `pieces_interval`; exact, except that alpha itself is a limit (from the right)."""
    return pieces_interval(call, x, pieces(call), 0, 0.0)


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Threshold layer."""
    return LayerPlan({"alpha": options["threshold"]})


OPERATOR = register(
    Operator(
        name="ThresholdedRelu",
        summary="x where x > alpha, 0 elsewhere",
        attributes={"alpha": {"type": "number", "default": 1.0}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, pieces_relaxation(pieces, nominal)),
        reads=(import_numbers("ThresholdedRelu", (10, 22), "alpha"),),
        writes=export_as("ThresholdedRelu", "alpha"),
        layers=(
            Layer(
                "Threshold",
                {
                    "threshold": {"description": "The input passes beyond it", "type": "number"},
                    "value": {"description": "Output elsewhere; only 0 is supported", "const": 0, "default": 0},
                },
                plan,
                required=("threshold",),
            ),
        ),
    )
)
