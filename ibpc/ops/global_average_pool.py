"""GlobalAveragePool: the mean over all spatial dimensions, which stay with size 1."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._elementwise import export_as, import_as
from ibpc.ops._pools import mean_of_radii
from ibpc.ops._windows import spatial_sizes
from ibpc.ops.base import Call, Layer, LayerPlan, Operator, affine, no_macs, no_magnitude, register


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return N×C×1×…."""
    (x,) = operands
    if len(x) < 3:
        raise GraphError.at(
            "GlobalAveragePool",
            f"an operand of shape {format_shape(x)}",
            "spatial dimensions behind batch and channels",
        )
    return (*x[:2], *[1] * (len(x) - 2))


def nominal(call: Call, x: torch.Tensor) -> torch.Tensor:
    """y = mean of x over dimensions 2 and up."""
    return x.mean(list(range(2, len(call.output))), keepdim=True)


def terms(call: Call) -> int:
    """Every output sums all positions, and multiplies by a rounded reciprocal or divides."""
    return prod(call.operands[0][2:]) + 1


def plan(dimensions: int, options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan an AdaptiveAvgPoolNd layer of output size 1."""
    spatial_sizes(operands[0], dimensions, f"AdaptiveAvgPool{dimensions}d")
    return LayerPlan({})


def layer(dimensions: int) -> Layer:
    """Return the torch.nn layer AdaptiveAvgPoolNd, of which only output size 1 is known."""
    options = {
        "output_size": {"description": "Output size: 1 in each spatial dimension", "enum": [1, [1] * dimensions]},
    }
    return Layer(f"AdaptiveAvgPool{dimensions}d", options, partial(plan, dimensions), ("output_size",))


OPERATOR = register(
    Operator(
        name="GlobalAveragePool",
        summary="The mean over all spatial dimensions, which stay with size 1",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=affine(nominal, mean_of_radii(nominal), terms, no_magnitude),
        reads=(import_as("GlobalAveragePool", (1, 22)),),
        writes=export_as("GlobalAveragePool"),
        layers=(layer(1), layer(2), layer(3)),
    )
)
