"""The walk: a box through the nodes of an ONNX file, and rows of a specification back to where they are bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from ibpc.errors import ModelError, PropertyError
from ibpc.verify.checking.values import MACHINES, OWN_UNIT, RULES, Array, Box, Constant, Machine, Step, Value

_DOMAINS: Final = ("", "ai.onnx")
_FIRST_VERSION: Final = 7
_RANDOM: Final = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_SMALL_FLOATS: Final = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class Checker:
    """Bounds of one ONNX model at batch 1, from nothing but its file.

    Nodes whose operands are constants are evaluated once, in the types of the file, by the ONNX reference evaluator;
    their values count as what every execution computes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read the model. Raises ModelError for an operator set, element type or function it does not know."""
        self._graph = model.graph
        self._opset = _opset(model)
        self._constants: dict[str, Value] = {
            tensor.name: Constant(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer
        }
        self._inputs = [value for value in model.graph.input if value.name not in self._constants]
        self._types = _element_types(model)
        _refuse_unknown(model)
        self._nodes = _ordered(model.graph.node, {*self._constants, *(value.name for value in self._inputs)})
        self._memory: list[dict[str, Any]] = [{} for _ in self._nodes]

    def bound_rows(
        self, lowers: Sequence[Array], uppers: Sequence[Array], rows: Array, arithmetic: str
    ) -> tuple[Array, Array]:
        """Return lower and upper bounds (R,) of rows · outputs over a box.

        `lowers` and `uppers` are flat, one for each input or one for all; `rows` is (R, K) over all outputs, flat and
        one after the other. `arithmetic` is "real" or "float32": then the bounds hold for every binary32 execution in
        any summation order, and for real arithmetic. Bounds may be infinite. Raises ModelError for nodes that the
        checker does not know, PropertyError where box or rows do not fit.
        """
        machine = MACHINES[arithmetic]
        with np.errstate(all="ignore"):
            values = self._walk(self._input_boxes(np.concatenate(lowers), np.concatenate(uppers), machine), machine)
            return _bound(values, self._by_output(values, np.asarray(rows, np.float64)))

    # ── forward ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _input_boxes(self, lower: Array, upper: Array, machine: Machine) -> dict[str, Value]:
        shapes = {value.name: _shape(value) for value in self._inputs}
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        if not lower.shape == upper.shape == (sum(sizes),):
            raise PropertyError.at("box", f"{lower.size} lower and {upper.size} upper bounds", f"{sum(sizes)} of each")
        if not bool((lower <= upper).all()):
            raise PropertyError.at("box", "lower bounds above upper ones", "lower ≤ upper")
        cuts = np.cumsum(sizes)[:-1]
        return {
            name: machine.settled(Box(low.reshape(shape).astype(np.float64), high.reshape(shape).astype(np.float64)))
            for (name, shape), low, high in zip(
                shapes.items(), np.split(lower, cuts), np.split(upper, cuts), strict=True
            )
        }

    def _walk(self, boxes: dict[str, Value], machine: Machine) -> dict[str, Value]:
        """Return the values of all names, those of every node after those of its operands."""
        values = {**self._constants, **boxes}
        for number, node in enumerate(self._nodes):
            if all(name in self._constants for name in node.output if name):
                continue
            operands = tuple(values[name] if name else None for name in node.input)
            for name, value in zip(node.output, self._outputs(number, node, operands, machine), strict=False):
                if not name:
                    continue
                if isinstance(value, Constant):
                    self._constants[name] = values[name] = value
                else:
                    values[name] = machine.settled(value)
        return values

    def _outputs(
        self, number: int, node: onnx.NodeProto, operands: tuple[Value | None, ...], machine: Machine
    ) -> Sequence[Value]:
        memory = self._memory[number]
        evaluate = memory.setdefault("evaluate", _evaluator(node, self._opset))
        constants = [None if value is None else value.array for value in operands if not isinstance(value, Box)]
        if len(constants) == len(operands):
            return [Constant(np.asarray(array)) for array in evaluate(constants)]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        element_type = self._types.get(node.output[0], onnx.TensorProto.UNDEFINED)
        names = tuple(node.input)
        step = Step(node, self._opset, names, operands, attributes, machine, element_type, evaluate, memory)
        if node.op_type not in RULES:
            step.fail("it does not know the type")
        found = RULES[node.op_type](step)
        return [found] if isinstance(found, Constant | Box) else found

    def _by_output(self, values: Mapping[str, Value], rows: Array) -> dict[str, Array]:
        """Return the columns of the rows by the output that they are about."""
        names = [output.name for output in self._graph.output]
        sizes = [int(np.prod(values[name].shape)) for name in names]
        if rows.ndim != 2 or rows.shape[1] != sum(sizes):
            raise PropertyError.at("rows", f"a matrix of shape {rows.shape}", f"{sum(sizes)} columns")
        result: dict[str, Array] = {}
        for name, part in zip(names, np.split(rows, np.cumsum(sizes)[:-1], axis=1), strict=True):
            result[name] = result[name] + part if name in result else part
        return result


# ── backward ────────────────────────────────────────────────────────────────────────────────────────────────────
def _bound(values: Mapping[str, Value], rows: dict[str, Array]) -> tuple[Array, Array]:
    """Return bounds of Σ rows · value, the rows pulled back through affine functions to the boxes before them."""
    total = _Total(len(next(iter(rows.values()))))
    for name in reversed(list(values)):
        if name not in rows:
            continue
        here, value = rows.pop(name), values[name]
        if isinstance(value, Constant) or value.affine is None:
            total.add(here, value.lower.ravel(), value.upper.ravel())
            continue
        total.add(here, value.affine.offset, value.affine.offset)
        total.widen(here, value.affine.error)
        for source, pull in value.affine.pulls:
            pulled = pull(here)
            if source in rows:
                pulled = pulled + rows[source]
                total.widen(pulled, 2.0 * OWN_UNIT * values[source].magnitude.ravel())
            rows[source] = pulled
    return total.bounds()


class _Total:
    """A sum of rows over boxes with its ends, the sum of the moduli, the number of terms, and an error."""

    def __init__(self, count: int) -> None:
        self._lower, self._upper, self._moduli, self._error = np.zeros((4, count))
        self._roundings = np.zeros(count)

    def add(self, rows: Array, lower: Array, upper: Array) -> None:
        """Add rows · [lower, upper]: each coefficient takes the end that its sign asks for."""
        least = np.where(rows > 0, rows * lower, np.where(rows < 0, rows * upper, 0.0))
        most = np.where(rows > 0, rows * upper, np.where(rows < 0, rows * lower, 0.0))
        self._lower += least.sum(1)
        self._upper += most.sum(1)
        self._moduli += np.maximum(np.abs(least), np.abs(most)).sum(1)
        counted = (least != 0) | (most != 0)
        self._roundings += counted.sum(1) + (counted & (np.abs(rows) != 1)).sum(1)

    def widen(self, rows: Array, error: Array) -> None:
        """Allow each element of the value to be off by `error`."""
        self._error += np.where(rows != 0, np.abs(rows) * error, 0.0).sum(1) * (1.0 + 2.0**-20)

    def bounds(self) -> tuple[Array, Array]:
        """Return the ends, moved apart by the error and by the roundings of the sum: one term has none."""
        own = np.where(self._roundings > 1, (self._roundings + 2) * 2.0 * OWN_UNIT * self._moduli, 0.0)
        error = np.where((self._roundings > 1) | (self._error > 0), (self._error + own) * (1.0 + 2.0**-50), 0.0)
        lower = np.where(error > 0, np.nextafter(self._lower - error, -np.inf), self._lower)
        upper = np.where(error > 0, np.nextafter(self._upper + error, np.inf), self._upper)
        known = ~(np.isnan(lower) | np.isnan(upper))
        return np.where(known, lower, -np.inf), np.where(known, upper, np.inf)


# ── reading the file ────────────────────────────────────────────────────────────────────────────────────────────
def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if not versions or max(versions) < _FIRST_VERSION:
        raise ModelError.at("checker", f"operator set {max(versions, default=0)}", f"{_FIRST_VERSION} or later")
    return int(max(versions))


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of all values that shape inference can tell."""
    inferred = shape_inference.infer_shapes(model)
    graph = inferred.graph
    found = {
        value.name: int(value.type.tensor_type.elem_type) for value in (*graph.value_info, *graph.output, *graph.input)
    }
    small = sorted(name for name, kind in found.items() if kind in _SMALL_FLOATS)
    small += [tensor.name for tensor in graph.initializer if tensor.data_type in _SMALL_FLOATS]
    if small:
        raise ModelError.at("checker", f"{small[0]} is of a 16-bit floating type", "32 or 64 bits")
    return found


