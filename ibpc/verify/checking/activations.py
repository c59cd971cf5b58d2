"""Activations that a file spells out, read as the one function that they are.

x sigmoid(a x) is Swish, x tanh(ln(1 + eˣ)) Mish, x (1 + erf(x / √2)) / 2 and its approximation by tanh are Gelu, and
x / (1 + |x|) is Softsign. Step by step the factors of such a product would be bounded as if they had nothing to do with
each other. The node at the end of a formula is read as one of the function's type; all steps stay what they are.

A formula is found by expanding its end into a sum of products of two names, x and the curve, with exact coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import pi, sqrt
from typing import Any, Final, TypeAlias

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# Coefficients by powers of x and of the curve, and how many roundings they take.
Expansion: TypeAlias = tuple[dict[tuple[int, int], Fraction], int]

_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_CURVES: Final = ("Sigmoid", "Tanh", "Erf")
_STEPS: Final = ("Add", "Mul", "Div", "Pow")
_DEEPEST: Final = 6
_MOST_NAMES: Final = 24
_HIGHEST_POWER: Final = 3
# Numbers so far from 1 that a step might underflow or overflow are not read.
_LEAST, _GREATEST = Fraction(1, 1024), Fraction(1024)
_POWER_ROUNDINGS: Final = 18
_MOST_ROUNDINGS: Final = 4
_MOST_IN_ARGUMENT: Final = 30
_ROUNDED: Final = Fraction(1, 2**22)

_HALF: Final = Fraction(1, 2)
_GATE: Final = {(1, 1): Fraction(1)}
_HALF_SUM: Final = {(1, 0): _HALF, (1, 1): _HALF}
_SLOPE: Final = sqrt(2.0 / pi)
_GELU_ARGUMENTS: Final = {
    "Erf": (b"none", {(1, 0): sqrt(0.5)}),
    "Tanh": (b"tanh", {(1, 0): _SLOPE, (3, 0): 0.044715 * _SLOPE}),
}


def with_activations(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]], types: Mapping[str, int]
) -> list[onnx.NodeProto]:
    """Return the nodes, in the same order, with ends of formulas as nodes of the types that they spell out."""
    reading = _Reading.of(nodes, constants)
    return [reading.named(node) if types.get(node.output[0]) in _FLOATS else node for node in nodes]


@dataclass(frozen=True)
class _Reading:
    """The node that computes every name, and the number of every constant that is one."""

    nodes: Mapping[str, onnx.NodeProto]
    numbers: Mapping[str, Fraction]

    @classmethod
    def of(cls, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]]) -> _Reading:
        known = dict(constants)
        for node in nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        small = {name: array for name, array in known.items() if array.size == 1 and array.ndim <= 1}
        numbers = {name: number for name, array in small.items() if (number := _number(array)) is not None}
        return cls({name: node for node in nodes for name in node.output if name}, numbers)

    def named(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return the node, or one of another type that computes the same."""
        if node.op_type == "Div" and self._is_softsign(node):
            return _made("Softsign", node, node.input[0])
        if node.op_type not in ("Mul", "Div"):
            return node
        reached = self._reached(node.output[0])
        curves = [self.nodes[name] for name in reached if name in self.nodes]
        found = (made for curve in curves if curve.op_type in _CURVES for made in self._gated(node, curve, reached))
        return next(found, node)

    def _is_softsign(self, node: onnx.NodeProto) -> bool:
        x, divisor = node.input
        return any(
            self.nodes[name].op_type == "Abs"
            and self.nodes[name].input[0] == x
            and self._is(divisor, x, name, {(0, 0): Fraction(1), (0, 1): Fraction(1)})
            for name in self._reached(divisor)
            if name in self.nodes
        )

    def _gated(self, node: onnx.NodeProto, curve: onnx.NodeProto, reached: Sequence[str]) -> Iterator[onnx.NodeProto]:
        """Yield what the node is as x times a share that the curve makes."""
        inner, name = curve.input[0], curve.output[0]
        if curve.op_type == "Tanh" and inner in self.nodes and self.nodes[inner].op_type == "Softplus":
            x = self.nodes[inner].input[0]
            if self._is(node.output[0], x, name, _GATE):
                yield _made("Mish", node, x)
        for x in self._reached(inner):
            argument = self._expanded(inner, x, "", 0) if x in reached else None
            if argument is None:
                continue
            if curve.op_type == "Sigmoid" and set(argument[0]) == {(1, 0)} and argument[1] <= 1:
                alpha = argument[0][1, 0]
                if Fraction(float(alpha)) == alpha and self._is(node.output[0], x, name, _GATE):
                    yield _made("Swish", node, x, alpha=float(alpha))
            if curve.op_type in _GELU_ARGUMENTS and self._is(node.output[0], x, name, _HALF_SUM):
                form, wanted = _GELU_ARGUMENTS[curve.op_type]
                if _is_near(argument, wanted):
                    yield _made("Gelu", node, x, approximate=form, numbers=b"rounded")

    def _is(self, name: str, x: str, curve: str, wanted: Mapping[tuple[int, int], Fraction]) -> bool:
        found = self._expanded(name, x, curve, 0)
        return found is not None and found[0] == wanted and found[1] <= _MOST_ROUNDINGS

    def _reached(self, name: str) -> list[str]:
        """Return the names that an expansion of a name may end at."""
        found, level = {name: None}, [name]
        while level and len(found) < _MOST_NAMES:
            steps = [self.nodes[step] for step in level if step in self.nodes and self.nodes[step].op_type in _STEPS]
            level = list(dict.fromkeys(operand for step in steps for operand in step.input))
            found.update(dict.fromkeys(level))
        return [name for name in found if name not in self.numbers]

    def _expanded(self, name: str, x: str, curve: str, depth: int) -> Expansion | None:
        """Return a name as a sum of multiples of powers, None if it is no such sum of positive multiples."""
        if name in (x, curve):
            return {(1, 0) if name == x else (0, 1): Fraction(1)}, 0
        if name in self.numbers:
            return {(0, 0): self.numbers[name]}, 0
        if depth == _DEEPEST or name not in self.nodes or self.nodes[name].op_type not in _STEPS:
            return None
        first, second = (self._expanded(operand, x, curve, depth + 1) for operand in self.nodes[name].input)
        if first is None or second is None:
            return None
        return _combined(self.nodes[name].op_type, first, second)


