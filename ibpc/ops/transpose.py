"""Transpose: the dimensions of a sample in another order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._blocks import read_depth_to_space, read_space_to_depth
from ibpc.ops._elementwise import export_as
from ibpc.ops.base import Layer, LayerPlan, Operator, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x permuted: dimension i of the result is dimension perm[i] of x."""
    (x,), perm = operands, attributes["perm"]
    if sorted(perm) != list(range(len(x))):
        raise GraphError.at("Transpose", f"perm {perm} of {format_shape(x)}", f"a permutation of 0 to {len(x) - 1}")
    if perm[:1] != [0]:
        raise GraphError.at("Transpose", f"perm {perm} moves the batch", "0 as the first entry")
    return tuple(x[axis] for axis in perm)


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x with dimension perm[i] moved to i."""
    return x.permute(call["perm"])


def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a Permute layer."""
    return LayerPlan({"perm": [0, *options["dims"]]})


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Transpose; without `perm` it reverses all dimensions."""
    x = node.operand(0)
    perm = [int(axis) for axis in node.attributes.get("perm") or reversed(range(len(x.shape)))]
    if perm[:1] != [0]:
        raise GraphError.at(
            f"node {node.name}",
            f"Transpose with perm {perm} moves the batch",
            "0 as the first entry",
            "export the network with the batch in dimension 0 throughout",
        )
    return builder.add("Transpose", [x], {"perm": perm})


OPERATOR = register(
    Operator(
        name="Transpose",
        summary="The dimensions of a sample in another order",
        attributes={"perm": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
        operands=(1, 1),
        roles=(),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(
            OnnxImport("Transpose", (1, 13, 21, 23, 24, 25), read),
            OnnxImport("DepthToSpace", (1, 11, 13, 28), read_depth_to_space),
            OnnxImport("SpaceToDepth", (1, 13, 28), read_space_to_depth),
        ),
        writes=export_as("Transpose", "perm"),
        layers=(
            Layer(
                "Permute",
                {
                    "dims": {
                        "description": "The new order of the feature dimensions, counted from 1 (0 is the batch)",
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1},
                        "minItems": 1,
                    }
                },
                plan,
                ("dims",),
            ),
        ),
    )
)
