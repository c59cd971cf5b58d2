"""Slice: every step-th element from a start to an end along some feature dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._shapes import dimension_option, feature_axes, feature_axis, onnx_integers, positive_axis
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call

_INTEGERS: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "integer"}}
_TO_THE_END: Final = 2**31 - 1


def positions(start: int, end: int, step: int, size: int) -> range:
    """Return the positions that a slice picks from a dimension, with ONNX's clamping of `start` and `end`."""
    start, end = start + size * (start < 0), end + size * (end < 0)
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def picked(attributes: Attributes, x: Shape) -> dict[int, range]:
    """Return the picked positions by axis. Raises GraphError if there are none along an axis."""
    spans = {}
    lists = (attributes[key] for key in ("starts", "ends", "axes", "steps"))
    for start, end, axis, step in zip(*lists, strict=True):
        span = positions(start, end, step, x[axis])
        if not span:
            raise GraphError.at(
                "Slice", f"{start}:{end}:{step} of dimension {axis} of {format_shape(x)}", "at least one element"
            )
        spans[axis] = span
    return spans


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x with the number of picked positions in each sliced dimension."""
    (x,) = operands
    lengths = {len(attributes[key]) for key in ("starts", "ends", "axes", "steps")}
    if len(lengths) > 1 or 0 in attributes["steps"]:
        raise GraphError.at("Slice", f"attributes {dict(attributes)}", "lists of one length, no step of 0")
    if feature_axes(attributes["axes"], len(x), "Slice") != sorted(attributes["axes"]):
        raise GraphError.at("Slice", f"axes {attributes['axes']}", "axes counted from the front")
    spans = picked(attributes, x)
    return tuple(len(spans[axis]) if axis in spans else size for axis, size in enumerate(x))


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x[…, start:end:step, …]; a negative step reads the flipped dimension."""
    sizes, spans = call.operands[0], picked(call.attributes, call.operands[0])
    backward = [axis for axis, span in spans.items() if span.step < 0]
    if backward:
        x = x.flip(backward)
    window = [slice(None)] * len(sizes)
    for axis, span in spans.items():
        first, last = (sizes[axis] - 1 - span[0], sizes[axis] - 1 - span[-1]) if span.step < 0 else (span[0], span[-1])
        window[axis] = slice(first, last + 1, abs(span.step))
    return x[tuple(window)]


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Slice layer."""
    axis = feature_axis(options["dim"], len(operands[0]), "Slice")
    end = operands[0][axis] if options["end"] is None else options["end"]
    return LayerPlan({"starts": [options["start"]], "ends": [end], "axes": [axis], "steps": [options["step"]]})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Slice. The batch must be kept whole: from 0 to the end, or to 1 where the file fixes it."""
    x, where = node.operand(0), f"node {node.name}"
    starts, ends = onnx_integers(node, "starts", 1) or [], onnx_integers(node, "ends", 2) or []
    axes = onnx_integers(node, "axes", 3) or range(len(starts))
    steps = onnx_integers(node, "steps", 4) or [1] * len(starts)
    kept = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        positive = positive_axis(axis, len(x.shape), where)
        if positive > 0:
            kept.append((start, end, positive, step))
        elif start != 0 or step != 1 or not (end == 1 or end >= _TO_THE_END):
            raise GraphError.at(
                where,
                f"Slice {start}:{end}:{step} of the batch",
                "a slice of the batch that keeps all samples",
                "samples must not depend on each other",
            )
    if not kept:
        return x
    columns = [list(column) for column in zip(*kept, strict=True)]
    return builder.add("Slice", [x], dict(zip(("starts", "ends", "axes", "steps"), columns, strict=True)))


def read_split(node: OnnxNode, builder: Builder) -> tuple[Value, ...]:
    """Import Split as one Slice per part.

    Sizes are an attribute or an input, by version; without them all parts are equal but for a smaller last one.
    """
    x, where = node.operand(0), f"node {node.name}"
    axis = feature_axis(int(node.attributes.get("axis", 0)), len(x.shape), where)
    size, count = x.shape[axis], int(node.attributes.get("num_outputs", node.outputs))
    part = -(-size // count)
    equal = [min(part, size - part * index) for index in range(count)]
    sizes = onnx_integers(node, "split", 1) or equal
    if len(sizes) != node.outputs or sum(sizes) != size or min(sizes) < 1:
        raise GraphError.at(
            where, f"parts of sizes {sizes} of {size} elements", f"{node.outputs} parts that are not empty"
        )
    ends = list(accumulate(sizes))
    return tuple(
        builder.add("Slice", [x], {"starts": [end - length], "ends": [end], "axes": [axis], "steps": [1]})
        for end, length in zip(ends, sizes, strict=True)
    )


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Slice."""
    lists = (writer.constant(torch.tensor(call[key])) for key in ("starts", "ends", "axes", "steps"))
    return writer.node("Slice", [*operands, *lists])


OPERATOR = register(
    Operator(
        name="Slice",
        summary="Every step-th element from a start to an end, in some feature dimensions",
        attributes={"starts": _INTEGERS, "ends": _INTEGERS, "axes": _INTEGERS, "steps": _INTEGERS},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(OnnxImport("Slice", (1, 10, 11, 13), read), OnnxImport("Split", (2, 11, 13, 18), read_split)),
        writes=write,
        layers=(
            Layer(
                "Slice",
                {
                    "start": {"description": "First element; negative: from the end", "type": "integer", "default": 0},
                    "end": {
                        "description": "First element left out (null: none); negative: from the end",
                        "type": ["integer", "null"],
                        "default": None,
                    },
                    "dim": dimension_option("The dimension", default=1),
                    "step": {"description": "Distance of elements", "type": "integer", "minimum": 1, "default": 1},
                },
                plan,
            ),
        ),
    )
)
