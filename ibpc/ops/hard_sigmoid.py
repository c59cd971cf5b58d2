"""HardSigmoid: min(max(alpha x + beta, 0), 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._elementwise import export_as, import_numbers
from ibpc.ops._pieces import Piece, pieces_relaxation
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

# The defaults of ONNX in binary32.
ALPHA: Final = 0.20000000298023224
BETA: Final = 0.5


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = min(max(alpha x + beta, 0), 1)."""
    return torch.clamp(call["alpha"] * x + call["beta"], 0.0, 1.0)


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)], or [f(u), f(l)] for alpha < 0; exact.

    In binary32 alpha, beta, product and sum are rounded: where the result is not clamped, |alpha x| ≤ 1 + |beta|, so it
    is off by 2u (1 + |beta|) + u |beta| + u, and by 2u more where a program divides by 6 in the end.
    """
    ends = (x.lower, x.upper) if call["alpha"] >= 0 else (x.upper, x.lower)
    error = UNIT * (3.0 * abs(call["beta"]) + 6.0)
    return outward(call, nominal(call, ends[0]), nominal(call, ends[1]), 0, 2.0 * error)


def pieces(call: Call) -> tuple[Piece, ...]:
    """Return the pieces 0, line and 1 in the order of rising x."""
    alpha, beta = call["alpha"], call["beta"]
    if alpha == 0:
        return (Piece(-inf, inf, 0.0, min(max(beta, 0.0), 1.0)),)
    first, last = sorted((-beta / alpha, (1.0 - beta) / alpha))
    left, right = (0.0, 1.0) if alpha > 0 else (1.0, 0.0)
    return Piece(-inf, first, 0.0, left), Piece(first, last, alpha, beta), Piece(last, inf, 0.0, right)


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Hardsigmoid layer: alpha is 1/6."""
    return LayerPlan({"alpha": 1.0 / 6.0, "beta": 0.5})


def kinks(call: Call, **parameters: Tensor) -> tuple[float, ...]:
    """Return where the pieces meet."""
    return tuple(piece.end for piece in pieces(call)[:-1])


OPERATOR = register(
    Operator(
        name="HardSigmoid",
        summary="min(max(alpha x + beta, 0), 1)",
        attributes={"alpha": {"type": "number", "default": ALPHA}, "beta": {"type": "number", "default": BETA}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, pieces_relaxation(pieces, nominal)), kinks=kinks),
        reads=(import_numbers("HardSigmoid", (6, 22), "alpha", "beta"),),
        writes=export_as("HardSigmoid", "alpha", "beta"),
        layers=(Layer("Hardsigmoid", {}, plan),),
    )
)
