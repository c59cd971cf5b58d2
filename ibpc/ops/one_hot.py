"""OneHot: adds an axis in which the entry at each index is `on` and all others are `off`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import feature_axis
from ibpc.ops._steps import flushed, range_planes
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.element_types import NUMBERS
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the operand's shape with the depth inserted at the axis. Raises GraphError for the batch."""
    size = operands[0]
    axis = feature_axis(attributes["axis"], len(size) + 1, "axis")
    return (*size[:axis], attributes["depth"], *size[axis:])


def entries(call: Call, x: Tensor) -> Tensor:
    """Return the numbers 0 to depth − 1 along the new axis, broadcast to the shape of the output."""
    axis = call["axis"]
    ones = torch.ones_like(x.unsqueeze(axis)).expand([-1, *call.output[1:]])
    return ones.cumsum(axis) - 1.0


def nominal(call: Call, index: Tensor) -> Tensor:
    """y = `on` at the entry ⟦index⟧ (rounded toward zero; from the end if negative), `off` elsewhere."""
    entry = entries(call, index)
    whole = torch.trunc(index).unsqueeze(call["axis"])
    match = (whole == entry) | (whole == entry - float(call["depth"]))
    return torch.where(match, torch.full_like(entry, call["on"]), torch.full_like(entry, call["off"]))


def interval(call: Call, index: Interval) -> Interval:
    """`on` where the box has only this index, `off` where it lacks this index, else the hull of both values; exact.

    In binary32 the two values are rounded outward unless it represents them.
    """
    box, axis, depth = flushed(call, index), call["axis"], float(call["depth"])
    low, high = torch.trunc(box.lower).unsqueeze(axis), torch.trunc(box.upper).unsqueeze(axis)
    entry = entries(call, box.lower)
    single = (low == high) & ((low == entry) | (low == entry - depth))
    excluded = ((entry < low) | (entry > high)) & ((entry - depth < low) | (entry - depth > high))
    on, off = torch.full_like(entry, call["on"]), torch.full_like(entry, call["off"])
    least = torch.where(single, on, torch.where(excluded, off, torch.minimum(on, off)))
    most = torch.where(single, on, torch.where(excluded, off, torch.maximum(on, off)))
    exact = all(value == float(torch.tensor(value, dtype=torch.float32)) for value in (call["on"], call["off"]))
    return outward(call, least, most, ulps=0 if exact else 1)


def relaxation(call: Call, index: Interval) -> Planes:
    """Constants: the bounds."""

    def view(value: Tensor) -> Tensor:
        return value.unsqueeze(call["axis"]).unsqueeze(-1)

    return range_planes(interval(call, index), 1, (view,))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import OneHot; depth and both values must be constant. Indices are rounded toward zero as by Cast."""
    index = node.operand(0)
    axis = feature_axis(int(node.attributes.get("axis", -1)), len(index.shape) + 1, f"node {node.name}")
    depth, values = node.known(1).flatten().tolist(), node.known(2).flatten().tolist()
    if len(depth) != 1 or len(values) != 2 or depth[0] < 1:
        raise GraphError.at(f"node {node.name}", f"depth {depth}, values {values}", "a positive depth and two values")
    attributes = {"axis": axis, "depth": int(depth[0]), "off": float(values[0]), "on": float(values[1])}
    return builder.add("OneHot", [index], attributes)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export OneHot of whole indices."""
    whole = writer.node("Cast", operands, to=NUMBERS["int64"])
    depth = writer.constant(torch.tensor(call["depth"]))
    values = writer.constant(torch.tensor([call["off"], call["on"]], dtype=torch.float32))
    return writer.node("OneHot", [whole, depth, values], axis=call["axis"])


OPERATOR = register(
    Operator(
        name="OneHot",
        summary="Indices as vectors that are on at the index and off elsewhere",
        attributes={
            "axis": {"type": "integer"},
            "depth": {"type": "integer", "minimum": 1},
            "on": {"type": "number", "default": 1.0},
            "off": {"type": "number", "default": 0.0},
        },
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("OneHot", (9, 11, 28), read),),
        writes=write,
        layers=(),
    )
)
