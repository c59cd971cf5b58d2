"""Reductions: what ReduceSum, ReduceMax and their kin share.

The axes are feature axes counted from the front; the batch is never reduced. Rules that need the reduced elements side
by side use `gathered`, which has them in its last dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import feature_axes, onnx_integers
from ibpc.ops.base import Operator
from ibpc.ops.combinators import affine, no_macs, no_magnitude, nonnegative_weights, outward
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Plane, Planes, Rules
from ibpc.rounding import Arithmetic, vanishing

ATTRIBUTES: Final[Mapping[str, Any]] = {
    "axes": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
    "keepdims": {"type": "boolean", "default": True},
}


def reduction(name: str, summary: str, versions: tuple[int, ...], rules: Rules) -> Operator:
    """Return the record of an ONNX reduction with the attributes `axes` and `keepdims`."""

    def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
        """Return the operand's shape with size 1 at the axes, or without the axes. Raises GraphError for the batch."""
        (x,) = operands
        axes = feature_axes(attributes["axes"], len(x), name)
        if any(x[axis] == 0 for axis in axes):
            raise GraphError.at(name, f"no element along the axes {axes} of {x}", "at least one")
        if attributes["keepdims"]:
            return tuple(1 if axis in axes else size for axis, size in enumerate(x))
        return tuple(size for axis, size in enumerate(x) if axis not in axes)

    def read(node: OnnxNode, builder: Builder) -> Value:
        return _read(name, node, builder)

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        axes = writer.constant(torch.tensor(call["axes"], dtype=torch.int64))
        return writer.node(name, [*operands, axes], keepdims=int(call["keepdims"]))

    return Operator(
        name=name,
        summary=summary,
        attributes=ATTRIBUTES,
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=rules,
        reads=(OnnxImport(name, versions, read),),
        writes=write,
        layers=(),
    )


def _read(name: str, node: OnnxNode, builder: Builder) -> Value:
    """Import a reduction: axes from an attribute or input; without axes all, or none with noop_with_empty_axes."""
    x, axes = node.operand(0), onnx_integers(node, "axes", 1)
    rank = len(x.shape)
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        single = builder.add("Reshape", [x], {"shape": [*x.shape[1:], 1]})
        return builder.add(name, [single], {"axes": [rank], "keepdims": False})
    chosen = feature_axes(axes or range(rank), rank, f"node {node.name}")
    return builder.add(name, [x], {"axes": chosen, "keepdims": bool(node.attributes.get("keepdims", 1))})


def count(call: Call) -> int:
    """Return the number of elements that are reduced to one."""
    return prod(call.operands[0][axis] for axis in call["axes"])


def gathered(call: Call, x: Tensor) -> Tensor:
    """Return x (N, …) as (*output, n): the n elements that are reduced to each output side by side."""
    axes = list(call["axes"])
    moved = x.movedim(axes, list(range(-len(axes), 0)))
    return moved.reshape([-1, *call.output[1:], count(call)])


def summed(call: Call, terms: Interval, size: int, ulps: int = 0) -> Interval:
    """Return the sum along the last dimension of `size` nonnegative independent terms, each off by `ulps` roundings.

    In binary32 a sum of nonnegative terms in any order has a relative error of γₙ, and each term may be flushed to 0.
    An overflow makes the upper bound infinite, and the lower bound NaN, which claims nothing.
    """
    lower, upper = terms.lower.sum(-1), terms.upper.sum(-1)
    if call.arithmetic is Arithmetic.REAL:
        return Interval.bounds(lower, upper)
    box = outward(call, lower, upper, 2 * (size + ulps) + 16, vanishing(size))
    return Interval.bounds(torch.relu(box.lower), box.upper)


def greatest_planes(lower: Tensor, upper: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return slopes and offset of a lower and an upper plane of the maximum along the last dimension of a box.

    Below: x_m, with m the element with the greatest lower bound. Above: x_m if l_m ≥ all other u, else the constant
    max u. (As for pooling in Zhang et al. 2018, CROWN, arXiv 1811.00866.) Assumes finite bounds.
    """
    chosen = torch.zeros_like(lower).scatter(-1, lower.argmax(-1, keepdim=True), 1.0)
    rivals = upper.masked_fill(chosen > 0, -torch.inf).amax(-1)
    dominant = lower.amax(-1) >= rivals
    highest = upper.amax(-1)
    nothing = torch.zeros_like(highest)
    above = torch.where(dominant, nothing, highest)
    return (chosen, nothing), (chosen * dominant.unsqueeze(-1), above)


def maximum_planes(call: Call, x: Interval) -> Planes:
    """Return the planes of the maximum over the axes; see `greatest_planes`."""
    box = x.map(partial(gathered, call))
    (slope, offset), (above_slope, above_offset) = greatest_planes(box.lower, box.upper)
    views = (lambda value: gathered(call, value),)
    return Planes(Plane((slope,), offset, views), Plane((above_slope,), above_offset, views))


def total(call: Call, x: Tensor) -> Tensor:
    """Return Σ x over the axes."""
    return x.sum(list(call["axes"]), keepdim=bool(call["keepdims"]))


SUM: Final = affine(total, nonnegative_weights(total), count, no_magnitude)
