"""Resize: interpolation along one feature dimension; each result is a weighted sum of a few elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._interpolation import MODES, NEAREST, Axis, Kernel, nearest, weights
from ibpc.ops._shapes import positive_axis
from ibpc.ops.base import Fill, Operator, Role, register
from ibpc.ops.combinators import affine, no_magnitude
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Rules
from ibpc.rounding import UNIT, Arithmetic

_POLICIES: Final = ("stretch", "not_larger", "not_smaller")


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the operand's shape with one element per row of the weights along the axis."""
    (x,), axis, table = operands, attributes["axis"], parameters["weights"]
    if not 0 < axis < len(x) or len(table) != 2 or any(parameters[role] != table for role in ("positions", "doubts")):
        raise GraphError.at("Resize", f"axis {axis} of {format_shape(x)}", "a feature axis, and three equal tables")
    return (*x[:axis], table[0], *x[axis + 1 :])


def nominal(call: Call, x: Tensor, *, positions: Tensor, weights: Tensor, doubts: Tensor) -> Tensor:
    """yᵢ = Σₖ weightsᵢₖ x[positionsᵢₖ]."""
    return _summed(call, x, positions, weights)


def _summed(call: Call, x: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    axis: int = call["axis"]
    table = call.parameters["weights"]
    taken = x.index_select(axis, positions.flatten())
    taken = taken.reshape([-1, *call.output[1:axis], *table, *call.output[axis + 1 :]])
    return (taken * weights.reshape([*table, *[1] * (len(call.output) - axis - 1)])).sum(axis + 1)


def absolute(
    call: Call, radius: Tensor, *, offset: float | None, positions: Tensor, weights: Tensor, doubts: Tensor
) -> Tensor:
    """Return Σₖ |weightsᵢₖ| r[positionsᵢₖ]."""
    found = _summed(call, radius, positions, weights.abs())
    return found if offset is None else found + offset


def terms(call: Call) -> int:
    """Return the square of the number of taps: a runtime may sum over two axes at once, with products of weights."""
    return call.parameters["weights"][1] ** 2


_AFFINE: Final = affine(nominal, absolute, terms, no_magnitude)


def interval(call: Call, x: Interval, *, positions: Tensor, weights: Tensor, doubts: Tensor) -> Interval:
    """Return center and radius of the weighted sums, exact.

    In binary32 the network computes the weights while it runs, so each may be off by its doubt.
    """
    box = _AFFINE.interval(call, x, positions=positions, weights=weights, doubts=doubts)
    if call.arithmetic is Arithmetic.REAL:
        return box
    greatest = torch.maximum(x.lower.abs(), x.upper.abs())
    doubt = _summed(call, greatest, positions, doubts)
    return Interval.around(box.center, box.radius + doubt * (1.0 + 1024.0 * UNIT))


def macs(call: Call) -> int:
    """Return outputs × taps."""
    count = call.parameters["weights"][1]
    for size in call.output[1:]:
        count *= size
    return count


# ── import ──────────────────────────────────────────────────────────────────────────────────────────────────────
def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Resize axis by axis: a Gather where it copies the nearest element, else weighted sums.

    That loses nothing: weights over several axes are products of the axes' weights.
    """
    roi, scales, sizes = (None, 1, None) if node.version < 11 else (1, 2, 3)
    given = _axes(node)
    rank = len(given)
    stated = _known(node, scales), _known(node, sizes)
    mode = "asymmetric" if node.version < 11 else str(node.attributes["coordinate_transformation_mode"])
    regions = _known(node, roi) if mode == "tf_crop_and_resize" else None
    if mode not in MODES or (regions is not None and len(regions) != 2 * rank):
        raise GraphError.at(f"node {node.name}", f"mode {mode}, region {regions}", f"one of {', '.join(MODES)}")
    extents = [(0.0, 1.0)] * rank if regions is None else list(zip(regions[:rank], regions[rank:], strict=True))
    wanted = _from_scales(node, given, stated[0], extents) if stated[0] else _from_sizes(node, given, stated[1])
    axes = {
        axis: Axis(before, after, scale, is_quotient, mode, extent)
        for axis, (before, after, scale, is_quotient), extent in zip(given, wanted, extents, strict=True)
    }
    return _resized(node, axes, builder)


def read_upsample(node: OnnxNode, builder: Builder) -> Value:
    """Import Upsample, the older Resize."""
    scales = node.attributes["scales"] if node.version < 9 else _known(node, 1)
    given = range(len(node.operand(0).shape))
    wanted = _from_scales(node, given, [float(scale) for scale in scales], [(0.0, 1.0)] * len(given))
    axes = {axis: Axis(*size, "asymmetric") for axis, size in zip(given, wanted, strict=True)}
    return _resized(node, axes, builder)


def _known(node: OnnxNode, slot: int | None) -> list[float]:
    return [] if slot is None or node.optional(slot) is None else node.known(slot).double().flatten().tolist()


def _axes(node: OnnxNode) -> list[int]:
    rank = len(node.operand(0).shape)
    axes = node.attributes.get("axes") or range(rank)
    return [positive_axis(int(axis), rank, f"node {node.name}") for axis in axes]


Wanted = tuple[int, int, float, bool]


def _size(node: OnnxNode, axis: int) -> int:
    """Return the size of an axis, 1 for the batch."""
    return 1 if axis == 0 else node.operand(0).shape[axis]


def _from_scales(
    node: OnnxNode, axes: Sequence[int], scales: list[float], extents: list[tuple[float, float]]
) -> list[Wanted]:
    if len(scales) != len(axes) or min(scales) <= 0:
        raise GraphError.at(f"node {node.name}", f"scales {scales}", f"{len(axes)} positive numbers")
    sizes = [_size(node, axis) for axis in axes]
    return [
        (size, floor(size * (end - start) * scale), scale, False)
        for size, scale, (start, end) in zip(sizes, scales, extents, strict=True)
    ]


def _from_sizes(node: OnnxNode, axes: list[int], given: list[float]) -> list[Wanted]:
    policy = str(node.attributes.get("keep_aspect_ratio_policy", "stretch"))
    if len(given) != len(axes) or min(given, default=0) < 1 or policy not in _POLICIES:
        raise GraphError.at(
            f"node {node.name}", f"sizes {given}, {policy}", f"{len(axes)} sizes, one of {', '.join(_POLICIES)}"
        )
    before = [_size(node, axis) for axis in axes]
    after = [int(size) for size in given]
    if policy == "stretch":
        return [(old, new, new / old, True) for old, new in zip(before, after, strict=True)]
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [(old, floor(scale * old + 0.5), scale, False) for old in before]


def _resized(node: OnnxNode, axes: Mapping[int, Axis], builder: Builder) -> Value:
    """Build one node for each axis that changes. Raises GraphError if one is the batch."""
    x, where = node.operand(0), f"node {node.name}"
    kind, fill = str(node.attributes.get("mode", "nearest")), float(node.attributes.get("extrapolation_value", 0.0))
    if kind not in ("nearest", "linear", "cubic"):
        raise GraphError.at(where, f"mode {kind}", "nearest, linear or cubic")
    for axis, plan in axes.items():
        _check_exact_size(plan, where)
        if plan.after < 1:
            raise GraphError.at(where, f"{plan.after} elements along axis {axis}", "at least one")
        changed = _copied(x, axis, plan, node, builder) if kind == "nearest" else _mixed(x, axis, plan, node, builder)
        if changed is not x and axis == 0:
            raise GraphError.at(where, "it resizes the batch", "a scale of 1 for the batch")
        x = _filled(changed, axis, plan.outside(), fill, builder)
    if x is not node.operand(0) and all(plan.before == plan.after for plan in axes.values()):
        raise GraphError.at(where, "it keeps the size and moves elements", "another size, for runtimes copy this one")
    return x


def _check_exact_size(plan: Axis, where: str) -> None:
    """Raise GraphError where runtimes and the standard's reference divide by different sizes."""
    by_size = plan.mode in ("align_corners", "tf_crop_and_resize") and not plan.is_quotient
    if by_size and abs(plan.scale * plan.before * (plan.region[1] - plan.region[0]) - plan.after) > 1e-3:
        found = f"{plan.mode} with the scale {plan.scale:g} of {plan.before} elements"
        raise GraphError.at(where, found, "a scale to a whole number of elements")


def _copied(x: Value, axis: int, plan: Axis, node: OnnxNode, builder: Builder) -> Value:
    """Return the nearest elements along the axis."""
    rounding = str(node.attributes.get("nearest_mode", "floor"))
    if node.version < 11:
        rounding = "ceil" if plan.scale < 1 else "floor"
    if rounding not in NEAREST:
        raise GraphError.at(f"node {node.name}", f"nearest_mode {rounding}", f"one of {', '.join(NEAREST)}")
    positions = nearest(plan, rounding, f"node {node.name}")
    if np.array_equal(positions, np.arange(plan.before)):
        return x
    return builder.add("Gather", [x], {"axis": axis}, {"indices": torch.from_numpy(positions)})


def _mixed(x: Value, axis: int, plan: Axis, node: OnnxNode, builder: Builder) -> Value:
    """Return weighted sums along the axis."""
    flags = {name: bool(node.attributes.get(name, 0)) for name in ("antialias", "exclude_outside")}
    is_cubic = node.attributes.get("mode") == "cubic"
    kernel = Kernel(float(node.attributes.get("cubic_coeff_a", -0.75)) if is_cubic else None, **flags)
    positions, values, doubts = weights(plan, kernel)
    if plan.before == plan.after and np.array_equal(plan.coordinates("float64"), np.arange(plan.before)):
        return x
    arrays: dict[str, Any] = {"positions": torch.from_numpy(positions)}
    arrays |= {"weights": torch.from_numpy(values).float(), "doubts": torch.from_numpy(doubts).float()}
    return builder.add("Resize", [x], {"axis": axis}, arrays)


def _filled(x: Value, axis: int, outside: Any, value: float, builder: Builder) -> Value:
    """Return x with a fill value at the positions along the axis that lie outside the input."""
    if not outside.any():
        return x
    mask = torch.from_numpy(outside).float().reshape([-1, *[1] * (len(x.shape) - axis - 1)])
    return builder.add("Where", [builder.constant(mask), builder.constant(torch.tensor(value)), x])


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export a product with the matrix of weights along the axis."""
    axis, last, table = call["axis"], len(call.output) - 1, parameters["weights"]
    matrix = torch.zeros(call.operands[0][axis], len(table), dtype=table.dtype)
    columns = torch.arange(len(table))[:, None].expand_as(table)
    matrix = matrix.index_put((parameters["positions"], columns), table, accumulate=True)
    swap = [*range(axis), last, *range(axis + 1, last), axis] if axis < last else []
    (x,) = operands
    moved = writer.node("Transpose", [x], perm=swap) if swap else x
    product = writer.node("MatMul", [moved, writer.constant(matrix)])
    return writer.node("Transpose", [product], perm=swap) if swap else product


OPERATOR = register(
    Operator(
        name="Resize",
        summary="Interpolation along one feature dimension: weighted sums of neighbouring elements",
        attributes={"axis": {"type": "integer", "minimum": 1}},
        operands=(1, 1),
        roles=(
            Role("positions", Fill.ZEROS, trainable=False),
            Role("weights", Fill.ZEROS, trainable=False),
            Role("doubts", Fill.ZEROS, trainable=False),
        ),
        shape=shape,
        macs=macs,
        rules=Rules(nominal, interval, _AFFINE.paired, None, nominal),
        reads=(
            OnnxImport("Resize", (10, 11, 13, 18, 19), read),
            OnnxImport("Upsample", (7, 9), read_upsample),
        ),
        writes=write,
        layers=(),
    )
)
