"""InRange: a whole number, provided that an integer type can hold it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._curves import defined, defined_planes
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import RANGES
from ibpc.ops.onnx import Writer
from ibpc.ops.rules import Call, Plane, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x, also beyond the range of the type, where machines would wrap around."""
    return x


def _is_inside(call: Call, x: Interval) -> Tensor:
    least, greatest = RANGES[call["type"]]
    return (x.lower >= float(least)) & (x.upper < float(greatest + 1))


def interval(call: Call, x: Interval) -> Interval:
    """[l, u], exact; [−∞, ∞] where the box leaves the range of the type: wrapping around may give any number."""
    return defined(_is_inside(call, x), x)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the plane x where the box lies in the range of the type, and ∓∞ elsewhere."""
    one = torch.ones_like(x.lower)
    same = Plane((one,), torch.zeros_like(one))
    return defined_planes(_is_inside(call, x), Planes(same, same))


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Identity: an exported network computes in floating point, which does not wrap around."""
    return writer.node("Identity", operands)


OPERATOR = register(
    Operator(
        name="InRange",
        summary="A whole number within the range of an integer type; follows sums and products of integers",
        attributes={"type": {"enum": list(RANGES)}},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(),
        writes=write,
        layers=(),
    )
)
