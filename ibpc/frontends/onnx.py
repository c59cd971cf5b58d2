"""ONNX files → IR.

    read (bounded) → clean (checker, harmless defects) → trace (types, shapes, constants) → import node by node
    → validate (the nominal graph against ONNX Runtime, the reference evaluator and onnx2torch)

Each node comes in through the `reads` of an operator record, by the operator version that the file's opset decides.
The batch is found as `ibpc.frontends.onnx_batch` says. All nodes that cannot be imported are reported together.

What depends on no input is a number, except where runtimes may round it differently: that is computed in the network,
from a Spread on, so that it has bounds. Where a rule needs the number, the graph's hint INEXACT says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import numpy_helper

from ibpc.errors import GraphError, ModelError, Problem, first_line, raise_all
from ibpc.frontends.onnx_batch import LIFTS, Form, Sizes, preferred_form, reshaping
from ibpc.frontends.onnx_build import GraphBuilder
from ibpc.frontends.onnx_clean import CleanModel, clean, schema_of
from ibpc.frontends.onnx_fold import Tracer
from ibpc.frontends.onnx_load import read_model
from ibpc.frontends.onnx_support import Refusals, Support
from ibpc.frontends.onnx_types import may_wrap, unfit_type
from ibpc.frontends.onnx_values import BuiltValues, Entry, tensor_of
from ibpc.frontends.onnx_windows import Windows
from ibpc.frontends.validate import Validation, validate
from ibpc.hints import INEXACT, NARROWED
from ibpc.ir import VIEWS, Graph
from ibpc.ops import operators
from ibpc.ops.element_types import NAMES
from ibpc.ops.onnx import OnnxNode, Value

# Constants with more elements are not bounded.
_MOST_BOUNDED: Final = 2**16


class Constants(Enum):
    """What a constant is that runtimes may compute differently: bounded, or the number that it is here."""

    BOUNDED = "bounded"
    GIVEN = "given"


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
def import_onnx(path: str | Path) -> Imported:
    """Return the network in a file, with what was mended and how it was validated. Raises ModelError."""
    path = Path(path)
    return import_model(read_model(path), str(path))


def graph_from_onnx(model: onnx.ModelProto, where: str, constants: Constants = Constants.BOUNDED) -> Graph:
    """Return the network of a model in memory. `where` names it in errors. Raises ModelError."""
    return import_model(model, where, constants).graph


def import_model(model: onnx.ModelProto, where: str, constants: Constants = Constants.BOUNDED) -> Imported:
    """Return the network of a model in memory, validated. Raises ModelError."""
    found = translate(model, where, constants)
    return Imported(found.graph, found.notes, validate(found.model, found.graph, where, values=found.values))


def translate(model: onnx.ModelProto, where: str, constants: Constants = Constants.BOUNDED) -> Translation:
    """Return the network of a model without validating it. Raises ModelError with every node that does not fit."""
    return _Importer(clean(model, where), where, constants).run()


# ── the importer ────────────────────────────────────────────────────────────────────────────────────────────────
class _Importer:
    def __init__(self, model: CleanModel, where: str, constants: Constants) -> None:
        self._model = model
        self._where = where
        self._constants = constants
        self._doubtful: str | None = None
        self._graph = Graph(_network_name(where))
        self._builder = GraphBuilder(self._graph)
        self._tracer = Tracer(model.proto, model.opset, where)
        self._windows = Windows(model.proto.graph, self._tracer.values)
        self._values = BuiltValues(self._builder, self._tracer)
        self._support = Support(model.opset)
        self._refusals = Refusals(self._support)
        graph = model.proto.graph
        self._needed = {value.name for value in graph.output} | {name for node in graph.node for name in node.input}
        self._named = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}

    def run(self) -> Translation:
        """Import everything. Raises ModelError with all problems."""
        graph = self._model.proto.graph
        if not graph.input:
            raise ModelError.at(self._where, "it has no input", "at least one input that is no initializer")
        if not graph.output:
            raise ModelError.at(self._where, "it has no output", "at least one output")
        self._builder.start("input", ())
        for value in graph.input:
            self._values.add_input(value.name)
        for node in graph.node:
            for part in self._parts(node):
                self._import_node(part)
        raise_all(ModelError, self._problems())
        self._graph.outputs = tuple(self._output(value.name) for value in graph.output)
        self._finish()
        notes = (*self._model.repairs, *self._rounding(), *self._quantized(), *self._inexact(), *self._settle_outputs())
        return Translation(self._graph, self._model.proto, self._node_names(), notes)

    def _parts(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        """Return the nodes to import in place of one: others where it has to do with windows at computed positions."""
        if not self._windows.concerns(node):
            return [node]
        named = [name for name in node.input if name in self._tracer.values]
        self._doubtful = self._doubtful or self._inexact_number(named)  # what is rewritten may not read it
        try:
            return self._windows.rewritten(node)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # no shape inference has seen the node
            self._refusals.add(node, str(error))
            return []

    def _import_node(self, node: onnx.NodeProto) -> None:
        if any(name not in self._tracer.values for name in node.input if name):
            return  # what it reads has been refused, so nothing can be said about it
        constant = self._tracer.is_constant(node)
        fault = None if constant else self._support.lacking(node)
        try:
            self._tracer.trace(node)
            if fault is None and not constant:
                types = {self._tracer.values[name].elem_type for name in node.output if name}
                fault = unfit_type(node.op_type, types)
        except ValueError as error:
            fault = fault or str(error)
        if fault is not None:
            self._refusals.add(node, fault)
        elif constant:
            self._bound(node)
        elif all(name in self._values for name in node.input if name):
            self._read(node)

    def _problems(self) -> Iterator[Problem]:
        """Yield what was refused, and outputs that have no static shape."""
        yield from self._refusals.problems(self._where)
        for value in self._model.proto.graph.output:
            if value.name in self._windows:
                found = "its shape depends on numbers that the network computes"
                yield Problem(f"{self._where}: output {value.name}", found, "a static shape")

    # ── one node ────────────────────────────────────────────────────────────────────────────────────────────────
    def _read(self, node: onnx.NodeProto) -> None:
        """Import a node that depends on an input. Where it must know a constant, that is a number and not bounded."""
        reasons = self._try(node)
        if reasons and self._values.settle(node.input):
            reasons = self._try(node)
        if reasons:
            self._refusals.add(node, "; or ".join(reasons))
        else:
            self._doubtful = self._doubtful or self._inexact_number(node.input)

    def _try(self, node: onnx.NodeProto) -> list[str]:
        """Import a node in the first form that fits its operands and results; return why none does, if so."""
        outputs = tuple(self._tracer.values[name].shape for name in node.output if name)
        reasons: list[str] = []
        for form in self._forms(node, outputs):
            self._builder.start(node.name, self._values.constants(node.input))
            try:
                results = self._read_as(form, node, outputs)
            except (GraphError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
                self._values.forget(self._builder.undo())
                reasons += [reason for reason in _reasons(error) if reason not in reasons]
                continue
            for name, entry in zip((name for name in node.output if name), results, strict=True):
                self._values.entries[name] = entry
            return []
        return reasons or ["it needs a batch in dimension 0 of its inputs and outputs"]

    def _forms(self, node: onnx.NodeProto, outputs: tuple[Sizes, ...]) -> list[Form]:
        """Return the forms to try: the one that more operands already have comes first."""
        operands = [self._values.entries[name] for name in node.input if name in self._values.entries]
        batched = all(Form.BATCHED.admits(sizes) for sizes in (*outputs, *(entry.sizes for entry in operands)))
        sample = node.op_type in LIFTS
        first = Form.BATCHED if any(entry.form is Form.BATCHED for entry in operands) else Form.SAMPLE
        second = Form.SAMPLE if first is Form.BATCHED else Form.BATCHED
        return [form for form in (first, second) if (batched if form is Form.BATCHED else sample)]

    def _read_as(self, form: Form, node: onnx.NodeProto, outputs: tuple[Sizes, ...]) -> list[Entry]:
        inputs = tuple(self._values.in_form(name, form) if name else None for name in node.input)
        types = tuple(self._tracer.values[name].elem_type if name else 0 for name in node.input)
        unread = frozenset(slot for slot, name in enumerate(node.output) if name not in self._needed)
        version, attributes = self._support.version(node), self._attributes(node)
        seen = OnnxNode(node.name, node.op_type, version, attributes, inputs, len(node.output), types, unread)
        if form is Form.SAMPLE and node.op_type in VIEWS:
            form = preferred_form(outputs[0])
            source = self._values.entries[node.input[0]].made
            seen = reshaping(replace(seen, inputs=(source,)), self._builder, form.shape(outputs[0])[1:])
        elif form is Form.SAMPLE:
            seen = LIFTS[node.op_type](seen, self._builder, outputs)
        elif node.op_type == "Reshape":
            seen = reshaping(seen, self._builder, outputs[0][1:])
        results = self._support.readings[seen.type].read(seen, self._builder)
        values = results if isinstance(results, tuple) else (results,)
        named = [slot for slot, name in enumerate(node.output) if name]
        if len(values) < len(named) and unread.issuperset(named[len(values) :]):
            values += (values[0],) * (len(named) - len(values))
        if len(values) != len(outputs):
            raise GraphError.at(node.name, f"{len(outputs)} outputs are used", f"{len(values)}")
        kept = [self._in_range(node, slot, value) for slot, value in zip(named, values, strict=True)]
        return [Entry.of(value, form, sizes) for value, sizes in zip(kept, outputs, strict=True)]

    def _in_range(self, node: onnx.NodeProto, slot: int, value: Value) -> Value:
        """Return a result, behind a check where it is made of integers that may wrap round."""
        element_type = self._tracer.values[node.output[slot]].elem_type
        if value.constant is not None or not may_wrap(node.op_type, element_type):
            return value
        return self._builder.add("InRange", [value], {"type": NAMES[element_type]})

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return the attributes as python values, the defaults of the operator version filled in."""
        schema = schema_of(node, self._model.opset)
        defaults = [attribute.default_value for attribute in schema.attributes.values()] if schema else []
        given = [default for default in defaults if default.type != onnx.AttributeProto.UNDEFINED]
        return {attribute.name: _plain(attribute) for attribute in [*given, *node.attribute]}

    # ── constants that runtimes may compute differently ─────────────────────────────────────────────────────────────
    def _bound(self, node: onnx.NodeProto) -> None:
        """Import a node of constants, if runtimes may compute it differently, as one that the network computes.

        One operand at least must be a value of the network: if none is, the first is made one for this node alone. What
        cannot be imported stays a number.
        """
        if self._inexact_number(node.output) is None or self._inexact_number(node.input) is not None:
            return
        if self._support.lacking(node) is not None or not all(map(self._may_be_bounded, filter(None, node.output))):
            return
        if any(name in self._values.entries for name in node.input):
            self._try(node)
        elif node.input and node.input[0] and self._may_be_bounded(node.input[0]):
            self._bound_from(node, node.input[0])

    def _bound_from(self, node: onnx.NodeProto, operand: str) -> None:
        """Import a node of constants, one of which every sample has here."""
        self._builder.start(node.name, ())
        spread = self._values.entries[operand] = self._values.spread(operand)
        reasons = self._try(node)
        del self._values.entries[operand]
        if reasons:
            self._graph.remove(spread.made.node)

    def _may_be_bounded(self, name: str) -> bool:
        """Return whether a constant may be bounded element by element."""
        known = self._tracer.values[name]
        return known.elem_type == onnx.TensorProto.FLOAT and prod(known.shape) <= _MOST_BOUNDED

    def _inexact_number(self, names: Iterable[str]) -> str | None:
        """Return the first of some values that is a number here, which runtimes may compute differently."""
        if self._constants is Constants.GIVEN:
            return None
        return self._tracer.inexact(name for name in names if name not in self._values.entries)

    # ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────
    def _output(self, name: str) -> str:
        self._builder.start(name, ())
        try:
            if self._values.is_constant(name):
                return self._values.spread(name).made.node
            entry = self._values.entries[name]
            preferred = preferred_form(entry.sizes)
            return (self._values.in_form(name, preferred) if preferred is Form.BATCHED else entry.made).node
        except GraphError as error:
            raise ModelError(
                replace(problem, where=f"{self._where}: output {name}") for problem in error.problems
            ) from error

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
        return [NARROWED] if double else []

    def _quantized(self) -> list[str]:
        """Return the note on quantized layers, if the file has any."""
        if all(node.op_type != "QuantizeLinear" for node in self._model.proto.graph.node):
            return []
        return [
            "ONNX Runtime computes quantized layers in integers unless its graph optimizations are off, and outputs "
            "may then be others by whole quanta: all claims are about the operators as they stand in the file"
        ]

    def _inexact(self) -> Iterator[str]:
        """Hint at a constant that executions may not share, and yield a note on it."""
        name = self._doubtful or self._inexact_number(each.name for each in self._model.proto.graph.output)
        if name is not None:
            self._graph.hints[INEXACT] = name
            yield (
                f"{name} is a constant that runtimes may round differently: nothing is proved in float32 arithmetic; "
                "store it as a number (constant folding, such as onnxsim's), or claim real arithmetic"
            )

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
        """Return the nodes of the file's own values, except windows, which have another shape there."""
        return {
            name: entry.made.node
            for name, entry in self._values.entries.items()
            if name in self._named and name not in self._windows
        }


def _reasons(error: Exception) -> list[str]:
    """Return why a node was refused, without the place, which the caller knows."""
    if not isinstance(error, GraphError):
        return [f"its attributes or inputs do not fit together ({type(error).__name__}: {first_line(error)})"]
    return [str(problem).removeprefix(f"{problem.where}: ") for problem in error.problems]


def _plain(attribute: onnx.AttributeProto) -> Any:
    """Return an attribute as a python value. Raises ValueError for text that is not UTF-8."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return tensor_of(numpy_helper.to_array(value))
    if isinstance(value, str | int | float):
        return value
    return [item.decode() if isinstance(item, bytes) else item for item in value]


def _network_name(where: str) -> str:
    """Return the network's name: the file's name without its endings."""
    name = Path(where).name
    return name.removesuffix(".gz").removesuffix(".onnx") or "network"
