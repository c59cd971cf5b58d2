"""The walk: a box through the nodes of an ONNX file, and rows of a specification back to where they are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from onnx import helper

from ibpc.errors import ModelError, PropertyError
from ibpc.verify.checking.arithmetic import MACHINES, Machine
from ibpc.verify.checking.backward import Picked, affine_bounds, linear_bounds, sharpened, tightened
from ibpc.verify.checking.evaluator import confirm, evaluator
from ibpc.verify.checking.exact import is_exact, is_rounded_product, may_be_exact, summed
from ibpc.verify.checking.onnx_file import OnnxFile
from ibpc.verify.checking.planes import PLANES, bent
from ibpc.verify.checking.positions import is_cut, written
from ibpc.verify.checking.regions import EmptyError, Region, not_empty
from ibpc.verify.checking.rules import RULES, Step
from ibpc.verify.checking.values import INTEGERS, LAST_WHOLE, Array, Box, Constant, Value, is_whole, unwrapped

Prepare: TypeAlias = Callable[[dict[str, Value], onnx.NodeProto], Iterable[str]]
# Returns a narrower box of a value in front of a node, None to leave it.
Narrow: TypeAlias = Callable[[Mapping[str, Value], str, onnx.NodeProto], Box | None]

# Types that are affine on either side of 0.
_KINKED: Final = ("Relu", "LeakyRelu", "PRelu", "Abs")


class Checker:
    """Bounds of one ONNX model at batch 1, from nothing but its file.

    Nodes whose operands are constants are evaluated by the ONNX reference evaluator, in the types of the file, if every
    execution computes the same; otherwise their rules bound them, as those of a box of one point.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read the model. Raises ModelError for an operator set, element type or function it does not know."""
        self._file = OnnxFile.of(model)
        self._constants: dict[str, Value] = {name: Constant(array) for name, array in self._file.constants.items()}
        self._summed = summed(self._file.nodes)
        self._memory: list[dict[str, Any]] = [{} for _ in self._file.nodes]

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
        """Return whether the model has a value of that name, other than an initializer."""
        return name in self._file.inputs or any(name in node.output for node in self._file.nodes)

    def values(self, region: Region, arithmetic: str) -> dict[str, Value]:
        """Return the boxes of all values in a region, in order. Raises EmptyError if one of them is empty."""
        with np.errstate(all="ignore"):
            return self._walk(region, MACHINES[arithmetic], _as_they_are)

    def tightened(self, region: Region, arithmetic: str) -> Region:
        """Return the region with the boxes in front of nonlinear functions bounded by planes too, and kept.

        The region's choices pick the planes. Raises EmptyError if a box is empty.
        """

        def tighten(values: Mapping[str, Value], name: str, node: onnx.NodeProto) -> Box:
            chosen = self._shaped(values, {n: c for n, c in region.choices.items() if n in values}, 1)
            return tightened(values, name, node.op_type in _KINKED, chosen)

        return self._narrowed(region, arithmetic, tighten)

    def sharpened(self, region: Region, arithmetic: str, picked: Mapping[str, Picked]) -> Region:
        """Return the region with picked ends of such boxes bounded, each with its own planes, and kept.

        `picked` is by value, its choices flat; values that are not in front of a nonlinear function are ignored. Raises
        EmptyError if a box is empty, ModelError if elements or choices do not fit.
        """

        def sharpen(values: Mapping[str, Value], name: str, _node: onnx.NodeProto) -> Box | None:
            if name not in picked:
                return None
            ends, box = picked[name], values[name]
            if len(ends.elements) and ends.elements.max() >= box.magnitude.size:
                raise ModelError.at(
                    "proof", f"element {ends.elements.max()} of {name}", f"less than {box.magnitude.size}"
                )
            choices = self._shaped(values, ends.choices, len(ends.elements))
            return sharpened(values, name, replace(ends, choices=choices))

        return self._narrowed(region, arithmetic, sharpen)

    def _narrowed(self, region: Region, arithmetic: str, narrow: Narrow) -> Region:
        """Return the region with each box in front of a nonlinear function narrowed once by `narrow`, and kept."""
        done: dict[str, Box] = {}

        def prepare(values: dict[str, Value], node: onnx.NodeProto) -> Iterator[str]:
            """Narrow the operands of a node that is not affine; yield the names of those that changed."""
            for name in dict.fromkeys(node.input):
                if not isinstance(values.get(name), Box) or name in self._file.inputs or name in done:
                    continue
                box = narrow(values, name, node)
                if box is not None:
                    values[name] = done[name] = not_empty(name, box)
                    yield name

        with np.errstate(all="ignore"):
            self._walk(region, MACHINES[arithmetic], prepare)
        return replace(region, known={**region.known, **{n: (box.lower, box.upper) for n, box in done.items()}})

    def lower_bounds(self, region: Region, rows: Array, arithmetic: str) -> Array:
        """Return lower bounds (m,) of `rows` (m, outputs) · outputs in a region, ∞ if it is empty."""
        with np.errstate(all="ignore"):
            values = self._inhabited(region, arithmetic)
            if values is None:
                return np.full(len(rows), np.inf)
            parts = self._by_output(values, np.asarray(rows, np.float64))
            linear = linear_bounds(values, dict(parts), self._shaped(values, region.choices, 1))
            return np.maximum(affine_bounds(values, parts)[0], linear)

    def lower_bound(
        self,
        region: Region,
        row: Array,
        arithmetic: str,
        multipliers: Sequence[float] = (),
        choices: Mapping[str, Array] = MappingProxyType({}),
    ) -> float:
        """Return a lower bound of row · outputs in a region, ∞ if it is empty.

        `multipliers` β ≥ 0 belong to the cuts of the region: where s (v − a) ≥ 0, a row is at least the row minus
        β s (v − a). `choices` are those of `linear_bounds`, flat, and override the region's. Raises ModelError if they
        do not fit.
        """
        with np.errstate(all="ignore"):
            values = self._inhabited(region, arithmetic)
            if values is None:
                return np.inf
            rows = self._by_output(values, np.asarray(row, np.float64)[None])
            plain = affine_bounds(values, dict(rows))[0]
            products = []
            for (name, element, at, side), multiplier in zip(region.cuts, multipliers, strict=False):
                rows[name] = rows[name].copy() if name in rows else np.zeros((1, values[name].magnitude.size))
                rows[name][0, element] -= multiplier * side
                products.append((multiplier * side, at))
            bound = linear_bounds(values, rows, self._shaped(values, {**region.choices, **choices}, 1))[0]
            return float(max(plain[0], lower_sum(bound, products)))

    def _inhabited(self, region: Region, arithmetic: str) -> dict[str, Value] | None:
        """Return the boxes of all values in a region, None if it is empty."""
        if region.is_empty:
            return None
        try:
            return self.values(region, arithmetic)
        except EmptyError:
            return None

    def _shaped(self, values: Mapping[str, Value], choices: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Return the choices of each value in the shape (rows, size) or (rows, 2, size)."""
        shaped: dict[str, Array] = {}
        for name, numbers in choices.items():
            value = values.get(name)
            size = value.lower.size if isinstance(value, Box) else 0
            if numbers.size not in (rows * size, 2 * rows * size) or not bool(((numbers >= 0) & (numbers <= 1)).all()):
                raise ModelError.at("proof", f"choices for {name} that do not fit", "numbers of [0, 1]")
            shaped[name] = numbers.reshape((rows, size) if numbers.size == rows * size else (rows, 2, size))
        return shaped

    # ── forward ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _walk(self, region: Region, machine: Machine, prepare: Prepare) -> dict[str, Value]:
        """Return the values of all names in topological order.

        `prepare` may change the operands of a node that is not affine; then the node is bounded again. Results that
        depend on a window at a computed position have no value until they are written to a tensor of static shape.
        """
        pending: set[str] = set()
        values: dict[str, Value] = dict(self._constants)

        def keep(name: str, box: Box) -> None:
            values[name] = region.narrowed(name, machine.settled(box), machine)

        for name, box in self._input_boxes(region).items():
            keep(name, box)
        for number, node in enumerate(self._file.nodes):
            if all(name in self._constants for name in node.output if name):
                continue
            if is_cut(node, values) or not pending.isdisjoint(node.input):
                if node.op_type == "ScatterND" and node.input[0] not in pending:
                    keep(node.output[0], written(node, self._file.nodes, self._file.opset, values, self._file.types))
                else:
                    pending.update(name for name in node.output if name)
                continue
            for name, value in zip(node.output, self._outputs(number, values, machine, prepare), strict=False):
                if not name:
                    continue
                if isinstance(value, Constant):
                    values[name] = value
                else:
                    keep(name, unwrapped(value, self._type(name)))
        for output in self._file.outputs:
            if output in pending:
                raise ModelError.at(f"output {output}", "its shape depends on numbers that the network computes")
        return values

    def _input_boxes(self, region: Region) -> dict[str, Box]:
        lower, upper, shapes = region.lower, region.upper, self._file.inputs
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        if not lower.shape == upper.shape == (sum(sizes),):
            raise PropertyError.at("box", f"{lower.size} lower and {upper.size} upper bounds", f"{sum(sizes)} of each")
        if not bool((lower <= upper).all()):
            raise PropertyError.at("box", "lower bounds above upper ones", "lower ≤ upper")
        cuts = np.cumsum(sizes)[:-1]
        parts = zip(shapes.items(), np.split(lower, cuts), np.split(upper, cuts), strict=True)
        return {
            name: Box(low.reshape(shape).astype(np.float64), high.reshape(shape).astype(np.float64))
            for (name, shape), low, high in parts
        }

    def _outputs(
        self, number: int, values: dict[str, Value], machine: Machine, prepare: Prepare
    ) -> Sequence[Constant | Box]:
        """Return the values of a node's outputs, bounded again if its operands were changed."""
        found = self._bounded(number, values, machine)
        is_bent = any(isinstance(value, Box) and value.affine is None for value in found)
        if is_bent and list(prepare(values, self._file.nodes[number])):
            found = self._bounded(number, values, machine)
        return found

    def _bounded(self, number: int, values: Mapping[str, Value], machine: Machine) -> Sequence[Constant | Box]:
        """Return the values of a node's outputs by the rule of its type, or by evaluation if that is exact."""
        node, memory = self._file.nodes[number], self._memory[number]
        operands = tuple(values[name] if name else None for name in node.input)
        if "evaluate" not in memory:
            memory["evaluate"] = evaluator(node, self._file.opset)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        names, element_type = tuple(node.input), self._type(node.output[0])
        step = Step(
            node, self._file.opset, names, operands, attributes, machine, element_type, memory["evaluate"], memory
        )
        if not any(isinstance(value, Box) for value in operands):
            found = self._evaluated(step)
            return self._of_one_point(step) if found is None else found
        return self._by_rule(step)

    def _by_rule(self, step: Step) -> Sequence[Constant | Box]:
        """Return the values of a node's outputs by the rule of its type."""
        kind = step.node.op_type
        if kind not in RULES:
            step.fail("it does not know the type")
        found = RULES[kind](step)
        if isinstance(found, Box) and found.affine is None and kind in PLANES:
            return [replace(found, bend=cache(partial(bent, step, found)))]
        return [found] if isinstance(found, Constant | Box) else found

    def _evaluated(self, step: Step) -> Sequence[Constant] | None:
        """Return the results of a node of constants, None if executions may differ."""
        node = step.node
        if not may_be_exact(node.op_type, step.attributes):
            return None
        arrays = [None if value is None else step.constant(slot).array for slot, value in enumerate(step.operands)]
        results = [np.asarray(array) for array in step.evaluate(arrays)]
        types = zip(map(self._type, node.output), results, strict=False)
        as_told = all(not told or helper.tensor_dtype_to_np_dtype(told) == result.dtype for told, result in types)
        known = [array for array in arrays if array is not None]
        if not as_told or not is_exact(node.op_type, known, results):
            return None
        if not self._summed.isdisjoint(node.output) and is_rounded_product(node.op_type, known, results):
            return None
        confirm(node, step.version, arrays, results)
        found = [Constant(result) for result in results]
        if self._constants.keys() >= set(filter(None, node.input)):
            self._constants.update((name, value) for name, value in zip(node.output, found, strict=False) if name)
        return found

    def _of_one_point(self, step: Step) -> Sequence[Constant | Box]:
        """Return the rule's bounds at constants; integers that they determine are constants again."""
        if not step.operands:
            step.fail("executions may differ in what it computes")
        point = step.box(0)
        found = self._by_rule(replace(step, operands=(point, *step.operands[1:])))
        return [
            value if isinstance(value, Constant) else _whole(Box(value.lower, value.upper), self._type(name))
            for name, value in zip(step.node.output, found, strict=False)
        ]

    def _type(self, name: str) -> int:
        return self._file.types.get(name, onnx.TensorProto.UNDEFINED)

    def _by_output(self, values: Mapping[str, Value], rows: Array) -> dict[str, Array]:
        """Return the columns of the rows by output."""
        sizes = [int(np.prod(values[name].shape)) for name in self._file.outputs]
        if rows.ndim != 2 or rows.shape[1] != sum(sizes):
            raise PropertyError.at("rows", f"a matrix of shape {rows.shape}", f"{sum(sizes)} columns")
        result: dict[str, Array] = {}
        for name, part in zip(self._file.outputs, np.split(rows, np.cumsum(sizes)[:-1], axis=1), strict=True):
            result[name] = result[name] + part if name in result else part
        return result


def _whole(box: Box, element_type: int) -> Constant | Box:
    """Return a box of integers as a constant of their type, if each is a single number."""
    kept = unwrapped(box, element_type)
    if element_type not in INTEGERS or not is_whole(kept.lower) or bool((kept.lower != kept.upper).any()):
        return box
    if bool((kept.magnitude > LAST_WHOLE).any()):
        return box
    return Constant(kept.lower.astype(helper.tensor_dtype_to_np_dtype(element_type)))


def lower_sum(bound: float, products: Sequence[tuple[float, float]]) -> float:
    """Return a lower bound of a bound plus Σ p q; products may be rounded, and may underflow."""
    terms = [one * other for one, other in products if one and other]
    if not terms:
        return bound
    double = np.finfo(np.float64)
    size = abs(bound) + sum(map(abs, terms)) + len(terms) * float(double.tiny)
    return bound + sum(terms) - (len(terms) + 2) * float(double.eps) * size


def _as_they_are(_values: dict[str, Value], _node: onnx.NodeProto) -> Iterable[str]:
    """Change no operand."""
    return ()
