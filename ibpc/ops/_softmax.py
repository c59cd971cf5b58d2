"""What Softmax, LogSoftmax and log-sum-exp share: corners of a box, differences along the axis, planes, import."""

from __future__ import annotations

from math import log, prod
from typing import TypeAlias

import torch
from torch import Tensor

from ibpc.ops._planes import chord, midpoint
from ibpc.ops._shapes import feature_axis
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call, Plane
from ibpc.rounding import ELEMENTARY_ULPS

Line: TypeAlias = tuple[Tensor, Tensor]


def axis_of(call: Call) -> int:
    """Return the axis counted from the front."""
    return feature_axis(call["axis"], len(call.output), "axis")


def relative_error(terms: int) -> float:
    """Return the relative error, in units of u, of a binary32 Σ e^{x_j − m}, m = max x, of so many terms.

    Assumed: the exponentials are within 8 ulps (16u) and summed in any order ((n − 1)u). Rounding x_j − m changes the
    sum relatively by Σ w_j ln(1/w_j) u ≤ u ln n, with w_j the terms' shares of it.
    """
    return 2 * ELEMENTARY_ULPS + terms + log(terms)


# ── the corners of a box, and the differences x_j − x_i ─────────────────────────────────────────────────────────
def corners(call: Call, own: Tensor, others: Tensor) -> Tensor:
    """Return the matrix with own_i on the diagonal and others_j in column j."""
    return torch.where(diagonal(call, own), own.unsqueeze(-1), others.unsqueeze(-2))


def diagonal(call: Call, like: Tensor) -> Tensor:
    """Return the identity matrix of the axis as booleans."""
    return torch.eye(call.output[axis_of(call)], dtype=torch.bool, device=like.device)


def differences(call: Call, others: Tensor, own: Tensor) -> Tensor:
    """Return the matrix others_j − own_i, with zeros on the diagonal."""
    difference = others.unsqueeze(-2) - own.unsqueeze(-1)
    return torch.where(diagonal(call, own), torch.zeros_like(difference), difference)


def on_operands(call: Call, weight: Tensor) -> Tensor:
    """Return the slopes of −Σ_j weight_ij (x_j − x_i) with respect to x_j."""
    return torch.where(diagonal(call, weight), weight.sum(-1, keepdim=True) - weight, -weight)


def placed(call: Call, slopes: Tensor, offset: Tensor, bound: Tensor) -> Plane:
    """Return the plane with its axis moved to the operand's place, and the constant `bound` where it is not finite."""
    axis, rank = axis_of(call), len(call.output)

    def view(value: Tensor) -> Tensor:
        return value.movedim(axis, -1).unsqueeze(axis)

    finite = torch.isfinite(offset) & torch.isfinite(slopes).all(-1)
    slopes = torch.where(finite.unsqueeze(-1), slopes, torch.zeros_like(slopes))
    offset = torch.where(finite, offset, bound)
    return Plane((slopes.movedim(-2, axis - rank - 1),), offset.movedim(-1, axis - rank), (view,))


# ── log-sum-exp ─────────────────────────────────────────────────────────────────────────────────────────────────
def tangent_line(lower: Tensor, upper: Tensor) -> Line:
    """Return slopes and offset of a line below ln Σ eˣ along the last dimension: its tangent at the center (convex)."""
    middle = midpoint(lower, upper)
    slope = torch.softmax(middle, -1)
    return slope, torch.logsumexp(middle, -1) - (slope * middle).sum(-1)


def chord_line(lower: Tensor, upper: Tensor) -> Line:
    """Return slopes and offset of a line above ln Σ eˣ along the last dimension.

    Each exponential lies under its chord, so ln Σ eˣ ≤ ln Q with Q affine, and ln Q ≤ ln t + Q / t − 1 for any t > 0;
    t is Q at the center. All is scaled by the greatest exponential.
    """
    scale = upper.amax(-1, keepdim=True)
    at_lower, at_upper = torch.exp(lower - scale), torch.exp(upper - scale)
    slope = chord(lower, upper, at_lower, at_upper, at_upper)
    constant = torch.maximum(at_lower - slope * lower, at_upper - slope * upper)
    middle = (slope * midpoint(lower, upper) + constant).sum(-1)
    offset = scale.squeeze(-1) + middle.log() + constant.sum(-1) / middle - 1.0
    return slope / middle.unsqueeze(-1), offset


# ── import ──────────────────────────────────────────────────────────────────────────────────────────────────────
def import_normalizing(type: str) -> OnnxImport:
    """Return the import of Softmax or LogSoftmax.

    Before version 13 they normalize over `axis` and all later dimensions together.
    """

    def read(node: OnnxNode, builder: Builder) -> Value:
        x, early = node.operand(0), node.version < 13
        axis = feature_axis(int(node.attributes.get("axis", 1 if early else -1)), len(x.shape), f"node {node.name}")
        if not early or all(size == 1 for size in x.shape[axis + 1 :]):
            return builder.add(type, [x], {"axis": axis})
        merged = builder.add("Reshape", [x], {"shape": [*x.shape[1:axis], prod(x.shape[axis:])]})
        return builder.add("Reshape", [builder.add(type, [merged])], {"shape": list(x.shape[1:])})

    return OnnxImport(type, (1, 11, 13), read)
