"""Clip: min(max(x, least), greatest)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, isfinite
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Shape
from ibpc.ops._planes import above, below, chord, inside
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import monotone, no_macs, nonlinear
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import LARGEST

NUMBER_OR_NULL: Final[Mapping[str, Any]] = {"type": ["number", "null"], "default": None}


def ends(call: Call) -> tuple[float, float]:
    """Return min and max, infinite where absent."""
    least, greatest = call["min"], call["max"]
    return -inf if least is None else float(least), inf if greatest is None else float(greatest)


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = min(max(x, min), max); max where min > max."""
    if call["min"] is None and call["max"] is None:
        return x
    return torch.clamp(x, call["min"], call["max"])


def relaxation(call: Call, x: Interval) -> Planes:
    """Above: where l < min, the chord from l to min(u, max), else slope 1 or 0, whichever leaves less area.

    Below: the mirror image. y − line is piecewise linear, so its extremes lie at l, u or a kink: the planes are sound
    for any slope.
    """
    lower, upper = x.lower, x.upper
    least, greatest = ends(call)
    points = [lower, upper, *(inside(kink, lower, upper) for kink in (least, greatest) if isfinite(kink))]

    def function(point: Tensor) -> Tensor:
        return nominal(call, point)

    end, start = upper.clamp(max=greatest), lower.clamp(min=least)
    rising = chord(lower, end, function(lower), function(end), 0.0)
    falling = chord(start, upper, function(start), function(upper), 0.0)
    flat_above = (upper - greatest > greatest - lower).to(lower.dtype)
    flat_below = (least - lower > upper - least).to(lower.dtype)
    return Planes(
        below(function, torch.where(upper > greatest, falling, 1.0 - flat_below), points),
        above(function, torch.where(lower < least, rising, 1.0 - flat_above), points),
    )


_EXACT = monotone(nominal, relaxation, ulps=0)
_ROUNDED = monotone(nominal, relaxation, ulps=1)


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)], exact; in binary32 rounded outward unless it represents `min` and `max`."""
    representable = all(end == float(torch.tensor(end, dtype=torch.float32)) for end in ends(call))
    return (_EXACT if representable else _ROUNDED).interval(call, x)


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Clip layer."""
    return LayerPlan({"min": options["min"], "max": options["max"]})


def plan_hardtanh(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Hardtanh layer."""
    return LayerPlan({"min": options["min_val"], "max": options["max_val"]})


def plan_relu6(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a ReLU6 layer."""
    return LayerPlan({"min": 0.0, "max": 6.0})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Clip: the ends are attributes up to version 6 and constant inputs after that.

    A `min` at or below minus the largest binary32 number, the default of version 6, means no limit; `max` likewise.
    """
    low, high = (_given_end(node, name, slot) for slot, name in enumerate(("min", "max"), start=1))
    if low == inf or high == -inf:
        raise GraphError.at(f"node {node.name}", f"the range from {low} to {high}", "finite numbers")
    attributes = {
        "min": None if low is None or low <= -LARGEST else low,
        "max": None if high is None or high >= LARGEST else high,
    }
    return builder.add("Clip", [node.operand(0)], attributes)


def _given_end(node: OnnxNode, name: str, slot: int) -> float | None:
    if node.version < 11:
        value = node.attributes.get(name)
        return None if value is None else float(value)
    return None if node.optional(slot) is None else float(node.known(slot))


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Clip."""
    constants = [
        "" if call[name] is None else writer.constant(torch.tensor(call[name], dtype=torch.float32))
        for name in ("min", "max")
    ]
    return writer.node("Clip", [*operands, *constants])


def kinks(call: Call, **parameters: Tensor) -> tuple[float, ...]:
    """Return the finite ends in rising order (min may exceed max)."""
    return tuple(sorted(end for end in ends(call) if isfinite(end)))


OPERATOR = register(
    Operator(
        name="Clip",
        summary="Elementwise restriction to a range",
        attributes={"min": NUMBER_OR_NULL, "max": NUMBER_OR_NULL},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, relaxation), kinks=kinks),
        reads=(OnnxImport("Clip", (6, 11, 12, 13), read),),
        writes=write,
        layers=(
            Layer(
                "Clip",
                {
                    "min": {"description": "Least output; null for none", **NUMBER_OR_NULL},
                    "max": {"description": "Greatest output; null for none", **NUMBER_OR_NULL},
                },
                plan,
            ),
            Layer(
                "Hardtanh",
                {
                    "min_val": {"description": "Least output", "type": "number", "default": -1.0},
                    "max_val": {"description": "Greatest output", "type": "number", "default": 1.0},
                },
                plan_hardtanh,
            ),
            Layer("ReLU6", {}, plan_relu6),
        ),
    )
)
