"""ONNX models in memory: checking them, and mending the harmless defects that files in the wild have.

What is mended, and reported: input types declared as double over float weights, stale value_info, initializers that
IR version 3 lists as inputs, repeated opset imports, nodes out of order, nodes without a name or with the name of
another, nodes and optional outputs that nothing uses, model-local functions (inlined).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Final

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import inliner, shape_inference

from ibpc.errors import ModelError, Problem, first_line, raise_all
from ibpc.frontends.onnx_load import tensors_of

OLDEST_OPSET: Final = 7

_MOST_INLINED_NODES: Final = 200_000
_DEFAULT_DOMAINS: Final = ("", "ai.onnx")
# ONNX has withdrawn these versions of operators, and files with them are there nevertheless.
_WITHDRAWN: Final = (("GroupNormalization", 18),)


@dataclass(frozen=True)
class CleanModel:
    """A model that the ONNX checker accepts, in topological order, with what had to be mended."""

    proto: onnx.ModelProto
    opset: int
    repairs: tuple[str, ...]


def clean(model: onnx.ModelProto, where: str) -> CleanModel:
    """Return a mended copy of the model. Raises ModelError where it is not a valid ONNX model."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    if not _is_text(proto):
        raise ModelError.at(where, "a name in it is not UTF-8", "a valid ONNX model")
    external = [tensor.name for tensor in tensors_of(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    raise_all(ModelError, (Problem(f"{where}: tensor {name}", "its data is not in the model") for name in external))
    repairs: list[str] = []
    opset = _settle_opset(proto, where, repairs)
    _inline_functions(proto, where, repairs)
    _strip_initializers_from_inputs(proto, repairs)
    if proto.graph.value_info:
        del proto.graph.value_info[:]
    _check_names(proto.graph, where)
    _sort(proto.graph, where, repairs)
    _prune(proto.graph, opset, repairs)
    _name_nodes(proto.graph, repairs)
    _settle_types(proto, where, repairs)
    if all(schema_of(node, opset) for node in proto.graph.node):
        _check(proto, opset, where)
    return CleanModel(proto, opset, tuple(repairs))


def _check(proto: onnx.ModelProto, opset: int, where: str) -> None:
    """Ask the ONNX checker. It stops at the first unknown operator, so such models are left to the importer.

    It stops at withdrawn ones too, and is shown an Identity in their place; what they compute, validation compares.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    for node in shown.graph.node:
        if (schema := schema_of(node, opset)) is not None and schema.deprecated:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1], node.name))
    try:
        onnx.checker.check_model(shown)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError.at(where, f"the ONNX checker refuses it: {first_line(error)}") from error


def schema_of(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    """Return the version of ONNX's own operator that the opset decides; None for what is not ONNX's, or no more.

    Withdrawn versions that can be imported count: ONNX Runtime computes them.
    """
    if node.domain:
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated and (schema.name, schema.since_version) not in _WITHDRAWN else schema


def _is_text(message: Message) -> bool:
    """Return whether every string in a message is UTF-8; protobuf hands out the others as bytes."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            if any(isinstance(item, bytes) for item in ([value] if isinstance(value, str | bytes) else value)):
                return False
        elif field.message_type is not None and not all(
            _is_text(item) for item in ([value] if isinstance(value, Message) else value)
        ):
            return False
    return True


def _settle_opset(proto: onnx.ModelProto, where: str, repairs: list[str]) -> int:
    """Leave one opset import a domain and return the default domain's version."""
    versions: dict[str, set[int]] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain in _DEFAULT_DOMAINS else entry.domain
        versions.setdefault(domain, set()).add(entry.version)
    newest = onnx.defs.onnx_opset_version()
    found = versions.get("", set())
    if len(found) != 1:
        text = f"opsets {sorted(found)}" if found else "no opset"
        raise ModelError.at(where, f"it imports {text} of the domain ai.onnx", "one opset")
    opset = next(iter(found))
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError.at(
            where, f"opset {opset}", f"opset {OLDEST_OPSET} to {newest}", "convert it with onnx.version_converter"
        )
    if len(proto.opset_import) > len(versions):
        repairs.append("repeated opset imports were merged")
    del proto.opset_import[:]
    proto.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, each in versions.items() for version in each
    )
    for node in proto.graph.node:
        if node.domain in _DEFAULT_DOMAINS:
            node.domain = ""
    return opset


def _inline_functions(proto: onnx.ModelProto, where: str, repairs: list[str]) -> None:
    if not proto.functions:
        return
    count = _inlined_nodes(proto, where)
    if count > _MOST_INLINED_NODES:
        raise ModelError.at(where, f"its functions unfold to {count:,} nodes", f"at most {_MOST_INLINED_NODES:,}")
    try:
        inlined = inliner.inline_local_functions(proto)
    except RuntimeError as error:
        raise ModelError.at(where, f"its functions cannot be inlined: {first_line(error)}") from error
    proto.CopyFrom(inlined)
    repairs.append("model-local functions were inlined")


def _inlined_nodes(proto: onnx.ModelProto, where: str) -> int:
    """Return how many nodes the graph has once every function is inlined. Raises ModelError for recursion."""
    bodies = {(function.domain, function.name): function.node for function in proto.functions}
    called = {
        key: {call for node in nodes if (call := (node.domain, node.op_type)) in bodies}
        for key, nodes in bodies.items()
    }
    sizes: dict[tuple[str, str], int] = {}
    try:
        for key in TopologicalSorter(called).static_order():
            sizes[key] = sum(sizes.get((node.domain, node.op_type), 1) for node in bodies[key])
    except CycleError as error:
        raise ModelError.at(where, f"its function {error.args[1][0][1]} calls itself", "functions in order") from error
    return sum(sizes.get((node.domain, node.op_type), 1) for node in proto.graph.node)


def _strip_initializers_from_inputs(proto: onnx.ModelProto, repairs: list[str]) -> None:
    held = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in held]
    if len(inputs) == len(proto.graph.input):
        return
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    proto.ir_version = max(proto.ir_version, 4)
    repairs.append("initializers listed as inputs are constants")


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    """Raise ModelError for values that are defined twice, and for values that are read but defined nowhere."""
    made = [value.name for value in graph.input]
    made += [tensor.name for tensor in graph.initializer]
    made += [tensor.values.name for tensor in graph.sparse_initializer]
    made += [name for node in graph.node for name in node.output if name]
    problems = [Problem(where, f"value {name!r} is defined {n} times") for name, n in Counter(made).items() if n > 1]
    known = set(made)
    missing: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                missing.setdefault(name, f"node {node.name or node.op_type}")
    for output in graph.output:
        if output.name not in known:
            missing.setdefault(output.name, "the outputs")
    problems += [
        Problem(where, f"value {name!r}, read by {reader}, is missing", "an input, an initializer or a node's output")
        for name, reader in missing.items()
    ]
    raise_all(ModelError, problems)


