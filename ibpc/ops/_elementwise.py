"""What elementwise operators share: broadcasting, and imports, exports and layers that pass operands and numbers on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ibpc.ir import Attributes, Shape
from ibpc.ops._shapes import broadcast, same_as_operand
from ibpc.ops.base import Layer, LayerPlan, Operator
from ibpc.ops.combinators import no_macs
from ibpc.ops.onnx import Builder, OnnxExport, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, Rules, ShapeRule


def broadcast_shape(name: str) -> ShapeRule:
    """Return the shape rule of an elementwise operator: its operands broadcast."""

    def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
        return broadcast(operands, name)

    return shape


def sum_of_radii(call: Call, *radii: Tensor | None, offset: float | None) -> Tensor:
    """Return the radius of a sum or difference: the sum of the radii present, in the shape of the output."""
    present = [radius for radius in radii if radius is not None]
    total = present[0]
    for radius in present[1:]:
        total = total + radius
    if len(present) < len(radii):
        total = total.expand(call.output)
    return total if offset is None else total + offset


def gain_of_sum(call: Call) -> float:
    """Return Σ |W| of a sum or difference: the number of operands."""
    return float(len(call.operands))


def two_terms(call: Call) -> int:
    """Return the number of terms of a sum or difference of two operands."""
    return 2


def elementwise(name: str, summary: str, rules: Rules, versions: tuple[int, ...], layer: str | None = None) -> Operator:
    """Return the record of a function of single elements without attributes: ONNX and torch.nn have it by its name.

    `versions` are those of the ONNX type; `layer` is the name of the spec's layer, if it is another one.
    """
    return Operator(
        name=name,
        summary=summary,
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        macs=no_macs,
        rules=rules,
        reads=(import_as(name, versions),),
        writes=export_as(name),
        layers=(option_free_layer(layer or name),),
    )


def import_as(type: str, versions: tuple[int, ...]) -> OnnxImport:
    """Return the import of an ONNX operator whose inputs are all operands and that has no relevant attributes."""

    def read(node: OnnxNode, builder: Builder) -> Value:
        operands = [node.operand(slot) for slot in range(len(node.inputs))]
        return builder.add(type, operands)

    return OnnxImport(type, versions, read)


def import_numbers(type: str, versions: tuple[int, ...], *names: str) -> OnnxImport:
    """Return the import of an ONNX operator of one operand with the numeric attributes `names`."""

    def read(node: OnnxNode, builder: Builder) -> Value:
        return builder.add(type, [node.operand(0)], numbers_of(node, *names))

    return OnnxImport(type, versions, read)


def numbers_of(node: OnnxNode, *names: str) -> dict[str, float]:
    """Return those of the attributes `names` that the node has; the record's defaults fill in the others."""
    return {name: float(node.attributes[name]) for name in names if name in node.attributes}


def export_as(type: str, *names: str) -> OnnxExport:
    """Return the export to an ONNX operator that takes the operands and the attributes `names`."""

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
        return writer.node(type, operands, **{name: call[name] for name in names})

    return write


def option_free_layer(name: str) -> Layer:
    """Return a layer without options or parameters."""

    def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
        return LayerPlan({})

    return Layer(name, {}, plan)


def option_layer(name: str, option: str, schema: Mapping[str, Any], attribute: str) -> Layer:
    """Return a layer without parameters whose only option is the operator's attribute `attribute`."""

    def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
        return LayerPlan({attribute: options[option]})

    return Layer(name, {option: schema}, plan)
