"""Activations that a file spells out, recognized as one function.

x sigmoid(a x) is Swish, x tanh(ln(1 + eˣ)) Mish, x (1 + erf(x / √2)) / 2 and its approximation by tanh are Gelu, and
x / (1 + |x|) is Softsign. Step by step the factors of such a product would be bounded as if they were independent. The
node at the end of a formula is replaced by one of the function's type; all other steps stay.

A formula is found by expanding its end into a sum of products of two names, x and the curve, with exact coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import pi, sqrt
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ibpc.errors import ThirdPartyError, third_party

# Coefficients by powers of x and of the curve, and the number of roundings in the formula.
Expansion: TypeAlias = tuple[dict[tuple[int, int], Fraction], int]
Pair: TypeAlias = tuple[str, str]
Span: TypeAlias = tuple[Fraction, Fraction]

_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_CURVES: Final = ("Sigmoid", "Tanh", "Erf")
_STEPS: Final = ("Add", "Mul", "Div", "Pow")
_DEEPEST: Final = 6
_MOST_NAMES: Final = 24
_HIGHEST_POWER: Final = 3
_POWER_ROUNDINGS: Final = 18
_MOST_ROUNDINGS: Final = 3
_MOST_IN_ARGUMENT: Final = 30
_ROUNDED: Final = Fraction(1, 2**22)

# The range of coefficients in steps, so that no value is flushed to 0 or overflows where the function itself is far
# from either: in the product, in 1 + |x|, and in the argument of a curve, which saturates.
_HALF, _ONE = Fraction(1, 2), Fraction(1)
_PRODUCT: Final[Span] = (_HALF, _ONE)
_SUM: Final[Span] = (_ONE, _ONE)
_ARGUMENT: Final[Span] = (Fraction(1, 64), Fraction(64))
_GATE: Final = {(1, 1): _ONE}
_ONE_AND_CURVE: Final = {(0, 0): _ONE, (0, 1): _ONE}
_HALF_SUM: Final = {(1, 0): _HALF, (1, 1): _HALF}
_SLOPE: Final = sqrt(2.0 / pi)
_GELU_ARGUMENTS: Final = {
    "Erf": (b"none", {(1, 0): sqrt(0.5)}),
    "Tanh": (b"tanh", {(1, 0): _SLOPE, (3, 0): 0.044715 * _SLOPE}),
}


def with_activations(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    inputs: Iterable[str],
    told: Mapping[str, Told],
) -> list[onnx.NodeProto]:
    """Return the nodes, in the same order, with the ends of formulas replaced by nodes of the recognized types.

    Only nodes that depend on the inputs, of floats, and of known rank ≥ 1: there a constant number, of rank at most 1,
    does not change the shape.
    """
    reading, varying = _Reading.of(nodes, constants), set(inputs)
    for node in nodes:
        if not varying.isdisjoint(node.input):
            varying.update(node.output)
    return [node if varying.isdisjoint(node.output) else reading.named(node, told) for node in nodes]


@dataclass(frozen=True)
class Told:
    """What shape inference knows of a value: its element type and its rank, None if unknown."""

    element_type: int
    rank: int | None

    @property
    def is_read(self) -> bool:
        """Whether formulas of such values are recognized."""
        return self.element_type in _FLOATS and bool(self.rank)


_UNKNOWN: Final = Told(onnx.TensorProto.UNDEFINED, None)


@dataclass(frozen=True)
class _Reading:
    """The node that computes each name, and the numbers of the constants that hold a single one."""

    nodes: Mapping[str, onnx.NodeProto]
    numbers: Mapping[str, Fraction]

    @classmethod
    def of(cls, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]]) -> _Reading:
        small = {name: array for name, array in constants.items() if array.size == 1 and array.ndim <= 1}
        for node in nodes:
            if node.op_type == "Constant" and len(node.attribute) == len(node.output) == 1:
                small |= _constant_of(node.output[0], node.attribute[0])
        numbers = {name: number for name, array in small.items() if (number := _number(array)) is not None}
        return cls({name: node for node in nodes for name in node.output if name}, numbers)

    def named(self, node: onnx.NodeProto, told: Mapping[str, Told]) -> onnx.NodeProto:
        """Return the node, or the node of a recognized activation that computes the same."""
        is_read = all(told.get(name, _UNKNOWN).is_read for name in node.output)
        if not is_read or node.op_type not in ("Mul", "Div") or len(node.input) != 2:
            return node
        found = chain(self._softsign(node), self._gated(node))
        return next((made for made in found if told.get(made.input[0], _UNKNOWN).is_read), node)

    def _softsign(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        if node.op_type != "Div":
            return
        x, divisor = node.input
        for modulus in self._computed_by(self._reached(divisor), "Abs"):
            if modulus.input[0] == x and self._is(divisor, (x, modulus.output[0]), _SUM, _ONE_AND_CURVE):
                yield _made("Softsign", node, x)

    def _gated(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield the node as x · gate(x), for a gate made from one of the curves."""
        reached = self._reached(node.output[0])
        for curve in self._computed_by(reached, *_CURVES):
            inner, end, name = curve.input[0], node.output[0], curve.output[0]
            for soft in self._computed_by([inner], "Softplus") if curve.op_type == "Tanh" else ():
                x = soft.input[0]
                if self._is(end, (x, name), _PRODUCT, _GATE):
                    yield _made("Mish", node, x)
            for x in self._reached(inner):
                argument = self._expanded(inner, (x, ""), _ARGUMENT, 0) if x in reached else None
                if argument is None:
                    continue
                if curve.op_type == "Sigmoid" and self._is(end, (x, name), _PRODUCT, _GATE):
                    yield from _swish(node, x, argument)
                if curve.op_type in _GELU_ARGUMENTS and self._is(end, (x, name), _PRODUCT, _HALF_SUM):
                    form, wanted = _GELU_ARGUMENTS[curve.op_type]
                    if _is_near(argument, wanted):
                        yield _made("Gelu", node, x, approximate=form, numbers=b"rounded")

    def _computed_by(self, names: Sequence[str], *kinds: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of the given types, with one operand, that compute the names."""
        for name in names:
            node = self.nodes.get(name)
            if node is not None and node.op_type in kinds and len(node.input) == len(node.output) == 1:
                yield node

    def _step(self, name: str) -> tuple[str, list[str]] | None:
        """Return the type and the two operands of a step of a formula, None if the name is not one."""
        node = self.nodes.get(name)
        if node is None or node.op_type not in _STEPS or len(node.input) != 2:
            return None
        return node.op_type, list(node.input)

    def _is(self, name: str, names: Pair, span: Span, wanted: Mapping[tuple[int, int], Fraction]) -> bool:
        found = self._expanded(name, names, span, 0)
        return found is not None and found[0] == wanted and found[1] <= _MOST_ROUNDINGS

    def _reached(self, name: str) -> list[str]:
        """Return the names at which an expansion of a name may end, up to a limit."""
        found, level = {name: None}, [name]
        while level and len(found) < _MOST_NAMES:
            level = [operand for step in map(self._step, level) if step is not None for operand in step[1]]
            found.update(dict.fromkeys(level))
        return [name for name in found if name not in self.numbers]

    def _expanded(self, name: str, names: Pair, span: Span, depth: int) -> Expansion | None:
        """Return a name as a polynomial in two names with coefficients in the span, None if it is not one."""
        if name in names:
            return {(1, 0) if name == names[0] else (0, 1): _ONE}, 0
        step = self._step(name) if depth < _DEEPEST else None
        if name in self.numbers:
            found: Expansion | None = ({(0, 0): self.numbers[name]}, 0)
        elif step is None:
            return None
        else:
            first, second = (self._expanded(operand, names, span, depth + 1) for operand in step[1])
            found = None if first is None or second is None else _combined(step[0], first, second)
        return found if found is not None and all(span[0] <= c <= span[1] for c in found[0].values()) else None


def _constant_of(name: str, attribute: onnx.AttributeProto) -> dict[str, NDArray[Any]]:
    """Return {name: array} for a constant that holds one number, else {}."""
    if attribute.name == "value_float" and attribute.type == onnx.AttributeProto.FLOAT:
        return {name: np.asarray(attribute.f, np.float32)}
    is_small = attribute.name == "value" and list(attribute.t.dims) in ([], [1])
    if not is_small or attribute.type != onnx.AttributeProto.TENSOR:
        return {}
    try:
        with third_party():
            return {name: numpy_helper.to_array(attribute.t)}
    except ThirdPartyError:
        return {}


def _number(array: NDArray[Any]) -> Fraction | None:
    """Return the number in an array, None unless it is positive and finite."""
    if array.dtype.kind not in "fiu" or not 0 < array.item() < np.inf:
        return None
    return Fraction(array.item())


def _swish(node: onnx.NodeProto, x: str, argument: Expansion) -> Iterator[onnx.NodeProto]:
    """Yield Swish if the argument is alpha x with a binary32 alpha, which is all that an attribute can hold."""
    coefficients, roundings = argument
    if set(coefficients) == {(1, 0)} and roundings <= 1:
        alpha = float(np.float32(float(coefficients[1, 0])))
        if Fraction(alpha) == coefficients[1, 0]:
            yield _made("Swish", node, x, alpha=alpha)


def _made(kind: str, node: onnx.NodeProto, operand: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [operand], list(node.output), node.name, **attributes)


def _is_near(argument: Expansion, wanted: Mapping[tuple[int, int], float]) -> bool:
    found, roundings = argument
    if set(found) != set(wanted) or roundings > _MOST_IN_ARGUMENT:
        return False
    return all(abs(found[powers] / Fraction(number) - 1) <= _ROUNDED for powers, number in wanted.items())


def _combined(kind: str, first: Expansion, second: Expansion) -> Expansion | None:
    """Return the polynomial that a step of this type computes from two polynomials."""
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
