"""ONNX files → IR.

    read (bounded) → clean (checker, harmless defects) → trace (types, shapes, constants) → import node by node
    → validate (the nominal graph against ONNX Runtime, the reference evaluator and onnx2torch)

Each node comes in through the `reads` of an operator record, by the operator version that the file's opset decides.
The batch is found as `ibpc.frontends.onnx_batch` says. All nodes that cannot be imported are reported together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from onnx import numpy_helper

from ibpc.errors import GraphError, ModelError, Problem, nearest, raise_all
from ibpc.frontends.onnx_batch import LIFTS, RESHAPES, Form, Sizes, preferred_form, reshaping
from ibpc.frontends.onnx_build import GraphBuilder, Traced
from ibpc.frontends.onnx_clean import CleanModel, clean, schema_of
from ibpc.frontends.onnx_fold import Array, Tracer
from ibpc.frontends.onnx_load import read_model
from ibpc.frontends.onnx_types import unfit_type
from ibpc.frontends.onnx_windows import Windows
from ibpc.frontends.validate import Validation, validate
from ibpc.ir import Graph, format_shape
from ibpc.ops import operators
from ibpc.ops.base import OnnxNode, Tensor, Value

_NAMED: Final = 5


@dataclass(frozen=True)
class Translation:
    """A network that came from ONNX: the graph, the cleaned model it must agree with, and what the import did.

    `values` maps ONNX values to the nodes that compute them; `notes` say what was mended or changed.
    """

    graph: Graph
    model: onnx.ModelProto
    values: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """A network that came from ONNX and agrees with the judges of its `validation`."""

    graph: Graph
    notes: tuple[str, ...]
    validation: Validation


# ── the interface ───────────────────────────────────────────────────────────────────────────────────────────────
def load_onnx(path: str | Path) -> Graph:
    """Return the network in an `.onnx` or `.onnx.gz` file. Raises ModelError."""
    return import_onnx(path).graph


def import_onnx(path: str | Path) -> Imported:
    """Return the network in a file, with what was mended and how it was validated. Raises ModelError."""
    path = Path(path)
    return import_model(read_model(path), str(path))


def graph_from_onnx(model: onnx.ModelProto, where: str) -> Graph:
    """Return the network of a model in memory. `where` names it in errors. Raises ModelError."""
    return import_model(model, where).graph


def import_model(model: onnx.ModelProto, where: str) -> Imported:
    """Return the network of a model in memory, validated. Raises ModelError."""
    found = translate(model, where)
    return Imported(found.graph, found.notes, validate(found.model, found.graph, where, values=found.values))


def translate(model: onnx.ModelProto, where: str) -> Translation:
    """Return the network of a model without validating it. Raises ModelError with every node that does not fit."""
    return _Importer(clean(model, where), where).run()


# ── the importer ────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class _Entry:
    """An ONNX value that depends on an input: its ONNX shape at batch 1 and its IR values by form."""

    sizes: Sizes
    forms: dict[Form, Traced]

    @property
    def form(self) -> Form:
        """The form in which the value came out of its node."""
        return next(iter(self.forms))


class _Importer:
    def __init__(self, model: CleanModel, where: str) -> None:
        self._model = model
        self._where = where
        self._graph = Graph(_network_name(where))
        self._builder = GraphBuilder(self._graph)
        self._tracer = Tracer(model.proto, model.opset, where)
        self._windows = Windows(model.proto.graph, self._tracer.values)
        self._constants: dict[str, Traced] = {}
        self._entries: dict[str, _Entry] = {}
        self._refused: dict[tuple[str, str], list[str]] = {}
        graph = model.proto.graph
        self._needed = {value.name for value in graph.output} | {name for node in graph.node for name in node.input}
        self._named = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
        self._readings = {reading.type: reading for record in operators().values() for reading in record.reads}

    def run(self) -> Translation:
        """Import everything. Raises ModelError with all problems."""
        graph = self._model.proto.graph
        if not graph.input:
            raise ModelError.at(self._where, "it has no input", "at least one input that is no initializer")
        if not graph.output:
            raise ModelError.at(self._where, "it has no output", "at least one output")
        self._builder.start("input", ())
        for value in graph.input:
            self._import_input(value.name)
        for node in graph.node:
            for part in self._parts(node):
                self._import_node(part)
        raise_all(ModelError, self._problems())
        self._graph.outputs = tuple(self._output(value.name) for value in graph.output)
        self._finish()
        notes = (*self._model.repairs, *self._rounding(), *self._settle_outputs())
        return Translation(self._graph, self._model.proto, self._node_names(), notes)

    def _import_input(self, name: str) -> None:
        sizes = self._tracer.values[name].shape
        form = preferred_form(sizes)
        self._entries[name] = _Entry(sizes, {form: self._builder.input(name, form.shape(sizes))})

    def _parts(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        """Return the nodes to import in place of one: others where it has to do with windows at computed positions."""
        if not self._windows.concerns(node):
            return [node]
        try:
            return self._windows.rewritten(node)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # no shape inference has seen the node
            self._report(node, str(error))
            return []

    def _import_node(self, node: onnx.NodeProto) -> None:
        if any(name not in self._tracer.values for name in node.input if name):
            return  # what it reads has been refused, so nothing can be said about it
        constant = self._tracer.is_constant(node)
        fault = None if constant else self._unsupported(node)
        try:
            self._tracer.trace(node)
            if fault is None and not constant:
                fault = self._unsupported_type(node)
        except ValueError as error:
            fault = fault or str(error)
        if fault is not None:
            self._report(node, fault)
        elif not constant and all(self._is_built(name) for name in node.input if name):
            self._read(node)

    def _is_built(self, name: str) -> bool:
        return name in self._entries or self._is_known(name)

    def _report(self, node: onnx.NodeProto, reason: str) -> None:
        version = self._version(node)
        kind = (
            f"{node.domain}.{node.op_type}" if node.domain else f"{node.op_type}-{version}" if version else node.op_type
        )
        self._refused.setdefault((kind, reason), []).append(node.name)

    def _problems(self) -> Iterator[Problem]:
        """Yield what was reported, one problem for all nodes of a kind that share a reason."""
        for (kind, reason), names in self._refused.items():
            listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            yield Problem(f"{self._where}: node{'s' * (len(names) > 1)} {listed} ({kind})", reason)
        for value in self._model.proto.graph.output:
            if value.name in self._windows:
                found = "its shape depends on numbers that the network computes"
                yield Problem(f"{self._where}: output {value.name}", found, "a static shape")

    def _version(self, node: onnx.NodeProto) -> int:
        """Return the operator version that the file's opset decides, 0 for what is not ONNX's."""
        schema = schema_of(node, self._model.opset)
        return schema.since_version if schema else 0

    def _unsupported(self, node: onnx.NodeProto) -> str | None:
        """Return why no operator can import the node, if so."""
        version, reading = self._version(node), self._readings.get(node.op_type)
        if node.domain:
            return f"operators of the domain {node.domain!r} are not supported; expected ai.onnx"
        if not version:
            return f"opset {self._model.opset} has no such operator; {nearest(node.op_type, _onnx_types())}"
        if reading is None:
            return "the operator is not supported; 'ibpc ops' lists those that are"
        if version not in reading.versions:
            listed = ", ".join(str(each) for each in reading.versions)
            return f"version {version} of the operator is not supported; expected one of {listed}"
        return None

    def _unsupported_type(self, node: onnx.NodeProto) -> str | None:
        """Return which type of number the node computes in, if it is none of the network's."""
        return unfit_type(node.op_type, {self._tracer.values[name].elem_type for name in node.output if name})

    # ── one node ────────────────────────────────────────────────────────────────────────────────────────────────
    def _read(self, node: onnx.NodeProto) -> None:
        """Import the node in the first form that fits its operands and results."""
        outputs = tuple(self._tracer.values[name].shape for name in node.output if name)
        reasons: list[str] = []
        for form in self._forms(node, outputs):
            self._builder.start(node.name, (self._constant(name) for name in node.input if self._is_known(name)))
            try:
                results = self._read_as(form, node, outputs)
            except (GraphError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
                self._forget(self._builder.undo())
                reasons += [reason for reason in _reasons(error) if reason not in reasons]
                continue
            for name, entry in zip((name for name in node.output if name), results, strict=True):
                self._entries[name] = entry
            return
        self._report(node, "; or ".join(reasons) or "it needs a batch in dimension 0 of its inputs and outputs")

    def _forms(self, node: onnx.NodeProto, outputs: tuple[Sizes, ...]) -> list[Form]:
        """Return the forms to try: the one that more operands already have comes first."""
        operands = [self._entries[name] for name in node.input if name in self._entries]
        batched = all(Form.BATCHED.admits(sizes) for sizes in (*outputs, *(entry.sizes for entry in operands)))
        sample = node.op_type in LIFTS
        first = Form.BATCHED if any(entry.form is Form.BATCHED for entry in operands) else Form.SAMPLE
        second = Form.SAMPLE if first is Form.BATCHED else Form.BATCHED
        return [form for form in (first, second) if (batched if form is Form.BATCHED else sample)]

    def _read_as(self, form: Form, node: onnx.NodeProto, outputs: tuple[Sizes, ...]) -> list[_Entry]:
        inputs = tuple(self._operand(name, form) if name else None for name in node.input)
        types = tuple(self._tracer.values[name].elem_type if name else 0 for name in node.input)
        unread = frozenset(slot for slot, name in enumerate(node.output) if name not in self._needed)
        version, attributes = self._version(node), self._attributes(node)
        seen = OnnxNode(node.name, node.op_type, version, attributes, inputs, len(node.output), types, unread)
        if form is Form.SAMPLE and node.op_type in RESHAPES:
            form = preferred_form(outputs[0])
            source = self._any_form(node.input[0])
            seen = reshaping(replace(seen, inputs=(source,)), self._builder, form.shape(outputs[0])[1:])
        elif form is Form.SAMPLE:
            seen = LIFTS[node.op_type](seen, self._builder, outputs)
        elif node.op_type == "Reshape":
            seen = reshaping(seen, self._builder, outputs[0][1:])
        results = self._readings[seen.type].read(seen, self._builder)
        values = results if isinstance(results, tuple) else (results,)
        named = [slot for slot, name in enumerate(node.output) if name]
        if len(values) < len(named) and unread.issuperset(named[len(values) :]):
            values += (values[0],) * (len(named) - len(values))
        if len(values) != len(outputs):
            raise GraphError.at(node.name, f"{len(outputs)} outputs are used", f"{len(values)}")
        return [_entry(value, form, sizes) for value, sizes in zip(values, outputs, strict=True)]

    def _is_known(self, name: str) -> bool:
        return bool(name) and self._tracer.values[name].constant is not None

    def _operand(self, name: str, form: Form) -> Traced:
        """Return an ONNX value in a form. Constants keep the shape of the file."""
        return self._constant(name) if self._is_known(name) else self._as_form(self._entries[name], form)

    def _as_form(self, entry: _Entry, form: Form) -> Traced:
        if form not in entry.forms:
            value, shape = entry.forms[entry.form], form.shape(entry.sizes)
            if value.shape == shape:
                return value
            result = self._builder.add("Reshape", [value], {"shape": list(shape[1:])})
            assert isinstance(result, Traced)
            entry.forms[form] = result
        return entry.forms[form]

    def _forget(self, nodes: frozenset[str]) -> None:
        for entry in self._entries.values():
            entry.forms = {form: value for form, value in entry.forms.items() if value.node not in nodes}

    def _any_form(self, name: str) -> Traced:
        entry = self._entries[name]
        return entry.forms[entry.form]

    def _constant(self, name: str) -> Traced:
        """Return a constant, one tensor for all its uses."""
        if name not in self._constants:
            array = self._tracer.values[name].constant
            assert array is not None
            tensor = _tensor(array)
            self._constants[name] = Traced(tuple(tensor.shape), tensor, origin=name)
        return self._constants[name]

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return the attributes as python values, the defaults of the operator version filled in."""
        schema = schema_of(node, self._model.opset)
        defaults = [attribute.default_value for attribute in schema.attributes.values()] if schema else []
        given = [default for default in defaults if default.type != onnx.AttributeProto.UNDEFINED]
        return {attribute.name: _plain(attribute) for attribute in [*given, *node.attribute]}

    # ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────
    def _output(self, name: str) -> str:
        self._builder.start(name, ())
        try:
            if self._is_known(name):
                return self._spread(name)
            entry = self._entries[name]
            preferred = preferred_form(entry.sizes)
            return self._as_form(entry, preferred).node if preferred is Form.BATCHED else self._any_form(name).node
        except GraphError as error:
            raise ModelError(
                replace(problem, where=f"{self._where}: output {name}") for problem in error.problems
            ) from error

    def _spread(self, name: str) -> str:
        """Return a node that has a constant for every sample: 0·x + c, since what leaves the network has the batch."""
        constant = self._constant(name)
        assert constant.constant is not None
        value = next(iter(self._entries[self._model.proto.graph.input[0].name].forms.values()))
        flat = self._builder.add("Flatten", [value])
        bias = constant.constant.flatten().float()
        weight = torch.zeros(bias.numel(), flat.shape[1])
        row = self._builder.add("Gemm", [flat], {}, {"weight": weight, "bias": bias})
        shape = preferred_form(constant.shape).shape(constant.shape)
        result = row if row.shape == shape else self._builder.add("Reshape", [row], {"shape": list(shape[1:])})
        assert isinstance(result, Traced)
        return result.node

    def _finish(self) -> None:
        """State what the network's hints are and verify the graph."""
        shape = self._graph.node(self._graph.outputs[0]).shape
        if len(shape) == 2:
            self._graph.hints["classes"] = shape[1]
        try:
            self._graph.verify(operators())
        except GraphError as error:
            raise ModelError(
                replace(problem, where=f"{self._where}: {problem.where}") for problem in error.problems
            ) from error

    def _rounding(self) -> list[str]:
        """Return the note on double precision, if the file computes in it."""
        computed = {known.elem_type for known in self._tracer.values.values() if known.constant is None}
        double = onnx.TensorProto.DOUBLE in computed
        return ["it computes in double precision; the network rounds its weights to float32"] if double else []

    def _settle_outputs(self) -> Iterator[str]:
        """Declare the outputs of the model as what they are, without a shape; yield what was declared wrongly."""
        for value in self._model.proto.graph.output:
            known, declared = self._tracer.values[value.name], value.type.tensor_type
            sizes = [dim.dim_value or None for dim in declared.shape.dim]
            fits = len(sizes) in (0, len(known.shape)) and all(
                size in (None, real) for size, real in zip(sizes, known.shape, strict=False)
            )
            if declared.elem_type != known.elem_type or not fits:
                yield f"output {value.name} was declared wrongly"
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, known.elem_type, None))

    def _node_names(self) -> dict[str, str]:
        """Return the nodes of the file's own values, less windows, which have another shape there."""
        return {
            name: next(iter(entry.forms.values())).node
            for name, entry in self._entries.items()
            if name in self._named and name not in self._windows
        }


