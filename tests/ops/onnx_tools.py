"""A small ONNX writer and reader around single operators, independent of the project's exporter and frontend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import BATCH, Attributes, Shape
from ibpc.ops import operators
from ibpc.ops.base import Operator
from ibpc.ops.onnx import OnnxImport, OnnxNode, Value
from ibpc.ops.rules import Call
from tests.ops.scene import Scene

OPSET = 18
ELEMENT = {torch.float64: onnx.TensorProto.DOUBLE, torch.float32: onnx.TensorProto.FLOAT}


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class ModelWriter:
    """Collects nodes and initializers; floating initializers and casts to float become `dtype`."""

    dtype: torch.dtype
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, type: str, inputs: Iterable[str], outputs: int = 1, /, **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        names = [f"v{len(self.nodes)}_{slot}" for slot in range(outputs)]
        if type == "Cast" and attributes["to"] == onnx.TensorProto.FLOAT:
            attributes["to"] = ELEMENT[self.dtype]
        self.nodes.append(helper.make_node(type, list(inputs), names, f"node{len(self.nodes)}", **attributes))
        return names[0]

    def constant(self, value: Tensor) -> str:
        """Add an initializer and return its name."""
        name = f"c{len(self.initializers)}"
        value = value.to(self.dtype) if value.is_floating_point() else value
        self.initializers.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name


def write_model(scene: Scene, dtype: torch.dtype) -> onnx.ModelProto:
    """Return a checked model of opset 18 with the row as its only operator, inputs `x0`, `x1`, … for the boxes."""
    writer = ModelWriter(dtype)
    names = [f"x{slot}" if isinstance(x, Interval) else writer.constant(x) for slot, x in enumerate(scene.operands)]
    result = scene.operator.writes(scene.call, writer, tuple(names), scene.parameters)
    result = writer.node("Identity", [result])
    inputs = [
        helper.make_tensor_value_info(name, ELEMENT[dtype], _dimensions(shape))
        for name, x, shape in zip(names, scene.operands, scene.call.operands, strict=True)
        if isinstance(x, Interval)
    ]
    outputs = [helper.make_tensor_value_info(result, ELEMENT[dtype], _dimensions(scene.call.output))]
    graph = helper.make_graph(writer.nodes, "row", inputs, outputs, writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _dimensions(shape: Shape) -> list[int | str]:
    return ["N" if size == BATCH else size for size in shape]


def feeds(scene: Scene, point: Sequence[Tensor], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Return the inputs of a written model at a point."""
    return {
        f"x{slot}": value.to(dtype).numpy()
        for slot, (x, value) in enumerate(zip(scene.operands, point, strict=True))
        if isinstance(x, Interval)
    }


# ── reading back ────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class KnownValue:
    """A value of the model read back: its tensor at the point, and its shape with a symbolic batch."""

    tensor: Tensor
    shape: Shape
    is_constant: bool

    @property
    def constant(self) -> Tensor | None:
        """The value, if it depends on no input."""
        return self.tensor if self.is_constant else None


@dataclass(frozen=True)
class EvaluatingBuilder:
    """A builder that computes each node immediately; `records` are the operators it may use."""

    records: Mapping[str, Operator]

    def add(
        self,
        operator: str,
        operands: Iterable[Value],
        attributes: Attributes | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> KnownValue:
        """Check the node as the IR does and return its value."""
        record, values = self.records[operator], [_known(value) for value in operands]
        complete, arrays = record.complete(attributes or {}), dict(parameters or {})
        problems = [*record.check_attributes(complete), *record.check_operands(len(values), arrays)]
        assert not problems, problems
        shapes = {role: tuple(value.shape) for role, value in arrays.items()}
        seen = tuple(value.shape for value in values)
        call = Call(complete, seen, shapes, record.infer_shape(complete, seen, shapes))
        result = record.rules.nominal(call, *(value.tensor for value in values), **arrays)
        return KnownValue(result, call.output, all(value.is_constant for value in values))

    def constant(self, value: Tensor) -> KnownValue:
        """Return a constant value."""
        return KnownValue(value, tuple(value.shape), True)


def _known(value: Value) -> KnownValue:
    assert isinstance(value, KnownValue)
    return value


def read_back(scene: Scene, model: onnx.ModelProto, point: Sequence[Tensor]) -> KnownValue:
    """Return the value of the model at the point, with every node imported through `reads`."""
    records = {**operators(), scene.operator.name: scene.operator}
    needed = {name for node in model.graph.node for name in node.input}
    values: dict[str, KnownValue] = {
        item.name: _constant(numpy_helper.to_array(item)) for item in model.graph.initializer
    }
    for slot, (x, value) in enumerate(zip(scene.operands, point, strict=True)):
        if isinstance(x, Interval):
            values[f"x{slot}"] = KnownValue(value, scene.call.operands[slot], False)
    for node in model.graph.node[:-1]:
        inputs = [values[name] if name else None for name in node.input]
        if all(value is None or value.is_constant for value in inputs):
            values.update(_fold(node, values))
            continue
        found = _reading(node.op_type, records)
        unread = frozenset(slot for slot, name in enumerate(node.output) if name not in needed)
        results = found.read(replace(_onnx_node(node, found, tuple(inputs)), unread=unread), EvaluatingBuilder(records))
        outputs = results if isinstance(results, tuple) else (results,)
        values.update(zip(node.output, map(_known, outputs), strict=False))
    return values[model.graph.node[-1].input[0]]


def _constant(array: np.ndarray) -> KnownValue:
    tensor = torch.from_numpy(array.copy())
    return KnownValue(tensor, tuple(tensor.shape), True)


def _fold(node: onnx.NodeProto, values: Mapping[str, KnownValue]) -> Iterator[tuple[str, KnownValue]]:
    evaluator = ReferenceEvaluator(node, opsets={"": OPSET})
    results = evaluator.run(None, {name: values[name].tensor.numpy() for name in node.input if name})
    return zip(node.output, map(_constant, map(np.asarray, results)), strict=True)


def _reading(type: str, records: Mapping[str, Operator]) -> OnnxImport:
    found = [read for record in records.values() for read in record.reads if read.type == type]
    assert len(found) == 1, f"{len(found)} operators read ONNX {type}"
    return found[0]


def _onnx_node(node: onnx.NodeProto, found: OnnxImport, inputs: tuple[KnownValue | None, ...]) -> OnnxNode:
    schema = onnx.defs.get_schema(node.op_type, OPSET)
    assert schema.since_version in found.versions, f"{node.op_type} {schema.since_version} is not read"
    defaults = {
        name: helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    attributes = {name: _plain(value) for name, value in {**defaults, **given}.items()}
    return OnnxNode(node.name, node.op_type, schema.since_version, attributes, inputs, len(node.output))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(numpy_helper.to_array(value).copy())
    return list(value) if isinstance(value, (list, tuple)) or hasattr(value, "_values") else value
