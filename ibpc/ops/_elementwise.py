"""What operators without attributes share: import, export and layers that only pass the operands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ibpc.ir import Shape
from ibpc.ops.base import (
    Builder,
    Call,
    Layer,
    LayerPlan,
    OnnxExport,
    OnnxImport,
    OnnxNode,
    Value,
    Writer,
)


def import_as(type: str, versions: tuple[int, ...], operator: str | None = None) -> OnnxImport:
    """Return the import of an ONNX operator whose inputs are all operands and whose attributes say nothing."""

    def read(node: OnnxNode, builder: Builder) -> Value:
        operands = [node.operand(slot) for slot in range(len(node.inputs))]
        return builder.add(operator or type, operands)

    return OnnxImport(type, versions, read)


def export_as(type: str, *names: str) -> OnnxExport:
    """Return the export to an ONNX operator that takes the operands and the attributes `names`."""

    def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, torch.Tensor]) -> str:
        return writer.node(type, operands, **{name: call[name] for name in names})

    return write


def option_free_layer(name: str) -> Layer:
    """Return a layer without options or parameters."""

    def plan(options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
        return LayerPlan({})

    return Layer(name, {}, plan)
