"""LogSoftmax: x − ln Σ eˣ along one axis."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import Attributes, Shape
from ibpc.ops._elementwise import export_as, option_layer
from ibpc.ops._shapes import feature_axis
from ibpc.ops._softmax import (
    axis_of,
    chord_line,
    corners,
    differences,
    import_normalizing,
    on_operands,
    placed,
    relative_error,
    tangent_line,
)
from ibpc.ops.base import Operator, register
from ibpc.ops.combinators import no_macs, nonlinear, outward
from ibpc.ops.rules import Call, Planes
from ibpc.rounding import ELEMENTARY_ULPS, UNIT


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x. The axis must not be the batch."""
    (x,) = operands
    feature_axis(attributes["axis"], len(x), "LogSoftmax")
    return x


def nominal(call: Call, x: Tensor) -> Tensor:
    """y_i = x_i − ln Σ_j e^{x_j}."""
    return torch.log_softmax(x, call["axis"])


def interval(call: Call, x: Interval) -> Interval:
    """Lower bound: y_i at x_i = l_i and x_j = u_j for all j ≠ i; upper bound the other way round. Exact.

    −y_i = ln (1 + Σ_{j≠i} e^{x_j − x_i}) falls in x_i and rises in every other x_j, so the extremes lie at
    these corners of the box; see `ibpc.ops.softmax`. Memory: K numbers per element for each bound.

    In binary32, m = max x is subtracted. Because |x_i − m| ≤ |y_i|, x_i − m and y_i are each off by u |y_i|. The sum s
    in [1, K] has the relative error `relative_error`, which is an absolute one in ln s; ln s ≤ |y_i| is within 8 ulps.
    """
    axis = axis_of(call)
    lower, upper = x.lower.movedim(axis, -1), x.upper.movedim(axis, -1)
    least, greatest = _at_corners(call, lower, upper), _at_corners(call, upper, lower)
    absolute = 2.0 * UNIT * (relative_error(call.output[axis]) + 4)
    bounds = outward(call, least, greatest, 2 * ELEMENTARY_ULPS + 4, absolute)
    return bounds.map(lambda end: end.movedim(-1, axis))


def _at_corners(call: Call, own: Tensor, others: Tensor) -> Tensor:
    """Return y_i at x_i = own_i, x_j = others_j along the last axis."""
    return torch.log_softmax(corners(call, own, others), -1).diagonal(dim1=-2, dim2=-1)


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the planes of y_i = −ln Σ_j e^{x_j − x_i}: those of log-sum-exp in the differences, negated.

    See `chord_line` and `tangent_line`. A plane that would overflow is replaced by the constant bound.
    """
    axis = axis_of(call)
    lower, upper = x.lower.movedim(axis, -1), x.upper.movedim(axis, -1)
    low, high = differences(call, lower, upper), differences(call, upper, lower)
    chord_slope, chord_offset = chord_line(low, high)
    slope, offset = tangent_line(low, high)
    return Planes(
        placed(call, on_operands(call, chord_slope), -chord_offset, _at_corners(call, lower, upper)),
        placed(call, on_operands(call, slope), -offset, _at_corners(call, upper, lower)),
    )


OPERATOR = register(
    Operator(
        name="LogSoftmax",
        summary="x − ln Σ eˣ along one axis",
        attributes={"axis": {"type": "integer", "default": -1}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=nonlinear(nominal, interval, relaxation),
        reads=(import_normalizing("LogSoftmax"),),
        writes=export_as("LogSoftmax", "axis"),
        layers=(
            option_layer(
                "LogSoftmax",
                "dim",
                {"description": "Axis that is normalized, the batch being 0", "type": "integer", "default": -1},
                "axis",
            ),
        ),
    )
)
