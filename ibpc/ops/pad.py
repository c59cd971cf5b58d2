"""Pad: pads a sample with a constant, a reflection or copies of its edge, or crops it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._shapes import onnx_integers, positive_axis
from ibpc.ops._windows import torch_pads
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Kernel

_MODES: Final = ("constant", "reflect", "edge")


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x plus the pads. Raises GraphError for a padded batch and pads that the mode cannot fill."""
    (x,), pads, mode = operands, attributes["pads"], attributes["mode"]
    rank = len(x)
    found = f"pads {pads} in mode {mode} of {format_shape(x)}"
    if len(pads) != 2 * rank or pads[0] or pads[rank]:
        raise GraphError.at("Pad", found, "two pads per dimension, those of the batch 0")
    if not isfinite(attributes["value"]):
        raise GraphError.at(
            "Pad", f"value {attributes['value']}", "a finite number", "a MaxPool pads with −∞ by itself"
        )
    cropped = [x[axis] + min(pads[axis], 0) + min(pads[axis + rank], 0) for axis in range(1, rank)]
    if min(cropped, default=1) < 1:
        raise GraphError.at("Pad", found, "at least one element left in each dimension")
    added = [(max(pads[axis], 0), max(pads[axis + rank], 0)) for axis in range(1, rank)]
    if mode == "reflect" and any(max(sides) >= size for sides, size in zip(added, cropped, strict=True)):
        raise GraphError.at("Pad", found, "a reflection shorter than its dimension")
    return (x[0], *(size + sum(sides) for size, sides in zip(cropped, added, strict=True)))


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x surrounded by `value`, its reflection or its edge; negative pads crop."""
    return extended(call, x, call["value"])


def absolute(call: Call, radius: Tensor) -> Tensor:
    """Return the radius padded likewise, with 0 around it in mode constant."""
    return extended(call, radius, 0.0)


def extended(call: Call, x: Tensor, value: float) -> Tensor:
    """Return x cropped by the negative pads, then padded in the call's mode (constant: with `value`)."""
    pads, rank = call["pads"], len(call.output)
    if call["mode"] == "constant":
        return F.pad(x, torch_pads(pads), value=value)
    if min(pads) < 0:
        x = F.pad(x, torch_pads([min(pad, 0) for pad in pads]))
    side = reflection if call["mode"] == "reflect" else edge
    for axis in range(1, rank):
        before, after = max(pads[axis], 0), max(pads[axis + rank], 0)
        size = call.output[axis] - before - after
        left = [side(x, axis, 0, 1, before)] if before else []
        right = [side(x, axis, size - 1, size - 1 - after, after)] if after else []
        x = torch.cat([*left, x, *right], axis) if left or right else x
    return x


def local(call: Call) -> Kernel | None:
    """Return one-pixel windows for an image padded with zeros or cropped, else None."""
    pads, rank = call["pads"], len(call.output)
    if rank != 4 or call["mode"] != "constant" or call["value"] != 0 or pads[1] or pads[1 + rank]:
        return None
    channels = call.output[1]
    return Kernel(
        torch.ones(channels, 1, 1, 1, dtype=torch.float64), None, (1, 1), (pads[2], pads[3]), (1, 1), channels
    )


def edge(x: Tensor, axis: int, border: int, inner: int, count: int) -> Tensor:
    """Return `count` copies of the slice at `border`."""
    return x.narrow(axis, border, 1).repeat_interleave(count, axis)


def reflection(x: Tensor, axis: int, border: int, inner: int, count: int) -> Tensor:
    """Return the `count` slices from `inner` on in reverse order."""
    return x.narrow(axis, inner, count).flip(axis)


def plan_pad(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Pad layer."""
    pads, features = options["pads"], len(operands[0]) - 1
    if len(pads) != 2 * features:
        raise GraphError.at("Pad", f"{len(pads)} pads for {format_shape(operands[0])}", f"{2 * features}")
    return LayerPlan(
        {"pads": [0, *pads[:features], 0, *pads[features:]], "mode": options["mode"], "value": options["value"]}
    )


def plan_zero_pad(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a ZeroPad2d layer."""
    (x,), padding = operands, options["padding"]
    if len(x) != 4:
        raise GraphError.at("ZeroPad2d", f"an input of shape {format_shape(x)}", "rank 4")
    left, right, top, bottom = [padding] * 4 if isinstance(padding, int) else padding
    return LayerPlan({"pads": [0, 0, top, left, 0, 0, bottom, right]})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Pad; early versions have pads and value as attributes, later ones pads, value and axes as inputs."""
    x, where = node.operand(0), f"node {node.name}"
    rank = len(x.shape)
    given, axes = onnx_integers(node, "pads", 1) or [], onnx_integers(node, "axes", 3)
    pads = spread_over(given, range(rank) if axes is None else axes, rank, where)
    mode = str(node.attributes.get("mode", "constant"))
    value = float(node.attributes.get("value", 0.0)) if node.optional(2) is None else float(node.known(2).item())
    if pads[0] or pads[rank]:
        raise GraphError.at(where, f"Pad with pads {given} adds samples to the batch", "0 for the batch")
    if mode not in _MODES:
        raise GraphError.at(where, f"Pad in mode {mode}", f"one of {', '.join(_MODES)}")
    return builder.add("Pad", [x], {"pads": pads, "mode": mode, "value": value})


def spread_over(given: Sequence[int], axes: Sequence[int], rank: int, where: str) -> list[int]:
    """Return the pads of all dimensions, given those of some axes. Raises GraphError if they do not match."""
    if len(given) != 2 * len(axes):
        raise GraphError.at(where, f"{len(given)} pads for {len(axes)} axes", "two pads per axis")
    pads = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        positive = positive_axis(axis, rank, where)
        pads[positive], pads[positive + rank] = given[place], given[place + len(axes)]
    return pads


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Pad."""
    pads = writer.constant(torch.tensor(call["pads"]))
    if call["mode"] != "constant" or call["value"] == 0:
        return writer.node("Pad", [*operands, pads], mode=call["mode"])
    return writer.node("Pad", [*operands, pads, writer.constant(torch.tensor(float(call["value"])))], mode=call["mode"])


OPERATOR = register(
    Operator(
        name="Pad",
        summary="Elements added around a sample (constant, reflection, edge) or cropped from it",
        attributes={
            "pads": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "mode": {"enum": list(_MODES), "default": "constant"},
            "value": {"type": "number", "default": 0.0},
        },
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=replace(passthrough(nominal, absolute), local=local),
        reads=(OnnxImport("Pad", (2, 11, 13, 18, 19, 21, 23, 24, 25), read),),
        writes=write,
        layers=(
            Layer(
                "Pad",
                {
                    "pads": {
                        "description": "Elements before each feature dimension, then after each; negative: crop",
                        "type": "array",
                        "items": {"type": "integer"},
                    },
                    "mode": {"description": "What is added", "enum": list(_MODES), "default": "constant"},
                    "value": {"description": "The constant of mode constant", "type": "number", "default": 0.0},
                },
                plan_pad,
                ("pads",),
            ),
            Layer(
                "ZeroPad2d",
                {
                    "padding": {
                        "description": "Zeros on all sides, or left, right, top, bottom; negative: crop",
                        "anyOf": [
                            {"type": "integer"},
                            {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
                        ],
                    }
                },
                plan_zero_pad,
                ("padding",),
            ),
        ),
    )
)
