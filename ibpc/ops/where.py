"""Where: x where the condition holds, y elsewhere, with broadcasting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import format_shape
from ibpc.ops._elementwise import broadcast_shape
from ibpc.ops._logic import Verdict, truth
from ibpc.ops._steps import box_of
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import BOOL, number
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Operand, Plane, Planes


def nominal(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z = x where condition ≠ 0, else y."""
    return torch.where(condition != 0, x, y)


def interval(call: Call, condition: Operand, x: Operand, y: Operand) -> Interval:
    """Return the box of x where the condition is proved, of y where it is refuted, else the hull of both; exact.

    An exact condition only selects elements, so center/radius boxes stay in that form.
    """
    certain, possible = _decided(call, condition)
    boxes = [operand for operand in (x, y) if isinstance(operand, Interval)]
    if not isinstance(condition, Interval) and all(box.is_centered for box in boxes):
        first, second = _centered(x), _centered(y)
        return Interval.around(
            torch.where(certain, first.center, second.center), torch.where(certain, first.radius, second.radius)
        )
    first, second = box_of(x), box_of(y)
    return Interval.bounds(
        _chosen(certain, possible, first.lower, second.lower, torch.minimum(first.lower, second.lower)),
        _chosen(certain, possible, first.upper, second.upper, torch.maximum(first.upper, second.upper)),
    )


def _centered(x: Operand) -> Interval:
    return x if isinstance(x, Interval) else Interval.point(x)


def _decided(call: Call, condition: Operand) -> Verdict:
    """Return where the condition certainly holds, and where it may hold."""
    if isinstance(condition, Interval):
        return truth(call, condition)
    return condition != 0, condition != 0


def _chosen(certain: Tensor, possible: Tensor, x: Tensor, y: Tensor, open: Tensor) -> Tensor:
    return torch.where(certain, x, torch.where(possible, open, y))


def relaxation(call: Call, condition: Operand, x: Operand, y: Operand) -> Planes:
    """Return the plane x or y where the condition is decided, elsewhere the bounds of the hull as constants."""
    certain, possible = _decided(call, condition)
    box = interval(call, condition, x, y)
    zero = torch.zeros_like(box.lower)
    ones = zero + 1.0
    slopes = (zero, torch.where(certain, ones, zero), torch.where(possible, zero, ones))
    undecided = possible & ~certain
    return Planes(
        Plane(slopes, torch.where(undecided, box.lower, zero)),
        Plane(slopes, torch.where(undecided, box.upper, zero)),
    )


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Where."""
    return builder.add("Where", [number(node, slot, builder) for slot in range(3)])


def read_triangle(node: OnnxNode, builder: Builder) -> Value:
    """Import Trilu: the upper or the lower triangle of each matrix, 0 elsewhere."""
    x, diagonal = node.operand(0), 0 if node.optional(1) is None else int(node.known(1).item())
    if len(x.shape) < 3:
        raise GraphError.at(f"node {node.name}", f"an operand of shape {format_shape(x.shape)}", "matrices")
    ones = torch.ones(x.shape[-2:])
    kept = ones.triu(diagonal) if node.attributes.get("upper", 1) else ones.tril(diagonal)
    return builder.add("Where", [builder.constant(kept), x, builder.constant(torch.zeros(()))])


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Where on a boolean condition."""
    condition, x, y = operands
    return writer.node("Where", [writer.node("Cast", [condition], to=BOOL), x, y])


OPERATOR = register(
    Operator(
        name="Where",
        summary="x where the condition holds (≠ 0), y elsewhere",
        attributes={},
        operands=(3, 3),
        roles=(),
        shape=broadcast_shape("Where"),
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("Where", (9, 16), read), OnnxImport("Trilu", (14,), read_triangle)),
        writes=write,
        layers=(),
    )
)
