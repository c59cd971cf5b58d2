"""The index of the greatest or least element along one axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import feature_axis
from ibpc.ops._steps import flushed, range_planes
from ibpc.ops.base import Operator
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.element_types import FLOAT
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Planes


def extreme_index(name: str, summary: str, facing: Callable[[Interval], Interval]) -> Operator:
    """Return the operator "index of the greatest element of `facing`(x)"; for ArgMin, `facing` negates."""

    def nominal(call: Call, x: Tensor) -> Tensor:
        """y = the first (or last) index of the extreme along the axis."""
        return _chosen_index(call, facing(Interval.point(x)).lower).type_as(x)

    def interval(call: Call, x: Interval) -> Interval:
        """[least, greatest] index of an extreme at some point of the box; exact."""
        return _index_range(call, facing(flushed(call, x)))

    def relaxation(call: Call, x: Interval) -> Planes:
        """Constants: the bounds."""

        def view(value: Tensor) -> Tensor:
            return _kept(call, value.movedim(call["axis"], -1))

        return range_planes(interval(call, x), 1, (view,))

    def read(node: OnnxNode, builder: Builder) -> Value:
        return builder.add(name, [node.operand(0)], _attributes_of(node))

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        attributes = {key: int(call[key]) for key in ("axis", "keepdims", "select_last_index")}
        return writer.node("Cast", [writer.node(name, operands, **attributes)], to=FLOAT)

    return Operator(
        name=name,
        summary=summary,
        attributes={
            "axis": {"type": "integer"},
            "keepdims": {"type": "boolean", "default": True},
            "select_last_index": {"type": "boolean", "default": False},
        },
        operands=(1, 1),
        roles=(),
        shape=_shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(OnnxImport(name, (1, 11, 12, 13), read),),
        writes=write,
        layers=(),
    )


def _attributes_of(node: OnnxNode) -> dict[str, int | bool]:
    axis = feature_axis(int(node.attributes.get("axis", 0)), len(node.operand(0).shape), f"node {node.name}")
    return {
        "axis": axis,
        "keepdims": bool(node.attributes.get("keepdims", 1)),
        "select_last_index": bool(node.attributes.get("select_last_index", 0)),
    }


def _shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the operand's shape with size 1 along the axis, or without it. Raises GraphError for the batch."""
    size = operands[0]
    axis = feature_axis(attributes["axis"], len(size), "axis")
    if size[axis] == 0:
        raise GraphError.at("axis", f"no element along axis {axis}", "at least one")
    return (*size[:axis], *([1] if attributes["keepdims"] else []), *size[axis + 1 :])


def _chosen_index(call: Call, x: Tensor) -> Tensor:
    """Return the first (or last) index of the greatest element along the axis."""
    axis, keep = call["axis"], call["keepdims"]
    if not call["select_last_index"]:
        return torch.argmax(x, axis, keepdim=keep)
    last: int = call.operands[0][axis] - 1
    return last - torch.argmax(x.flip(axis), axis, keepdim=keep)


def _index_range(call: Call, x: Interval) -> Interval:
    """Return the least and the greatest index i that may be chosen.

    i may be chosen if u_i ≥ l_j for all j, strictly for the j that win a tie against i: it is chosen at x_i = u_i,
    x_j = l_j. One index always may: of those with the greatest l, the one that wins ties. A NaN bound excludes nothing.
    """
    axis = call["axis"]
    lower = torch.where(x.lower.isnan(), torch.full_like(x.lower, -torch.inf), x.lower)
    count = call.operands[0][axis]
    before = _greatest_before(lower, axis, count)
    after = _greatest_before(lower.flip(axis), axis, count).flip(axis)
    winning, losing = (after, before) if call["select_last_index"] else (before, after)
    excluded = (x.upper <= winning) | (x.upper < losing)
    index = torch.ones_like(lower).cumsum(axis) - 1.0
    least = torch.where(excluded, torch.full_like(index, float(count)), index).amin(axis)
    greatest = torch.where(excluded, torch.full_like(index, -1.0), index).amax(axis)
    return Interval.bounds(_kept(call, least), _kept(call, greatest))


def _greatest_before(x: Tensor, axis: int, count: int) -> Tensor:
    """Return for each of `count` elements the greatest of those before it, NaN for the first.

    By doubling: after each step an element holds the maximum of the last 1, 2, 4, … elements up to it. (ONNX has no
    equivalent of torch.cummax.)
    """
    running, reach = x, 1
    while reach < count:
        running = torch.maximum(running, _moved_on(running, axis, reach, count, -torch.inf))
        reach *= 2
    return _moved_on(running, axis, 1, count, torch.nan)


def _moved_on(x: Tensor, axis: int, step: int, count: int, fill: float) -> Tensor:
    """Return the elements shifted by `step` along the axis, with `fill` at the start."""
    start = torch.full_like(x.narrow(axis, 0, step), fill)
    return torch.cat([start, x.narrow(axis, 0, count - step)], axis)


def _kept(call: Call, value: Tensor) -> Tensor:
    """Return a value without the axis, with size 1 inserted there if keepdims; more dimensions may follow."""
    return value.unsqueeze(call["axis"]) if call["keepdims"] else value
