"""The contents of an ONNX file that the checker uses; anything it does not know is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from ibpc.errors import ModelError
from ibpc.verify.checking.activations import Told, with_activations

_DOMAINS: Final = ("", "ai.onnx")
_FIRST_VERSION: Final = 7
_LAST_VERSION: Final = 28
_RANDOM: Final = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_GRAPHS: Final = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_ALIASES: Final = ("Identity", "Dropout")
_SMALL_FLOATS: Final = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A model at batch 1: its operator set, inputs with their shapes, outputs, constants, nodes and element types.

    Nodes are in topological order and read values by their first names, not those given by an Identity; activations
    that the file spells out are nodes of their type.
    """

    opset: int
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    constants: Mapping[str, NDArray[Any]]
    nodes: Sequence[onnx.NodeProto]
    types: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> OnnxFile:
        """Read the model. Raises ModelError for an unknown operator set, element type or function."""
        graph, opset = model.graph, _opset(model)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        inputs = {value.name: _shape(value) for value in graph.input if value.name not in constants}
        told = _told(model)
        _refuse_unknown(model)
        _refuse_operands(graph.node, opset)
        _refuse_second_values(graph.node, {*constants, *inputs})
        outputs = tuple(output.name for output in graph.output)
        nodes = _by_first_names(_ordered(graph.node, {*constants, *inputs}))
        nodes = with_activations(nodes, constants, inputs, told)
        return cls(opset, inputs, outputs, constants, nodes, {name: value.element_type for name, value in told.items()})


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if len(set(versions)) > 1:
        raise ModelError.at("checker", f"operator sets {sorted(versions)} of one domain", "one")
    if not versions or not _FIRST_VERSION <= max(versions) <= _LAST_VERSION:
        wanted = f"one from {_FIRST_VERSION} to {_LAST_VERSION}, whose types it knows"
        raise ModelError.at("checker", f"operator set {max(versions, default=0)}", wanted)
    return int(max(versions))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape of an input at batch 1: a dimension without a number is 1."""
    return tuple(dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim)


def _told(model: onnx.ModelProto) -> dict[str, Told]:
    """Return what shape inference knows of each value."""
    graph = _inferred(model).graph
    found = {value.name: _told_of(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    small = sorted(name for name, value in found.items() if value.element_type in _SMALL_FLOATS)
    small += [tensor.name for tensor in graph.initializer if tensor.data_type in _SMALL_FLOATS]
    if small:
        raise ModelError.at("checker", f"{small[0]} is of a 16-bit floating type", "32 or 64 bits")
    return found


def _told_of(value: onnx.ValueInfoProto) -> Told:
    tensor = value.type.tensor_type
    return Told(int(tensor.elem_type), len(tensor.shape.dim) if tensor.HasField("shape") else None)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types of its values.

    Inference stops at operators that do not support it, such as Compress before version 11; most results have the type
    of an operand.
    """
    opset, inferred = _opset(model), shape_inference.infer_shapes(model)
    while True:
        graph = inferred.graph
        known = {value.name: value for value in (*graph.input, *graph.value_info)}
        told = {*known, *(value.name for value in graph.output)}
        stopped = [
            (node, known[like])
            for node in graph.node
            if node.output[0] not in told and (like := _like(node, opset)) in known
        ]
        if not stopped:
            return inferred
        for node, operand in stopped:
            value = onnx.ValueInfoProto(name=node.output[0])
            if node.op_type == "GroupNormalization":  # it has the shape of its operand, too
                value.type.CopyFrom(operand.type)
            else:
                value.type.tensor_type.elem_type = operand.type.tensor_type.elem_type
            graph.value_info.append(value)
        inferred = shape_inference.infer_shapes(inferred)


def _like(node: onnx.NodeProto, opset: int) -> str:
    """Return the operand that by its schema has the element type of a node's first result, "" if there is none."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return ""
    alike = [slot for slot, entry in enumerate(schema.inputs) if entry.type_str == schema.outputs[0].type_str]
    return next((node.input[slot] for slot in alike if slot < len(node.input)), "")


def _refuse_unknown(model: onnx.ModelProto) -> None:
    """Raise ModelError for operators of other domains, random ones, those with graphs of their own, and functions."""
    for node in model.graph.node:
        if node.op_type in _RANDOM:
            raise ModelError.at(f"node {node.name}", f"{node.op_type} is random", "a function of the inputs")
        if any(attribute.type in _GRAPHS for attribute in node.attribute):
            raise ModelError.at(f"node {node.name}", f"{node.op_type} has a graph of its own", "plain operators")
        if node.domain not in _DOMAINS:
            raise ModelError.at(f"node {node.name}", f"the checker does not know {node.domain}.{node.op_type}")
    if model.functions:
        raise ModelError.at("checker", "the file defines functions of its own", "nodes of standard operators only")


def _refuse_operands(nodes: Sequence[onnx.NodeProto], opset: int) -> None:
    """Raise ModelError if a node has more or fewer operands than its operator, or more results.

    Operators that the operator set lacks are refused by the evaluator.
    """
    for node in nodes:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset)
        except onnx.defs.SchemaError:
            continue
        where = f"node {node.name or next(iter(node.output), node.op_type)}"
        if not schema.min_input <= len(node.input) <= schema.max_input:
            wanted = f"{schema.min_input} to {schema.max_input}"
            raise ModelError.at(where, f"{node.op_type} of {len(node.input)} operands", wanted)
        if not 1 <= len(node.output) <= schema.max_output:
            raise ModelError.at(where, f"{node.op_type} with {len(node.output)} results", f"1 to {schema.max_output}")


def _refuse_second_values(nodes: Sequence[onnx.NodeProto], known: set[str]) -> None:
    """Raise ModelError if two values have the same name."""
    taken = set(known)
    for node in nodes:
        for name in filter(None, node.output):
            if name in taken:
                raise ModelError.at(f"node {node.name or name}", f"a second value named {name}", "one")
            taken.add(name)


def _by_first_names(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes with operands renamed to what an Identity, or a Dropout that drops nothing, copies."""
    first: dict[str, str] = {}
    renamed = []
    for node in nodes:
        names = [first.get(name, name) for name in node.input]
        if node.op_type in _ALIASES and len(names) <= 2 and len(node.output) == 1:
            first[node.output[0]] = names[0]
        if names != list(node.input):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = names
            renamed.append(copy)
        else:
            renamed.append(node)
    return renamed


def _ordered(nodes: Sequence[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes in topological order; files in the wild have them in any order.

    Raises ModelError if no node computes an operand.
    """
    ordered: list[onnx.NodeProto] = []
    waiting = list(nodes)
    while waiting:
        left = []
        for node in waiting:
            if known.issuperset(name for name in node.input if name):
                known.update(node.output)
                ordered.append(node)
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise ModelError.at(f"node {left[0].name or left[0].output[0]}", "an input that nothing computes")
        waiting = left
    return ordered