def _refuse_unknown(model: onnx.ModelProto) -> None:
    """Raise ModelError for operators of other domains, for random ones, and for functions."""
    for node in model.graph.node:
        if node.op_type in _RANDOM:
            raise ModelError.at(f"node {node.name}", f"{node.op_type} is random", "a function of the inputs")
        if node.domain not in _DOMAINS:
            raise ModelError.at(f"node {node.name}", f"the checker does not know {node.domain}.{node.op_type}")
    if model.functions:
        raise ModelError.at("checker", "the file defines functions of its own", "nodes of standard operators only")


def _ordered(nodes: Sequence[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes, each after those of its operands; files in the wild have them in any order.

    Raises ModelError where an operand is nobody's result.
    """
    ordered, waiting = [], list(nodes)
    while waiting:
        ready = [node for node in waiting if known.issuperset(name for name in node.input if name)]
        if not ready:
            node = waiting[0]
            raise ModelError.at(f"node {node.name or node.output[0]}", "an input that nothing computes")
        for node in ready:
            known.update(node.output)
        ordered += ready
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    return ordered


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape of an input at batch 1: a dimension without a number is 1."""
    return tuple(dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim)


def _evaluator(node: onnx.NodeProto, opset: int) -> Callable[[Sequence[NDArray[Any] | None]], list[NDArray[Any]]]:
    """Return the node alone as a function on arrays, one for each operand, by the ONNX reference evaluator."""
    made: list[ReferenceEvaluator] = []

    def evaluate(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        fed = {f"operand{slot}": array for slot, array in enumerate(arrays) if array is not None}
        try:
            if not made:
                made.append(ReferenceEvaluator(_alone(node, opset)))
            return list(made[0].run(None, fed))
        except Exception as error:  # the evaluator has no common class of errors
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            where = f"node {node.name or node.output[0]} ({node.op_type})"
            raise ModelError.at(where, f"the ONNX reference evaluator refuses it: {reason}") from error

    return evaluate


def _alone(node: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    """Return a model of one node; operands and results are named by their slots, for one may occur twice."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [f"operand{slot}" if name else "" for slot, name in enumerate(node.input)]
    copy.output[:] = [f"result{slot}" for slot in range(len(node.output))]
    graph = helper.make_graph(
        [copy],
        "node",
        [onnx.ValueInfoProto(name=name) for name in copy.input if name],
        [onnx.ValueInfoProto(name=name) for name in copy.output],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
