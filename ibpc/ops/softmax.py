"""Softmax: eˣ / Σ eˣ along one axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._elementwise import export_as, option_layer
from ibpc.ops._planes import chord, midpoint
from ibpc.ops._shapes import feature_axis
from ibpc.ops._softmax import (
    axis_of,
    corners,
    differences,
    import_normalizing,
    on_operands,
    placed,
    relative_error,
)
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import ELEMENTARY_ULPS, UNIT, Arithmetic, vanishing


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x. The axis must not be the batch."""
    (x,) = operands
    feature_axis(attributes["axis"], len(x), "Softmax")
    return x


def nominal(call: Call, x: Tensor) -> Tensor:
    """y_i = e^{x_i} / Σ_j e^{x_j}."""
    return torch.softmax(x, call["axis"])


def guiding(call: Call, x: Tensor) -> Tensor:
    """Return y plus a small multiple of the gradient of x, which guides where y is 0 or 1 to the last digit."""
    return nominal(call, x) + 2.0**-10 * (x - x.detach())


def interval(call: Call, x: Interval) -> Interval:
    """Lower bound: y_i at x_i = l_i and x_j = u_j for all j ≠ i; upper bound the other way round. Exact.

    y_i = 1 / (1 + Σ_{j≠i} e^{x_j − x_i}) rises in x_i and falls in every other x_j, so the extremes lie at these
    corners of the box. Row i of a K × K matrix holds the corner of output i; the diagonal of its softmax is the bound.
    No sum is formed by subtraction, and no exponential overflows. Memory: K numbers per element for each bound.
    """
    axis = axis_of(call)
    lower, upper = x.lower.movedim(axis, -1), x.upper.movedim(axis, -1)
    bounds = _at_corners(call, lower, upper), _at_corners(call, upper, lower)
    if call.arithmetic is Arithmetic.FLOAT32:
        bounds = bounds[0] - _slack(call, bounds[0]), bounds[1] + _slack(call, bounds[1])
    return Interval.bounds(bounds[0].movedim(-1, axis), bounds[1].movedim(-1, axis))


def _at_corners(call: Call, own: Tensor, others: Tensor) -> Tensor:
    """Return y_i at x_i = own_i, x_j = others_j along the last axis."""
    return torch.softmax(corners(call, own, others), -1).diagonal(dim1=-2, dim2=-1)


def _slack(call: Call, value: Tensor) -> Tensor:
    """Return twice the error of a binary32 softmax: once for the network, once for the bound.

    Assumed: m = max x is subtracted; Σ e^{x_j − m} has the relative error `relative_error`; e^{x_i − m} is within 8
    ulps (16u) of the exponential of the rounded x_i − m; the two are divided, or multiplied by the inverse (2u).
    Rounding x_i − m changes y_i by (m − x_i)u relatively. Because y_i ≤ e^{x_i − m}, that is absolutely at most
    y_i ln(1/y_i) u ≤ 0.37u. Relatively it is at most 104u, beyond which e^{x_i − m} is 0 in binary32. Exponentials may
    underflow.
    """
    terms = call.output[axis_of(call)]
    relative = relative_error(terms) + 2 * ELEMENTARY_ULPS + 4
    return 2.0 * relative * UNIT * value + UNIT * (212.0 * value).clamp(max=1.0) + vanishing(terms)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of y_i = 1 / D_i with D_i = Σ_j e^{x_j − x_i}, over all x_j along the axis.

    Below: each exponential lies under its chord, so D_i ≤ L_i with L_i affine, and 1 / D_i ≥ 1 / L_i ≥
    2 / t − L_i / t² for any t > 0, the tangent of 1 / L_i; t is L_i at the box's center. Above: over [1/q, 1/p], with
    p ≤ y_i ≤ q the exact bounds, 1 / D_i lies under its chord p + q − p q D_i, and each exponential over its tangent
    at the center. (The compositions of Wei et al. 2023, arXiv 2303.01713, section 3.) A plane that would overflow is
    replaced by the constant p or q.
    """
    return _planes_at(call, x, None)


def tuned(call: Call, share: Tensor, _plain: Planes, x: Interval) -> Planes:
    """Return the planes that touch at chosen points between the least (0) and the greatest (1) differences x_j − x_i.

    `share` is (…, K, K + 1): for each output the choices of the K tangents above, and the one that gives t below.
    """
    return _planes_at(call, x, share)


def start(call: Call, x: Interval) -> Tensor:
    """Return the shares of the relaxation: 1/2, the centers."""
    lower = x.lower.movedim(axis_of(call), -1)
    return torch.full_like(lower.unsqueeze(-1).expand(*lower.shape, lower.shape[-1] + 1), 0.5)


def _planes_at(call: Call, x: Interval, share: Tensor | None) -> Planes:
    axis = axis_of(call)
    lower, upper = x.lower.movedim(axis, -1), x.upper.movedim(axis, -1)
    logs = [
        torch.log_softmax(corners(call, own, others), -1).diagonal(dim1=-2, dim2=-1)
        for own, others in ((lower, upper), (upper, lower))
    ]
    low, high = differences(call, lower, upper), differences(call, upper, lower)
    tangents = at = midpoint(low, high)
    if share is not None:
        tangents = low + share[..., :-1] * (high - low)
        at = low + share[..., -1:] * (high - low)
    return Planes(
        placed(call, *_plane_below(call, low, high, at), logs[0].exp()),
        placed(call, *_plane_above(call, tangents, *logs), logs[1].exp()),
    )


def _plane_below(call: Call, low: Tensor, high: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return slopes (…, K, K) and offsets (…, K) of 2 / t − L / t², scaled by the greatest exponential.

    t is the value of L at the differences `at`.
    """
    scale = high.amax(-1, keepdim=True)
    at_low, at_high = torch.exp(low - scale), torch.exp(high - scale)
    slope = chord(low, high, at_low, at_high, at_high)
    constant = torch.maximum(at_low - slope * low, at_high - slope * high)
    middle = (slope * at + constant).sum(-1, keepdim=True)
    factor = torch.exp(-scale)
    offset = factor * (2.0 / middle - constant.sum(-1, keepdim=True) / middle.square())
    return on_operands(call, factor * slope / middle.square()), offset.squeeze(-1)


def _plane_above(call: Call, middle: Tensor, log_least: Tensor, log_greatest: Tensor) -> tuple[Tensor, Tensor]:
    """Return slopes (…, K, K) and offsets (…, K) of p + q − p q Σ_j e^m (1 − m + x_j − x_i) for any m.

    p q enters as its logarithm, so that e^m cannot overflow.
    """
    weight = torch.exp(middle + (log_least + log_greatest).unsqueeze(-1))
    offset = log_least.exp() + log_greatest.exp() - (weight * (1.0 - middle)).sum(-1)
    return on_operands(call, weight), offset


OPERATOR = register(
    Operator(
        name="Softmax",
        summary="eˣ / Σ eˣ along one axis",
        attributes={"axis": {"type": "integer", "default": -1}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=replace(nonlinear(nominal, interval, relaxation), tuned=tuned, start=start, guiding=guiding),
        reads=(import_normalizing("Softmax"),),
        writes=export_as("Softmax", "axis"),
        layers=(
            option_layer(
                "Softmax",
                "dim",
                {"description": "Axis that is normalized, the batch being 0", "type": "integer", "default": -1},
                "axis",
            ),
        ),
    )
)