def _onnx_types() -> frozenset[str]:
    """Return all operator types of the domain ai.onnx that the installed onnx knows."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain)


def _entry(value: Value, form: Form, sizes: Sizes) -> _Entry:
    """Return the entry of a result. Raises GraphError where it has not the shape that ONNX gives it."""
    assert isinstance(value, Traced)
    shape = form.shape(sizes)
    if value.constant is not None or value.shape != shape:
        raise GraphError.at("result", f"its result is {format_shape(value.shape)}", f"{format_shape(shape)}")
    return _Entry(sizes, {form: value})


def _reasons(error: Exception) -> list[str]:
    """Return why a node was refused, without the place, which the caller knows."""
    if not isinstance(error, GraphError):
        return [f"its attributes or inputs do not fit together ({type(error).__name__}: {str(error)[:200]})"]
    return [str(problem).removeprefix(f"{problem.where}: ") for problem in error.problems]


def _tensor(array: Array) -> Tensor:
    """Return a numpy array as a tensor of its own: unsigned integers as int64, 16-bit floats as they are."""
    if array.dtype.kind == "u":
        array = array.astype("int64")
    return torch.from_numpy(array.copy())


def _plain(attribute: onnx.AttributeProto) -> Any:
    """Return an attribute as a python value. Raises ValueError for text that is not UTF-8."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return _tensor(numpy_helper.to_array(value))
    if isinstance(value, str | int | float):
        return value
    return [item.decode() if isinstance(item, bytes) else item for item in value]


def _network_name(where: str) -> str:
    """Return the network's name: the file's name without its endings."""
    name = Path(where).name
    return name.removesuffix(".gz").removesuffix(".onnx") or "network"
