"""Mod: the remainder of x / y, with the sign of x (fmod) or of y."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined
from ibpc.ops._elementwise import broadcast_shape
from ibpc.ops._steps import elementwise_range, flushed
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.element_types import number
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Operand


def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """z = x − y trunc(x / y) for fmod, else x − y ⌊x / y⌋."""
    return torch.fmod(x, y) if call["fmod"] else torch.remainder(x, y)


def interval(call: Call, x: Operand, y: Operand) -> Interval:
    """[f(l), f(u)] where no jump lies between l and u, else the range of all remainders; exact for an exact y.

    f rises with slope 1 and jumps down by |y|. So if u − l < |y|, there is no jump between exactly if f(l) < f(u). A
    divisor that may be 0 gives (−∞, ∞). In binary32 fmod is exact; the other remainder is off by one rounding.
    """
    numerator, divisor = flushed(call, x), flushed(call, y)
    lower, upper = (_fmod_range if call["fmod"] else _remainder_range)(numerator, divisor)
    safe = (divisor.lower > 0) | (divisor.upper < 0)
    exact = torch.where(safe, divisor.lower, torch.ones_like(divisor.lower))
    least, most = nominal(call, numerator.lower, exact), nominal(call, numerator.upper, exact)
    smooth = (numerator.upper - numerator.lower < exact.abs()) & (least < most) | (numerator.lower == numerator.upper)
    smooth = smooth & (divisor.lower == divisor.upper)
    lower, upper = torch.where(smooth, least, lower), torch.where(smooth, most, upper)
    found = defined(safe, Interval.bounds(lower, upper))
    return flushed(call, found) if call["fmod"] else outward(call, found.lower, found.upper)


def _fmod_range(x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
    """Return the range of remainders with the sign of x and a modulus no greater than that of x or y."""
    size = torch.maximum(-y.lower, y.upper)
    zero = torch.zeros_like(x.lower + size)
    lower = torch.where(x.lower >= 0, zero, torch.maximum(x.lower, -size))
    return lower, torch.where(x.upper <= 0, zero, torch.minimum(x.upper, size))


def _remainder_range(x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
    """Return the range of remainders with the sign of y, in the shape of the result."""
    zero = torch.zeros_like(x.lower)
    return torch.minimum(y.lower, zero), torch.maximum(y.upper, zero)


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Mod."""
    attributes = {"fmod": bool(node.attributes.get("fmod", 0))}
    return builder.add("Mod", [number(node, 0, builder), number(node, 1, builder)], attributes)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Mod with fmod, the only form for floating point; fmod(fmod(x, y) + y, y) has the sign of y."""
    remainder = writer.node("Mod", operands, fmod=1)
    if call["fmod"]:
        return remainder
    return writer.node("Mod", [writer.node("Add", [remainder, operands[1]]), operands[1]], fmod=1)


OPERATOR = register(
    Operator(
        name="Mod",
        summary="Remainder of x / y, with the sign of x (fmod) or of y",
        attributes={"fmod": {"type": "boolean", "default": False}},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape("Mod"),
        macs=no_macs,
        rules=nonlinear(nominal, interval, elementwise_range(interval)),
        reads=(OnnxImport("Mod", (10, 13, 28), read),),
        writes=write,
        layers=(),
    )
)
