"""Gelu: x Φ(x), with Φ the normal distribution function, exact or approximated by a tanh."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import pi, sqrt
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._bends import BELL, Curve, curved
from ibpc.ops._curves import OWN_GATE_ERROR, gated_interval
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call
from ibpc.rounding import UNIT

FORMS: Final[Mapping[str, Any]] = {"enum": ["none", "tanh"], "default": "none"}
# Whether √(1/2), √(2/π) and 0.044715 are exact, or a file's numbers, with relative errors of at most 2⁻²².
NUMBERS: Final[Mapping[str, Any]] = {"enum": ["exact", "rounded"], "default": "exact"}
# Where each form has its minimum, and where its curvature changes sign (on either side of 0).
BOTTOM: Final = {"none": -0.75179152469356445746, "tanh": -0.75246142207101625849}
TURN: Final = {"none": sqrt(2.0), "tanh": 1.4185040087908283555}
CUBIC: Final = 0.044715
# The gate is (1 + e) / 2. Its e (erf or tanh) has a relative error of 16u, an absolute one of 22u (see Erf and Tanh),
# and an error of at most 0.49 |δt / t| from the rounding of its argument t, where |δt| ≤ 34u |t|: 30 roundings, and
# numbers off by 4u.
GATE_ERROR: Final = 32 * UNIT
# The part of it due to rounded numbers: 0.245 |δt / t|, where |δt / t| ≤ 2⁻²².
ROUNDED_GATE: Final = 2.0**-23


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x (1 + erf(x / √2)) / 2, or y = x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2 (Hendrycks and Gimpel 2016)."""
    return F.gelu(x, approximate=call["approximate"])


def derivative(call: Call, x: Tensor) -> Tensor:
    """Φ(x) + x Φ′(x)."""
    if call["approximate"] == "none":
        return 0.5 * torch.erfc(-x * sqrt(0.5)) + x * torch.exp(-0.5 * x * x) / sqrt(2.0 * pi)
    slope = sqrt(8.0 / pi)
    share = torch.sigmoid(slope * (x + CUBIC * x * x * x))
    return share + x * share * (1.0 - share) * slope * (1.0 + 3.0 * CUBIC * x * x)


def interval(call: Call, x: Interval) -> Interval:
    """See `gated_interval`: Gelu falls to its minimum and rises from there. Exact except for rounded numbers."""
    form = call["approximate"]
    exact = gated_interval(call, x, lambda point: nominal(call, point), BOTTOM[form], GATE_ERROR)
    missed = _missed(call) * torch.maximum(x.lower.abs(), x.upper.abs())
    return Interval.bounds(exact.lower - missed, exact.upper + missed)


def _missed(call: Call) -> float:
    """Return by how much rounded numbers may change the gate."""
    return 0.0 if call["constants"] == "exact" else ROUNDED_GATE


def curve(call: Call) -> Curve:
    """Return the curve: concave, convex about 0, and concave again."""
    turn = TURN[call["approximate"]]
    return Curve(
        partial(nominal, call), partial(derivative, call), BELL, (-turn, turn), missed=_missed(call) + OWN_GATE_ERROR
    )


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a GELU layer."""
    return LayerPlan({"approximate": options["approximate"], "constants": "exact"})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Gelu."""
    form = node.attributes.get("approximate", "none")
    return builder.add("Gelu", [node.operand(0)], {"approximate": form, "constants": "exact"})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export the formula, because opset 18 has no Gelu."""

    def number(value: float) -> str:
        return writer.constant(torch.tensor(value))

    (x,) = operands
    if call["approximate"] == "none":
        curve = writer.node("Erf", [writer.node("Mul", [x, number(sqrt(0.5))])])
    else:
        cube = writer.node("Mul", [writer.node("Mul", [x, x]), writer.node("Mul", [x, number(CUBIC)])])
        argument = writer.node("Mul", [writer.node("Add", [x, cube]), number(sqrt(2.0 / pi))])
        curve = writer.node("Tanh", [argument])
    return writer.node("Mul", [writer.node("Mul", [x, number(0.5)]), writer.node("Add", [curve, number(1.0)])])


OPERATOR = register(
    Operator(
        name="Gelu",
        summary="x times the normal distribution function of x, or its approximation by tanh",
        attributes={"approximate": FORMS, "constants": NUMBERS},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(OnnxImport("Gelu", (20,), read),),
        writes=write,
        layers=(Layer("GELU", {"approximate": {"description": "Exact (none) or by tanh", **FORMS}}, plan),),
    )
)
