"""Swish: x sigmoid(alpha x)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._bends import BELL, Bend, Curve, curved
from ibpc.ops._curves import gated_interval
from ibpc.ops._elementwise import option_free_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call
from ibpc.rounding import SMALLEST, UNIT

# A smaller |alpha| may be flushed to 0.
SHARPNESS: Final[Mapping[str, Any]] = {
    "title": "a number of at least 2⁻¹²⁶ in modulus",
    "type": "number",
    "anyOf": [{"minimum": SMALLEST}, {"maximum": -SMALLEST}],
    "default": 1.0,
}
# The values for alpha = 1; for another alpha they are divided by it.
BOTTOM: Final = -1.2784645427610737951
TURN: Final = 2.3993572805154676678
# The sigmoid has an absolute error of 10u and a relative one of 16u (see Sigmoid), and 0.23 · 2u more because its
# argument t is off by 2u |t|.
GATE_ERROR: Final = 28 * UNIT


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x / (1 + e^(−alpha x)) (Ramachandran et al. 2017, arXiv 1710.05941)."""
    alpha: float = call["alpha"]
    return x * torch.sigmoid(alpha * x)


def derivative(call: Call, x: Tensor) -> Tensor:
    """s + alpha x s (1 − s), with s = sigmoid(alpha x)."""
    alpha: float = call["alpha"]
    scaled = alpha * x
    share = torch.sigmoid(scaled)
    return share + scaled * share * torch.sigmoid(-scaled)


def interval(call: Call, x: Interval) -> Interval:
    """See `gated_interval` for alpha > 0: Swish falls to its minimum and rises from there. Exact.

    For alpha < 0, f(x) = −g(−x), where g has −alpha instead.
    """
    if call["alpha"] > 0:
        return gated_interval(call, x, lambda point: nominal(call, point), BOTTOM / call["alpha"], GATE_ERROR)
    mirrored = Interval.bounds(-x.upper, -x.lower)
    found = gated_interval(call, mirrored, lambda point: -nominal(call, -point), -BOTTOM / call["alpha"], GATE_ERROR)
    return Interval.bounds(-found.upper, -found.lower)


def curve(call: Call) -> Curve:
    """Return the curve: for alpha > 0 concave, convex about 0, and concave again; for alpha < 0 the reverse."""
    turn, bends = abs(TURN / call["alpha"]), BELL if call["alpha"] > 0 else (Bend.CONVEX, Bend.CONCAVE, Bend.CONVEX)
    return Curve(partial(nominal, call), partial(derivative, call), bends, (-turn, turn))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Swish; for alpha = 0 it is x / 2."""
    alpha = float(node.attributes.get("alpha", 1.0))
    if alpha == 0.0:
        return builder.add("Mul", [node.operand(0), builder.constant(torch.tensor(0.5))])
    return builder.add("Swish", [node.operand(0)], {"alpha": alpha})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export the formula, because opset 18 has no Swish."""
    (x,) = operands
    scaled = x if call["alpha"] == 1.0 else writer.node("Mul", [x, writer.constant(torch.tensor(call["alpha"]))])
    return writer.node("Mul", [x, writer.node("Sigmoid", [scaled])])


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Swish layer."""
    return LayerPlan({"alpha": options["alpha"]})


OPERATOR = register(
    Operator(
        name="Swish",
        summary="x sigmoid(alpha x)",
        attributes={"alpha": SHARPNESS},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=curved(curve, partial(nonlinear, nominal, interval)),
        reads=(OnnxImport("Swish", (24,), read),),
        writes=write,
        layers=(
            option_free_layer("SiLU"),
            Layer("Swish", {"alpha": {"description": "Sharpness", **SHARPNESS}}, plan),
        ),
    )
)
