"""The nominal graph as an ONNX file, written by the export rules of the operators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from onnx import numpy_helper, shape_inference
from torch import Tensor

from ibpc.artifact import tool_versions
from ibpc.errors import ArtifactError
from ibpc.files import write_atomically
from ibpc.ir import BATCH, INPUT, Graph, Node, Shape
from ibpc.ops import operators
from ibpc.ops.rules import call_of

OPSET: Final = 18

_IR_VERSION: Final = 8
_BATCH_NAME: Final = "batch"
_MOST_BYTES: Final = 2**31 - 1


def export_nominal(graph: Graph, path: str | Path) -> None:
    """Write the nominal graph as an ONNX file of opset 18 with a symbolic batch, whole or not at all.

    Inputs and outputs are named as in the graph; weights as its state entries. Raises ArtifactError where the file
    cannot be written and GraphError where the graph is broken.
    """
    write_atomically(Path(path), serialized(nominal_model(graph), path))


def serialized(model: onnx.ModelProto, path: str | Path) -> bytes:
    """Return the contents of the ONNX file `path`. Raises ArtifactError where the model is too large for one."""
    if model.ByteSize() > _MOST_BYTES:
        raise ArtifactError.at(path, f"the model takes {model.ByteSize():,} bytes", f"at most {_MOST_BYTES:,} for ONNX")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def nominal_model(graph: Graph) -> onnx.ModelProto:
    """Return the nominal graph as a checked ONNX model. Raises GraphError where the graph is broken."""
    graph.verify(operators())
    writer = _Writer(graph)
    for node in graph.order():
        writer.write(node)
    body = onnx.helper.make_graph(
        writer.nodes,
        graph.name,
        [_declared(name, graph.node(name).shape, onnx.TensorProto.FLOAT) for name in graph.inputs],
        [onnx.ValueInfoProto(name=name) for name in writer.finish()],
        writer.initializers,
    )
    model = onnx.helper.make_model(
        body,
        producer_name="ibpc",
        producer_version=tool_versions().get("ibpc", ""),
        ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    onnx.helper.set_model_props(model, {"ibpc.name": graph.name, "ibpc.hints": json.dumps(graph.hints)})
    _declare_outputs(model, graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _declare_outputs(model: onnx.ModelProto, graph: Graph) -> None:
    """Give each output the type that ONNX infers and the shape of the IR."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for output, found, name in zip(model.graph.output, inferred.graph.output, graph.outputs, strict=True):
        elem_type = found.type.tensor_type.elem_type
        output.CopyFrom(_declared(output.name, graph.node(name).shape, elem_type))


def _declared(name: str, shape: Shape, elem_type: int) -> onnx.ValueInfoProto:
    sizes = [_BATCH_NAME if size == BATCH else size for size in shape]
    return onnx.helper.make_tensor_value_info(name, elem_type, sizes)


class _Writer:
    """Collects what the export rules write, node by node of the graph."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._graph = graph
        self._values: dict[str, str] = {}
        self._wish = ""
        self._count = 0
        self._written: dict[int, tuple[Tensor, str]] = {}
        self._state = {key: torch.as_tensor(value).detach().cpu() for key, value in graph.state.items()}
        self._keys = {id(value): key for key, value in self._state.items()}

    def write(self, node: Node) -> None:
        """Write one node of the graph. The last ONNX node of several carries the name."""
        if node.operator == INPUT:
            self._values[node.name] = node.name
            return
        graph, names = self._graph, self._graph.operands(node.name)
        parameters = {
            role: self._state[graph.source_of(f"{node.name}.{role}")] for role in graph.parameters_of(node.name)
        }
        call = call_of(graph, node)
        self._wish, self._count = node.name, 0
        first = len(self.nodes)
        result = operators()[node.operator].writes(call, self, tuple(self._values[name] for name in names), parameters)
        self._values[node.name] = self._rename(result, node.name, self.nodes[first:])

    def _rename(self, old: str, new: str, nodes: Iterable[onnx.NodeProto]) -> str:
        """Rename a value that one of `nodes` makes; leave any other name as it is."""
        made = [node for node in nodes if old in node.output]
        for node in made:
            node.name = new
        for node in nodes if made else ():
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        return new if made else old

    def finish(self) -> tuple[str, ...]:
        """Return the output names. A value that is no node's own result, or leaves twice, goes through an Identity."""
        made = {name for node in self.nodes for name in node.output}
        taken: list[str] = []
        for name in self._graph.outputs:
            value, self._wish, self._count = self._values[name], f"{name}.output", len(taken)
            taken.append(value if value in made and value not in taken else self.node("Identity", [value]))
        return tuple(taken)

    # ── what export rules call ──────────────────────────────────────────────────────────────────────────────────
    def node(self, type: str, inputs: Iterable[str], outputs: int = 1, /, **attributes: Any) -> str:
        """Append a node and return the name of its (first) output."""
        names = [self._fresh() for _ in range(outputs)]
        self.nodes.append(onnx.helper.make_node(type, list(inputs), names, names[0], **_plain(attributes)))
        return names[0]

    def constant(self, value: Tensor) -> str:
        """Add an initializer and return its name. A state entry is added once and keeps its name."""
        if id(value) not in self._written:
            name = self._keys.get(id(value)) or self._fresh()
            self.initializers.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
            self._written[id(value)] = (value, name)
        return self._written[id(value)][1]

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._wish}.{self._count}"


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in attributes.items()}
