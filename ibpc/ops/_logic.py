"""Booleans over boxes: 1 is true, 0 is false; [1, 1] is proved, [0, 0] refuted, [0, 1] undecided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import broadcast_shape
from ibpc.ops._steps import elementwise_range, flushed
from ibpc.ops.base import Operator
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import BOOL, FLOAT, number
from ibpc.ops.onnx import Builder, OnnxExport, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Operand

Verdict: TypeAlias = tuple[Tensor, Tensor]
Relation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Decision: TypeAlias = Callable[[Interval, Interval], Verdict]
Connection: TypeAlias = Callable[[Verdict, Verdict], Verdict]


def truth(call: Call, x: Operand) -> Verdict:
    """Return where x ≠ 0 throughout the box, and where x ≠ 0 somewhere. A NaN bound excludes nothing."""
    box = flushed(call, x)
    return (box.lower > 0) | (box.upper < 0), ~((box.lower == 0) & (box.upper == 0))


def verdict(certain: Tensor, possible: Tensor, *operands: Operand) -> Interval:
    """Return the box of a boolean that is `certain` or `possible`, in the floating-point type of the operands."""
    like = next((x for x in operands if isinstance(x, Interval)), None)
    assert like is not None
    return Interval.bounds(certain.type_as(like.lower), possible.type_as(like.lower))


def comparison(name: str, summary: str, relation: Relation, decision: Decision, versions: tuple[int, ...]) -> Operator:
    """Return the operator that is 1 where `relation`(x, y) holds and 0 elsewhere, with broadcasting.

    `decision` returns where the relation holds at all points of two boxes, and where at some. Bounds are rounded
    outward already, so it compares them exactly; NaN bounds must leave it undecided.
    """

    def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
        """y = 1 where the relation holds, else 0."""
        return relation(x, y).type_as(x)

    def interval(call: Call, x: Operand, y: Operand) -> Interval:
        """[1, 1], [0, 0], or [0, 1] where undecided; exact."""
        return verdict(*decision(flushed(call, x), flushed(call, y)), x, y)

    def read(node: OnnxNode, builder: Builder) -> Value:
        return builder.add(name, [number(node, 0, builder), number(node, 1, builder)])

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        return writer.node("Cast", [writer.node(name, operands)], to=FLOAT)

    return Operator(
        name=name,
        summary=summary,
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape(name),
        macs=no_macs,
        rules=nonlinear(nominal, interval, elementwise_range(interval)),
        reads=(OnnxImport(name, versions, read),),
        writes=write,
        layers=(),
    )


def connective(name: str, summary: str, relation: Relation, connection: Connection) -> Operator:
    """Return the operator that connects two booleans, where any x ≠ 0 counts as true, with broadcasting.

    `relation` works on boolean tensors, `connection` on pairs (certain, possible).
    """

    def nominal(call: Call, x: Tensor, y: Tensor) -> Tensor:
        """y = 1 where the connection is true, else 0."""
        return relation(x != 0, y != 0).type_as(x)

    def interval(call: Call, x: Operand, y: Operand) -> Interval:
        """[1, 1], [0, 0], or [0, 1] where undecided; exact."""
        return verdict(*connection(truth(call, x), truth(call, y)), x, y)

    def read(node: OnnxNode, builder: Builder) -> Value:
        return builder.add(name, [number(node, 0, builder), number(node, 1, builder)])

    return Operator(
        name=name,
        summary=summary,
        attributes={},
        operands=(2, 2),
        roles=(),
        shape=broadcast_shape(name),
        macs=no_macs,
        rules=nonlinear(nominal, interval, elementwise_range(interval)),
        reads=(OnnxImport(name, (7,), read),),
        writes=export_logical(name),
        layers=(),
    )


def export_logical(type: str) -> OnnxExport:
    """Return the export to an ONNX operator on booleans, with casts before and after it."""

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        booleans = [writer.node("Cast", [name], to=BOOL) for name in operands]
        return writer.node("Cast", [writer.node(type, booleans)], to=FLOAT)

    return write