def _sort(graph: onnx.GraphProto, where: str, repairs: list[str]) -> None:
    """Put the nodes in topological order, keeping the order of the file where it is one."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sources = [{maker[name] for name in _read_by(node) if name in maker} for node in graph.node]
    if all(source < index for index, each in enumerate(sources) for source in each):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(sources))).static_order())
    except CycleError as error:
        names = [graph.node[index].name or graph.node[index].op_type for index in error.args[1]]
        raise ModelError.at(where, f"a cycle through {' → '.join(names)}", "an acyclic graph") from error
    _keep(graph, order)
    repairs.append("nodes were put in topological order")


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node and its subgraphs read."""
    yield from node.input
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs]:
            for inner in body.node:
                yield from _read_by(inner)
            yield from (output.name for output in body.output)


def _prune(graph: onnx.GraphProto, opset: int, repairs: list[str]) -> None:
    """Drop the nodes that no output needs, and the optional last outputs that nothing reads."""
    needed = {output.name for output in graph.output}
    kept = []
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if needed.isdisjoint(node.output):
            continue
        kept.append(index)
        needed.update(_read_by(node))
        _drop_optional_outputs(node, opset, needed)
    if len(kept) < len(graph.node):
        repairs.append(f"{len(graph.node) - len(kept)} nodes that no output needs were dropped")
        _keep(graph, kept[::-1])


def _drop_optional_outputs(node: onnx.NodeProto, opset: int, needed: set[str]) -> None:
    schema = schema_of(node, opset)
    formal = schema.outputs if schema else ()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    while (last := len(node.output) - 1) > 0 and node.output[last] not in needed:
        if last >= len(formal) or formal[last].option != optional:
            return
        del node.output[last]


def _keep(graph: onnx.GraphProto, order: list[int]) -> None:
    nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _name_nodes(graph: onnx.GraphProto, repairs: list[str]) -> None:
    """Give every node a name of its own: that of its first output where it has none."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name or next(name for name in node.output if name)
        node.name = "".join(letter if letter.isprintable() else "_" for letter in name)
        if node.name in taken:
            node.name = f"{node.name}_{index}"
            repairs.append(f"node {node.name} had the name of another")
        taken.add(node.name)


def _settle_types(proto: onnx.ModelProto, where: str, repairs: list[str]) -> None:
    """Retype inputs that are declared double where the network computes in float.

    Outputs get a type if they have none, since the checker wants one; the importer replaces it by what it infers.
    """
    for value in proto.graph.output:
        kind = value.type.tensor_type
        kind.elem_type = kind.elem_type or onnx.TensorProto.FLOAT
        kind.shape.SetInParent()
    declared = [value for value in proto.graph.input if _elem_type(value) == onnx.TensorProto.DOUBLE]
    if not declared or _types_fit(proto):
        return
    for value in declared:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if not _types_fit(proto):
        names = ", ".join(value.name for value in declared)
        raise ModelError.at(where, f"its inputs {names} are declared double but do not fit the nodes that read them")
    repairs.extend(f"input {value.name} was declared double over float weights" for value in declared)


def _types_fit(proto: onnx.ModelProto) -> bool:
    trial = onnx.ModelProto()
    trial.CopyFrom(proto)
    for output in trial.graph.output:
        output.ClearField("type")
    try:
        shape_inference.infer_shapes(trial, check_type=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError):
        return False
    return True


def _elem_type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type
