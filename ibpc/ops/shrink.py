"""Shrink: x + bias where x < −lambd, x − bias where x > lambd, 0 between."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final

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
from ibpc.rounding import UNIT

HALF_WIDTH: Final[Mapping[str, Any]] = {"type": "number", "minimum": 0}


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x + bias where x < −lambd, x − bias where x > lambd, 0 between."""
    zero = torch.zeros_like(x)
    right = torch.where(x > call["lambd"], x - call["bias"], zero)
    return torch.where(x < -call["lambd"], x + call["bias"], right)


def pieces(call: Call) -> tuple[Piece, ...]:
    """Return the two lines and the piece 0 between them."""
    end, bias = call["lambd"], call["bias"]
    return (
        Piece(-inf, -end, 1.0, bias, is_open_right=True),
        Piece(-end, end, 0.0, 0.0),
        Piece(end, inf, 1.0, -bias, is_open_left=True),
    )


def interval(call: Call, x: Interval) -> Interval:
    """See `pieces_interval`; exact, except that values beside a jump are limits.

    In binary32 the sum is rounded, and so is the bias unless binary32 represents it.
    """
    bias = call["bias"]
    representable = bias == float(torch.tensor(bias, dtype=torch.float32))
    error = 0.0 if representable else 2.0 * UNIT * abs(bias)
    return pieces_interval(call, x, pieces(call), 2 if bias else 0, error)


def plan_hard(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Hardshrink layer."""
    return LayerPlan({"lambd": options["lambd"], "bias": 0.0})


def plan_soft(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Softshrink layer."""
    return LayerPlan({"lambd": options["lambd"], "bias": options["lambd"]})


def shrink_layer(name: str, plan: Any) -> Layer:
    """Return a layer with the option `lambd`."""
    schema = {"description": "Inputs up to this modulus become 0", **HALF_WIDTH, "default": 0.5}
    return Layer(name, {"lambd": schema}, plan)


OPERATOR = register(
    Operator(
        name="Shrink",
        summary="x + bias where x < −lambd, x − bias where x > lambd, 0 between",
        attributes={"bias": {"type": "number", "default": 0.0}, "lambd": {**HALF_WIDTH, "default": 0.5}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, pieces_relaxation(pieces, nominal)),
        reads=(import_numbers("Shrink", (9,), "bias", "lambd"),),
        writes=export_as("Shrink", "bias", "lambd"),
        layers=(shrink_layer("Hardshrink", plan_hard), shrink_layer("Softshrink", plan_soft)),
    )
)
