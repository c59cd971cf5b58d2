"""The walk: a box through the nodes of an ONNX file, and rows of a specification back to where they are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from ibpc.errors import IbpcError, ModelError, PropertyError
from ibpc.verify.checking.backward import affine_bounds, linear_bounds, tightened
from ibpc.verify.checking.planes import PLANES, bent
from ibpc.verify.checking.positions import is_cut, written
from ibpc.verify.checking.values import (
    MACHINES,
    RULES,
    Array,
    Box,
    Constant,
    Machine,
    Step,
    Value,
    unknown,
    unless,
    unwrapped,
)

Prepare: TypeAlias = Callable[[dict[str, Value], onnx.NodeProto], Iterable[str]]

_DOMAINS: Final = ("", "ai.onnx")
_FIRST_VERSION: Final = 7
_LAST_VERSION: Final = 28
_RANDOM: Final = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
# Types that are affine where the sign of the operand is known.
_KINKED: Final = ("Relu", "LeakyRelu", "PRelu", "Abs")
_SMALL_FLOATS: Final = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class EmptyError(IbpcError):
    """Nothing lies in a region: a value would have to lie above its upper bound."""


@dataclass(frozen=True, eq=False)
class Region:
    """A box of inputs, flat, and what else is known there of values: boxes, and signs of single elements.

    A sign (name, element, side) says side · value ≥ 0 of a flat element, with side 1 or −1. `choices` are those of
    `linear_bounds` for all rows, flat.
    """

    lower: Array
    upper: Array
    known: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    signs: tuple[tuple[str, int, int], ...] = ()
    choices: Mapping[str, Array] = field(default_factory=dict)
    is_empty: bool = False

    @property
    def signs_by_value(self) -> dict[str, list[tuple[int, int]]]:
        """The elements and sides of each value that has signs."""
        result: dict[str, list[tuple[int, int]]] = {}
        for name, element, side in self.signs:
            result.setdefault(name, []).append((element, side))
        return result


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
        self._input_names = frozenset(value.name for value in self._inputs)
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
        region = Region(np.concatenate(lowers), np.concatenate(uppers))
        with np.errstate(all="ignore"):
            values = self.values(region, arithmetic)
            return affine_bounds(values, self._by_output(values, np.asarray(rows, np.float64)))

    def computes(self, name: str) -> bool:
        """Whether the model has a value of that name which is no constant of the file."""
        return name in self._input_names or any(name in node.output for node in self._nodes)

    def values(self, region: Region, arithmetic: str) -> dict[str, Value]:
        """Return what all values can be in a region, in order. Raises EmptyError where one can be nothing."""
        with np.errstate(all="ignore"):
            return self._walk(region, MACHINES[arithmetic], _as_they_are)

    def tightened(self, region: Region, arithmetic: str) -> Region:
        """Return the region with the boxes in front of nonlinear functions bounded by planes too, and kept.

        Planes are picked by the choices of the region. Raises EmptyError where a value can be nothing.
        """
        done: set[str] = set()

        def tighten(values: dict[str, Value], node: onnx.NodeProto) -> Iterator[str]:
            """Tighten the operands of a node that is not affine; yield which were."""
            for name in dict.fromkeys(node.input):
                value = values.get(name)
                if not isinstance(value, Box) or name in self._input_names or name in done:
                    continue
                done.add(name)
                chosen = self._shaped(values, {n: c for n, c in region.choices.items() if n in values})
                values[name] = _held(name, tightened(values, name, node.op_type in _KINKED, chosen))
                yield name

        with np.errstate(all="ignore"):
            values = self._walk(region, MACHINES[arithmetic], tighten)
        boxes = {name: values[name] for name in done}
        return replace(region, known={**region.known, **{n: (box.lower, box.upper) for n, box in boxes.items()}})

    def lower_bound(
        self,
        region: Region,
        row: Array,
        arithmetic: str,
        multipliers: Sequence[float] = (),
        choices: Mapping[str, Array] = MappingProxyType({}),
    ) -> float:
        """Return a lower bound of row · outputs in a region, infinite where there is nothing in it.

        `multipliers` β ≥ 0, one for each sign of the region: where s·v ≥ 0, a row is at least itself minus β s·v.
        `choices` are those of `linear_bounds`, flat, in place of the region's own. Raises ModelError where they do not
        fit.
        """
        with np.errstate(all="ignore"):
            try:
                values = None if region.is_empty else self.values(region, arithmetic)
            except EmptyError:
                values = None
            if values is None:
                return np.inf
            rows = self._by_output(values, np.asarray(row, np.float64)[None])
            plain = affine_bounds(values, dict(rows))[0]
            for (name, element, side), multiplier in zip(region.signs, multipliers, strict=False):
                rows[name] = rows[name].copy() if name in rows else np.zeros((1, values[name].magnitude.size))
                rows[name][0, element] -= multiplier * side
            return float(
                max(plain[0], linear_bounds(values, rows, self._shaped(values, {**region.choices, **choices}))[0])
            )

    def _shaped(self, values: Mapping[str, Value], choices: Mapping[str, Array]) -> dict[str, Array]:
        """Return choices of one row, for each value one number an element or two."""
        shaped: dict[str, Array] = {}
        for name, numbers in choices.items():
            value = values.get(name)
            size = value.lower.size if isinstance(value, Box) else 0
            if numbers.size not in (size, 2 * size) or not bool(((numbers >= 0) & (numbers <= 1)).all()):
                raise ModelError.at("proof", f"choices for {name} that do not fit", "numbers of [0, 1]")
            shaped[name] = numbers.reshape((1, size) if numbers.size == size else (1, 2, size))
        return shaped

    # ── forward ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _input_boxes(self, lower: Array, upper: Array, machine: Machine) -> dict[str, Box]:
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

    def _walk(self, region: Region, machine: Machine, prepare: Prepare) -> dict[str, Value]:
        """Return the values of all names, those of every node after those of its operands.

        `prepare` may change the operands of a node that is not affine; then the node is bounded again. What depends on
        a window at a computed position has no value until it is written to a tensor of static shape.
        """
        signs = region.signs_by_value
        pending: set[str] = set()
        values: dict[str, Value] = dict(self._constants)
        for name, box in self._input_boxes(region.lower, region.upper, machine).items():
            values[name] = _within(name, box, region, signs, machine)
        for number, node in enumerate(self._nodes):
            if all(name in self._constants for name in node.output if name):
                continue
            if is_cut(node, values) or not pending.isdisjoint(node.input):
                if node.op_type != "ScatterND" or node.input[0] in pending:
                    pending.update(name for name in node.output if name)
                    continue
                box = machine.settled(written(node, self._nodes, self._opset, values, self._types))
                values[node.output[0]] = _within(node.output[0], box, region, signs, machine)
                continue
            found = self._outputs(number, node, tuple(values[name] if name else None for name in node.input), machine)
            if any(isinstance(value, Box) and value.affine is None for value in found) and any(prepare(values, node)):
                operands = tuple(values[name] if name else None for name in node.input)
                found = self._outputs(number, node, operands, machine)
            for name, value in zip(node.output, found, strict=False):
                if not name:
                    continue
                if isinstance(value, Constant):
                    self._constants[name] = values[name] = value
                else:
                    whole = unwrapped(value, self._types.get(name, onnx.TensorProto.UNDEFINED))
                    values[name] = _within(name, machine.settled(whole), region, signs, machine)
        for output in self._graph.output:
            if output.name in pending:
                raise ModelError.at(f"output {output.name}", "its shape depends on numbers that the network computes")
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
        if isinstance(found, Box) and found.affine is None and node.op_type in PLANES:
            return [replace(found, bend=cache(partial(bent, step, found)))]
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


def _as_they_are(_values: dict[str, Value], _node: onnx.NodeProto) -> Iterable[str]:
    """Change no operand."""
    return ()


# ── regions ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _within(
    name: str, box: Box, region: Region, signs: Mapping[str, Sequence[tuple[int, int]]], machine: Machine
) -> Box:
    """Return the box of a value with what its region knows of it. Raises EmptyError.

    What may be no number is on neither side of a cut, so its sign does not say anything of it.
    """
    if name not in region.known and name not in signs:
        return box
    lower, upper = box.lower.copy(), box.upper.copy()
    if name in region.known:
        lower, upper = np.maximum(lower, region.known[name][0]), np.minimum(upper, region.known[name][1])
    for element, side in signs.get(name, ()):
        if element >= lower.size:
            raise ModelError.at("proof", f"element {element} of {name}", f"less than {lower.size}")
        end = lower if side > 0 else upper
        end.flat[element] = max(end.flat[element], 0.0) if side > 0 else min(end.flat[element], 0.0)
    ends = unless(unknown(box), Box(lower, upper))
    held = _held(name, replace(box, lower=ends.lower, upper=ends.upper))
    low, high = machine.flushed(held.lower, held.upper)
    return replace(held, lower=low, upper=high)


def _held(name: str, box: Box) -> Box:
    if bool((box.lower > box.upper).any()):
        raise EmptyError.at(name, "no value is left")
    return box


# ── reading the file ────────────────────────────────────────────────────────────────────────────────────────────
def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if not versions or not _FIRST_VERSION <= max(versions) <= _LAST_VERSION:
        wanted = f"one from {_FIRST_VERSION} to {_LAST_VERSION}, whose types it knows"
        raise ModelError.at("checker", f"operator set {max(versions, default=0)}", wanted)
    return int(max(versions))


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of all values that shape inference can tell."""
    graph = _inferred(model).graph
    found = {
        value.name: int(value.type.tensor_type.elem_type) for value in (*graph.value_info, *graph.output, *graph.input)
    }
    small = sorted(name for name, kind in found.items() if kind in _SMALL_FLOATS)
    small += [tensor.name for tensor in graph.initializer if tensor.data_type in _SMALL_FLOATS]
    if small:
        raise ModelError.at("checker", f"{small[0]} is of a 16-bit floating type", "32 or 64 bits")
    return found


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types of its values.

    Inference stops behind a GroupNormalization of version 21, whose result has the type of its operand.
    """
    inferred = shape_inference.infer_shapes(model)
    while True:
        graph = inferred.graph
        known = {value.name: value for value in (*graph.input, *graph.value_info)}
        told = {*known, *(value.name for value in graph.output)}
        stopped = [
            node
            for node in graph.node
            if node.op_type == "GroupNormalization" and node.input[0] in known and node.output[0] not in told
        ]
        if not stopped:
            return inferred
        for node in stopped:
            value = onnx.ValueInfoProto(name=node.output[0])
            value.type.CopyFrom(known[node.input[0]].type)
            graph.value_info.append(value)
        inferred = shape_inference.infer_shapes(inferred)


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
    alone, made = _alone(node, opset), list[ReferenceEvaluator]()

    def evaluate(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        fed = {f"operand{slot}": array for slot, array in enumerate(arrays) if array is not None}
        try:
            if not made:
                made.append(ReferenceEvaluator(alone))
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
