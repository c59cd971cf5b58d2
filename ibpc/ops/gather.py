"""Gather: the elements at constant indices along one feature dimension."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._gathers import positive_indices, read_compress, read_elements, read_nd, read_reversed
from ibpc.ops._scatters import read_elements as read_scattered_elements
from ibpc.ops._scatters import read_nd as read_scattered_slices
from ibpc.ops._shapes import feature_axis
from ibpc.ops.base import Fill, Operator, Role, register
from ibpc.ops.combinators import no_macs, passthrough
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the operand's shape with dimension `axis` replaced by the shape of the indices."""
    (x,) = operands
    axis = attributes["axis"]
    if not 0 < axis < len(x):
        raise GraphError.at("Gather", f"axis {axis} of {format_shape(x)}", f"an axis from 1 to {len(x) - 1}")
    return (*x[:axis], *parameters["indices"], *x[axis + 1 :])


def nominal(call: Call, x: Tensor, *, indices: Tensor) -> Tensor:
    """y = x[…, indices, …], indices ≥ 0."""
    if len(call.parameters["indices"]) == 1:
        return x.index_select(call["axis"], indices)
    return x.index_select(call["axis"], indices.flatten()).reshape([-1, *call.output[1:]])


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import Gather. Raises GraphError for indices that depend on an input or are out of range."""
    x, index, where = node.operand(0), node.operand(1), f"node {node.name}"
    if index.constant is None:
        what = "a table" if x.constant is not None else "a value"
        raise GraphError.at(
            where, f"it looks up {what} at indices that depend on the network's input", "constant indices"
        )
    axis = feature_axis(int(node.attributes.get("axis", 0)), len(x.shape), where)
    indices = positive_indices(index.constant, x.shape[axis], where)
    return builder.add("Gather", [x], {"axis": axis}, {"indices": indices})


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export Gather."""
    return writer.node("Gather", [*operands, writer.constant(parameters["indices"])], axis=call["axis"])


OPERATOR = register(
    Operator(
        name="Gather",
        summary="The elements at constant indices of one feature dimension",
        attributes={"axis": {"type": "integer", "minimum": 1}},
        operands=(1, 1),
        roles=(Role("indices", Fill.ZEROS, trainable=False),),
        shape=shape,
        macs=no_macs,
        rules=passthrough(nominal),
        reads=(
            OnnxImport("Gather", (1, 11, 13), read),
            OnnxImport("GatherElements", (11, 13), read_elements),
            OnnxImport("GatherND", (11, 12, 13), read_nd),
            OnnxImport("Compress", (9, 11, 28), read_compress),
            OnnxImport("ReverseSequence", (10, 28), read_reversed),
            OnnxImport("ScatterElements", (11, 13, 16, 18), read_scattered_elements),
            OnnxImport("ScatterND", (11, 13, 16, 18), read_scattered_slices),
        ),
        writes=write,
        layers=(),
    )
)
