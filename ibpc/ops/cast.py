"""Cast: x as an integer or a boolean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._logic import truth, verdict
from ibpc.ops._shapes import same_as_operand
from ibpc.ops._steps import flushed, range_planes, sloped_planes, straight_through
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import DOUBLE, FLOAT, NAMES, NUMBERS, RANGES, holds, name_of, number
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """To booleans y = 1 where x ≠ 0, else 0; to integers y = x rounded toward zero and saturated.

    ONNX does not define casts of numbers beyond the range of an integer type.

    Integers are kept in a floating type, so they are exact up to 2²⁴ in binary32.
    """
    if call["to"] == "bool":
        return (x != 0).type_as(x)
    least, greatest = RANGES[call["to"]]
    return torch.clamp(torch.trunc(x), float(least), float(greatest))


def interval(call: Call, x: Interval) -> Interval:
    """To booleans [1, 1], [0, 0], or [0, 1] where the box holds 0 and another number; to integers [⟦l⟧, ⟦u⟧].

    Exact in any arithmetic. Where the box leaves the range of the type, or a bound is NaN, the result is the whole
    range, because machines convert such numbers differently.
    """
    if call["to"] == "bool":
        return verdict(*truth(call, x), x)
    least, greatest = RANGES[call["to"]]
    box = flushed(call, x)
    inside = (box.lower > float(least) - 1.0) & (box.upper < float(greatest + 1))
    return Interval.bounds(
        torch.where(inside, torch.trunc(box.lower), torch.full_like(box.lower, float(least))),
        torch.where(inside, torch.trunc(box.upper), torch.full_like(box.upper, float(greatest))),
    )


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the bounds as constants if at most 2 apart, else x − 1 and x + 1, which enclose x rounded toward zero."""
    box = interval(call, x)
    if call["to"] == "bool":
        return range_planes(box, 1)
    least, greatest = RANGES[call["to"]]
    inside = (x.lower > float(least) - 1.0) & (x.upper < float(greatest + 1))
    return sloped_planes(box, inside & (box.upper - box.lower > 2.0), -1.0, 1.0)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Cast."""
    return cast_to(node, builder, int(node.attributes["to"]))


def read_like(node: OnnxNode, builder: Builder) -> Value:
    """Import CastLike: Cast to the type of the second input."""
    return cast_to(node, builder, node.type_of(1))


def cast_to(node: OnnxNode, builder: Builder, target: int) -> Value:
    """Return the first input of a node cast to an element type; no Cast is built where none is needed.

    Casts between float and double need none: bounds l and u are binary32 numbers and rounding to binary32 is monotone,
    so l ≤ x ≤ u survives it. Raises GraphError for floating types of 16 bits or less, whose rounding is not covered.
    """
    wanted = name_of(target, f"node {node.name}")
    source = NAMES.get(node.type_of(0), "float")
    value = number(node, 0, builder)
    if target in (FLOAT, DOUBLE) or holds(wanted, source):
        return builder.add("Identity", [value])
    return builder.add("Cast", [value], {"to": wanted})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export a Cast to the type and one back, because all values of the network are floating-point."""
    return writer.node("Cast", [writer.node("Cast", operands, to=NUMBERS[call["to"]])], to=FLOAT)


OPERATOR = register(
    Operator(
        name="Cast",
        summary="x as an integer (rounded toward zero) or a boolean (x ≠ 0)",
        attributes={"to": {"enum": ["bool", *RANGES]}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, relaxation), guiding=straight_through(nominal)),
        reads=(
            OnnxImport("Cast", (6, 9, 13, 19, 21, 23, 24, 25, 28), read),
            OnnxImport("CastLike", (15, 19, 21, 23, 24, 25), read_like),
        ),
        writes=write,
        layers=(),
    )
)
