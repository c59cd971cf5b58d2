"""What normalizations x · s(x) · weight + bias share: parameters, their import and options, and planes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Shape, format_shape
from ibpc.ops._planes import chord
from ibpc.ops._shapes import feature_axis
from ibpc.ops.base import Fill, LayerPlan, Role
from ibpc.ops.onnx import Builder, OnnxNode, Value

Line: TypeAlias = tuple[Tensor, Tensor]
Lines: TypeAlias = tuple[Line, Line]

ROLES: Final = (Role("weight", Fill.ONES, optional=True), Role("bias", Fill.ZEROS, optional=True))

_SIZE: Final = {"type": "integer", "minimum": 1}


def flag_option(description: str, default: bool = True) -> dict[str, Any]:
    """Return the schema of a layer option that is true or false."""
    return {"description": description, "type": "boolean", "default": default}


def epsilon_option(default: float | None = 1e-5) -> dict[str, Any]:
    """Return the schema of the layer option `eps`; None stands for the machine epsilon of float32, 2⁻²³."""
    schema: dict[str, Any] = {"description": "Added under the root", "type": "number", "exclusiveMinimum": 0}
    if default is not None:
        return {**schema, "default": default}
    number = {key: value for key, value in schema.items() if key != "description"}
    words = "Added under the root (null: 2⁻²³, the precision of float32)"
    return {"description": words, "anyOf": [number, {"type": "null"}], "default": None}


NORMALIZED_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "normalized_shape": {
        "description": "Sizes of the last dimensions, which are normalized together: one number or a list",
        "anyOf": [_SIZE, {"type": "array", "items": _SIZE, "minItems": 1}],
    },
    "eps": epsilon_option(),
    "elementwise_affine": flag_option("Multiply by a weight"),
}


def plan_normalized(where: str, epsilon: float, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a layer that normalizes the last dimensions of its operand, with a weight if elementwise_affine."""
    (x,), given = operands, options["normalized_shape"]
    sizes = (given,) if isinstance(given, int) else tuple(given)
    if len(sizes) >= len(x) or x[len(x) - len(sizes) :] != sizes:
        raise GraphError.at(where, f"normalized_shape {list(sizes)} of {format_shape(x)}", "its last dimensions")
    eps = epsilon if options["eps"] is None else options["eps"]
    parameters = {"weight": sizes} if options["elementwise_affine"] else {}
    return LayerPlan({"axis": -len(sizes), "epsilon": eps}, parameters)


def expect_parameters(parameters: Mapping[str, Shape], wanted: Shape, where: str) -> None:
    """Raise GraphError unless all parameters have the shape `wanted`."""
    for role, found in parameters.items():
        if found != wanted:
            raise GraphError.at(where, f"{role} of shape {found}", f"{wanted}")


def import_scaled(operator: str, node: OnnxNode, builder: Builder, stash_types: Sequence[int]) -> Value:
    """Import a normalization of the dimensions from `axis` on, with its scale (input 1) and optional bias (input 2).

    Constants that broadcast to the normalized dimensions become parameters; others become a Mul and an Add after it.
    """
    if node.attributes.get("stash_type", 1) not in stash_types:
        found = f"stash_type {node.attributes['stash_type']}"
        raise GraphError.at(f"node {node.name}", found, "FLOAT (1), a statistic of 16 bits is off by more")
    x = node.operand(0)
    axis = feature_axis(int(node.attributes.get("axis", -1)), len(x.shape), f"node {node.name}")
    attributes = {"axis": axis, "epsilon": float(node.attributes.get("epsilon", 1e-5))}
    held = {role: _fitting(node.optional(slot), x.shape[axis:]) for slot, role in ((1, "weight"), (2, "bias"))}
    parameters = {role: value for role, value in held.items() if value is not None}
    scale, bias = node.optional(1), node.optional(2)
    if scale is not None and "weight" not in parameters:
        parameters.pop("bias", None)
    result = builder.add(operator, [x], attributes, parameters)
    if scale is not None and "weight" not in parameters:
        result = builder.add("Mul", [result, _aligned(scale, len(x.shape), builder)])
    if bias is None or "bias" in parameters:
        return result
    return builder.add("Add", [result, _aligned(bias, len(x.shape), builder)])


def _aligned(value: Value, rank: int, builder: Builder) -> Value:
    """Return a non-constant value with `rank` dimensions, missing ones inserted after the batch."""
    if value.constant is not None or len(value.shape) >= rank:
        return value
    return builder.add("Reshape", [value], {"shape": [*[1] * (rank - len(value.shape)), *value.shape[1:]]})


def _fitting(value: Value | None, sizes: Shape) -> Tensor | None:
    """Return a constant that broadcasts to these sizes, expanded to them; None for any other value."""
    if value is None or value.constant is None:
        return None
    constant = value.constant
    while constant.dim() > len(sizes) and constant.shape[0] == 1:
        constant = constant[0]
    padded = (1,) * (len(sizes) - constant.dim()) + tuple(constant.shape)
    fits = len(padded) == len(sizes) and all(found in (1, size) for found, size in zip(padded, sizes, strict=True))
    return constant.expand(sizes).contiguous() if fits else None


# ── bounds and planes ───────────────────────────────────────────────────────────────────────────────────────────
def scaled(box: Interval, weight: Tensor | None, bias: Tensor | None) -> Interval:
    """Return weight · box + bias."""
    lower, upper = box.lower, box.upper
    if weight is not None:
        first, second = lower * weight, upper * weight
        lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    return Interval.bounds(lower, upper) if bias is None else Interval.bounds(lower + bias, upper + bias)


def factor_lines(d: Interval, factor: Interval, middle: Tensor, bounds: Interval) -> Lines:
    """Return slopes in d and offsets of a lower and an upper line of d s, with s in the box `factor` ≥ 0.

    With [a, b] the bounds of s, d s lies between min(d a, d b), which is concave in d and so above its chord, and
    max(d a, d b), which is convex and so below its chord. Where the `bounds` of d s are tighter at `middle`, the value
    of d at the center of the box, or b is not finite, the line is that constant.
    """
    low, high, slow, fast = d.lower, d.upper, factor.lower, factor.upper

    def line(extreme: Callable[[Tensor, Tensor], Tensor], other: Callable[[Tensor, Tensor], Tensor]) -> Line:
        bound = bounds.lower if extreme is torch.minimum else bounds.upper
        at_low, at_high = extreme(low * slow, low * fast), extreme(high * slow, high * fast)
        slope = chord(low, high, at_low, at_high, slow.expand_as(low))
        offset = extreme(at_low - slope * low, at_high - slope * high)
        better = (other(slope * middle + offset, bound) != bound) & offset.isfinite()
        return torch.where(better, slope, torch.zeros_like(slope)), torch.where(better, offset, bound)

    return line(torch.minimum, torch.maximum), line(torch.maximum, torch.minimum)


def weighted_lines(lines: Lines, weight: Tensor | None, bias: Tensor | None) -> Lines:
    """Return the lines of weight · y + bias, given those of y."""
    (low_slope, low_offset), (high_slope, high_offset) = lines
    if weight is not None:
        flipped = weight < 0
        low_slope, high_slope = (
            weight * torch.where(flipped, high_slope, low_slope),
            weight * torch.where(flipped, low_slope, high_slope),
        )
        low_offset, high_offset = (
            weight * torch.where(flipped, high_offset, low_offset),
            weight * torch.where(flipped, low_offset, high_offset),
        )
    if bias is not None:
        low_offset, high_offset = low_offset + bias, high_offset + bias
    return (low_slope, low_offset), (high_slope, high_offset)
