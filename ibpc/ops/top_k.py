"""TopK: the k greatest or least elements along one axis, in order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import feature_axis
from ibpc.ops._steps import range_planes
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the operand's shape with k elements along the axis. Raises GraphError for the batch and too large a k."""
    size = operands[0]
    axis = feature_axis(attributes["axis"], len(size), "axis")
    if attributes["k"] > size[axis]:
        raise GraphError.at("k", f"{attributes['k']} of {size[axis]} elements", "at most all of them")
    return (*size[:axis], attributes["k"], *size[axis + 1 :])


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = the k greatest elements, the greatest first, or the k least, the least first."""
    return torch.topk(x, call["k"], call["axis"], call["largest"])[0]


def interval(call: Call, x: Interval) -> Interval:
    """[f(l), f(u)], exact: the k-th greatest element does not fall when an element rises.

    NaN bounds become infinite ones, because topk sorts NaN to a fixed place.
    """
    lower = torch.nan_to_num(x.lower, -torch.inf, torch.inf, -torch.inf)
    upper = torch.nan_to_num(x.upper, torch.inf, torch.inf, -torch.inf)
    return Interval.bounds(nominal(call, lower), nominal(call, upper))


def relaxation(call: Call, x: Interval) -> Planes:
    """Constants: the bounds."""

    def view(value: Tensor) -> Tensor:
        return value.movedim(call["axis"], -1).unsqueeze(call["axis"])

    return range_planes(interval(call, x), 1, (view,))


def read(node: OnnxNode, builder: Builder) -> Value | tuple[Value, ...]:
    """Import TopK. For k = 1 its indices become ArgMax or ArgMin; for a greater k they are refused."""
    x, where = node.operand(0), f"node {node.name}"
    axis = feature_axis(int(node.attributes.get("axis", -1)), len(x.shape), where)
    k = int(node.attributes["k"]) if node.version < 10 else int(node.known(1))
    largest = bool(node.attributes.get("largest", 1))
    if k > 1 and not node.attributes.get("sorted", 1):
        raise GraphError.at(where, "elements in no particular order", "sorted = 1")
    values = builder.add("TopK", [x], {"axis": axis, "k": k, "largest": largest})
    if node.outputs == 1:
        return values
    if 1 in node.unread:
        return values, values
    if k > 1:
        raise GraphError.at(where, f"the indices of the first {k} elements are used", "only their values, or k = 1")
    return values, builder.add("ArgMax" if largest else "ArgMin", [x], {"axis": axis, "keepdims": True})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export TopK."""
    count = writer.constant(torch.tensor([call["k"]]))
    return writer.node("TopK", [*operands, count], 2, axis=call["axis"], largest=int(call["largest"]))


OPERATOR = register(
    Operator(
        name="TopK",
        summary="The k greatest or least elements along one axis, in order",
        attributes={
            "axis": {"type": "integer"},
            "k": {"type": "integer", "minimum": 1},
            "largest": {"type": "boolean", "default": True},
        },
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport("TopK", (1, 10, 11, 24), read),),
        writes=write,
        layers=(),
    )
)