def _number(array: NDArray[Any]) -> Fraction | None:
    try:
        number = Fraction(float(array.item()))
    except (ValueError, OverflowError, TypeError):
        return None
    return number if _LEAST <= number <= _GREATEST else None


def _made(kind: str, node: onnx.NodeProto, operand: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [operand], list(node.output), node.name, **attributes)


def _is_near(argument: Expansion, wanted: Mapping[tuple[int, int], float]) -> bool:
    found, roundings = argument
    if set(found) != set(wanted) or roundings > _MOST_IN_ARGUMENT:
        return False
    return all(abs(found[powers] / Fraction(number) - 1) <= _ROUNDED for powers, number in wanted.items())


def _combined(kind: str, first: Expansion, second: Expansion) -> Expansion | None:
    """Return what a step of some type makes of two sums."""
    if kind == "Add":
        powers = {*first[0], *second[0]}
        return {p: first[0].get(p, Fraction(0)) + second[0].get(p, 0) for p in powers}, max(first[1], second[1]) + 1
    if kind == "Mul":
        return _multiplied(first, second)
    if set(second[0]) != {(0, 0)} or second[1]:
        return None
    number = second[0][0, 0]
    if kind == "Div":
        return _multiplied(first, ({(0, 0): 1 / number}, 0))
    if number not in (2, 3):
        return None
    square = _multiplied(first, first)
    found = square if square is None or number == 2 else _multiplied(square, first)
    return None if found is None else (found[0], found[1] + _POWER_ROUNDINGS)


def _multiplied(first: Expansion, second: Expansion) -> Expansion | None:
    found: dict[tuple[int, int], Fraction] = {}
    for (i, j), one in first[0].items():
        for (k, m), other in second[0].items():
            found[i + k, j + m] = found.get((i + k, j + m), Fraction(0)) + one * other
    if max(i + j for i, j in found) > _HIGHEST_POWER:
        return None
    return found, first[1] + second[1] + 1
