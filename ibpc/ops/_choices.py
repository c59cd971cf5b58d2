"""Max and Min of any number of operands: their rules, import and export."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._elementwise import broadcast_shape, export_as, option_free_layer
from ibpc.ops._planes import chord, midpoint
from ibpc.ops._steps import box_of
from ibpc.ops.base import Operator
from ibpc.ops.combinators import monotone, no_macs
from ibpc.ops.element_types import number
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import NominalRule, Operand, Plane, Planes, RelaxationRule

VERSIONS = (6, 8, 12, 13)


def choice(name: str, summary: str, nominal: NominalRule, relaxation: RelaxationRule) -> Operator:
    """Return the operator of Max or Min, which copy one of their operands: [f(l…), f(u…)], exact in any arithmetic."""

    def read(node: OnnxNode, builder: Builder) -> Value:
        return builder.add(name, [number(node, slot, builder) for slot in range(len(node.inputs))])

    return Operator(
        name=name,
        summary=summary,
        attributes={},
        operands=(1, None),
        roles=(),
        shape=broadcast_shape(name),
        macs=no_macs,
        rules=monotone(nominal, relaxation, ulps=0),
        reads=(OnnxImport(name, VERSIONS, read),),
        writes=export_as(name),
        layers=(option_free_layer(name),),
    )


def greatest_planes(operands: Sequence[Operand]) -> Planes:
    """Return planes of the maximum of some operands, over boxes that broadcast to one shape.

    Below: the operand whose box has the greatest midpoint, because the maximum is at least that. Above, with c the
    greatest lower bound: x_k ≤ c + max(x_k − c, 0) ≤ c + s_k (x_k − l_k), s_k = max(u_k − c, 0) / (u_k − l_k) the
    chord's slope. No term is negative, so c + Σ s_k (x_k − l_k) is at least each x_k; it equals x_k if that is the
    maximum throughout the box. If the greatest upper bound lies below this plane at the midpoint, it is used instead.
    """
    boxes = [box_of(x) for x in operands]
    zero = reduce(torch.add, [torch.zeros_like(box.lower) for box in boxes])
    lowers, uppers = [box.lower + zero for box in boxes], [box.upper + zero for box in boxes]
    middles = [midpoint(lower, upper) for lower, upper in zip(lowers, uppers, strict=True)]
    floor, ceiling, best = (reduce(torch.maximum, values) for values in (lowers, uppers, middles))
    slopes = [
        chord(lower, upper, zero, torch.relu(upper - floor), 0.0) for lower, upper in zip(lowers, uppers, strict=True)
    ]
    offset = floor - sum(slope * lower for slope, lower in zip(slopes, lowers, strict=True))
    height = offset + sum(slope * middle for slope, middle in zip(slopes, middles, strict=True))
    flat = height > ceiling
    upper = Plane(tuple(torch.where(flat, zero, slope) for slope in slopes), torch.where(flat, ceiling, offset))
    return Planes(Plane(_first(middles, best), zero), upper)


def _first(values: Sequence[Tensor], best: Tensor) -> tuple[Tensor, ...]:
    """Return slopes of 1 for the first value that equals the best, of 0 for all others."""
    free = torch.ones_like(best, dtype=torch.bool)
    chosen = []
    for value in values:
        hit = free & (value == best)
        free = free & ~hit
        chosen.append(hit.type_as(best))
    return tuple(chosen)


def mirrored(planes: Planes) -> Planes:
    """Return the planes of −f(−x), given those of f."""
    return Planes(
        Plane(planes.upper.slopes, -planes.upper.offset),
        Plane(planes.lower.slopes, -planes.lower.offset),
    )


def negated(x: Operand) -> Operand:
    """Return −x."""
    return Interval.bounds(-x.upper, -x.lower) if isinstance(x, Interval) else -x
