"""Shape arithmetic that several operators share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import BATCH, Attributes, Shape, format_shape
from ibpc.ops.onnx import OnnxExport, OnnxNode, Writer
from ibpc.ops.rules import Call

AXES: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "integer"}}


def same_as_operand(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of the only operand."""
    return operands[0]


def broadcast(shapes: Iterable[Shape], where: str) -> Shape:
    """Return the shape of `shapes` broadcast as in numpy, the batch only in dimension 0.

    Raises GraphError if two sizes differ and neither is 1, or if the batch meets another dimension.
    """
    found = tuple(shapes)
    rank = max((len(shape) for shape in found), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in found]
    result = []
    for axis, sizes in enumerate(zip(*padded, strict=True)):
        wanted = {size for size in sizes if size != 1}
        if len(wanted) > 1 or (BATCH in wanted and axis != 0):
            listed = " and ".join(format_shape(shape) for shape in found)
            raise GraphError.at(where, f"shapes {listed} do not broadcast", "equal sizes or 1 in each dimension")
        result.append(wanted.pop() if wanted else 1)
    return tuple(result)


def positive_axis(axis: int, rank: int, where: str) -> int:
    """Return `axis` counted from the front. Raises GraphError if it is out of range."""
    if not -rank <= axis < rank:
        raise GraphError.at(where, f"axis {axis}", f"an axis from {-rank} to {rank - 1}")
    return axis % rank


def feature_axis(axis: int, rank: int, where: str) -> int:
    """Return `axis` counted from the front. Raises GraphError if it is out of range or the batch."""
    found = positive_axis(axis, rank, where)
    if found == 0:
        raise GraphError.at(where, f"axis {axis} is the batch", f"an axis from 1 to {rank - 1}")
    return found


def feature_axes(axes: Iterable[int], rank: int, where: str) -> list[int]:
    """Return `axes` counted from the front and sorted. Raises GraphError for the batch and for a repeated axis."""
    found = sorted(feature_axis(axis, rank, where) for axis in axes)
    if len(set(found)) < len(found):
        raise GraphError.at(where, f"axes {found}", "no axis twice")
    return found


def reshaped(call: Call, x: Tensor) -> Tensor:
    """y = x in the shape of the output, dimension 0 kept."""
    return x.reshape([-1, *call.output[1:]])


def onnx_integers(node: OnnxNode, name: str, slot: int) -> list[int] | None:
    """Return the integers of the attribute `name`, or else of the input `slot`; None if there is neither."""
    if node.attributes.get(name) is not None:
        return [int(value) for value in node.attributes[name]]
    if node.optional(slot) is None:
        return None
    return [int(value) for value in node.known(slot).flatten().tolist()]


def export_axes(type: str) -> OnnxExport:
    """Return the export to an ONNX operator whose second input is the attribute `axes`."""

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        return writer.node(type, [*operands, writer.constant(torch.tensor(call["axes"], dtype=torch.int64))])

    return write


def dimension_option(description: str, **default: int) -> dict[str, Any]:
    """Return the schema of a layer option that names a feature dimension, counted as in PyTorch (the batch is 0)."""
    return {
        "description": f"{description}, counted from 1 (0 is the batch) or from the end",
        "type": "integer",
        **default,
    }
