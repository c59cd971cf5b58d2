"""Recognizing activations that a file spells out as formulas.

Exporters write x sigmoid(x), and in older operator sets Gelu, as products. Bounded step by step, a product ignores that
both factors depend on the same x; a single operator has an exact range and planes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import pi, sqrt
from typing import Any, ClassVar, Final

from ibpc.ir import Graph, Node
from ibpc.ops.gelu import CUBIC
from ibpc.passes._formulas import Formula, Polynomial, Powers, reached
from ibpc.passes.base import Log, Pass

_ONE: Final = Fraction(1)
_HALF: Final = Fraction(1, 2)
# Products of x and a gate, as polynomials of x and the value e that makes the gate: x e, and x (1 + e) / 2.
_PRODUCT: Final[Mapping[Powers, Fraction]] = {(1, 1): _ONE}
_HALF_OF_SUM: Final[Mapping[Powers, Fraction]] = {(1, 0): _HALF, (1, 1): _HALF}
# The roundings that the operators' error constants allow in these products, in the argument of Gelu's gate, and in its
# numbers. A product may scale x by 1/2 at most, because flushing to 0 is covered only once; arguments may scale more.
_MOST_ROUNDINGS: Final = 3
_ARGUMENT: Final = (Fraction(1, 64), Fraction(64))
_MOST_IN_ARGUMENT: Final = 30
_ROUNDED: Final = 2.0**-22


@dataclass(frozen=True)
class Activation:
    """A recognized activation: its operator, its operand, and the polynomial in (operand, gate) that it must equal."""

    operator: str
    operand: str
    formula: Mapping[Powers, Fraction] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecognizeActivations(Pass):
    """Replace the formulas of Swish, Mish, Gelu and Softsign by these operators.

    The operator computes the same real function, and its bounds for binary32 hold for the formula too; Gelu is told
    that the numbers of the formula are rounded. Steps of a formula that other nodes read are kept for them.
    """

    name: ClassVar[str] = "recognize_activations"

    def apply(self, graph: Graph, log: Log) -> None:
        """Recognize activations in graph order."""
        for node in graph.order():
            found = _softsign(graph, node) or _gated(graph, node)
            if found is not None:
                graph.replace(node.name, operator=found.operator, attributes=found.attributes)
                graph.set_operands(node.name, [found.operand])
                log.changed(node.name, f"the formula of {found.operator} of {found.operand}")


def _softsign(graph: Graph, node: Node) -> Activation | None:
    """Return Softsign if the node is x / (1 + |x|)."""
    if node.operator != "Div":
        return None
    x, divisor = graph.operands(node.name)
    for modulus in reached(graph, divisor):
        if graph.node(modulus).operator == "Abs" and graph.operands(modulus) == (x,):
            formula = Formula(graph, (modulus,), _ONE, _ONE).polynomial(divisor)
            if node.shape == graph.node(x).shape and _is(formula, {(0,): _ONE, (1,): _ONE}):
                return Activation("Softsign", x)
    return None


def _gated(graph: Graph, node: Node) -> Activation | None:
    """Return the activation if the node is x times a gate of x, else None."""
    if node.operator not in ("Mul", "Div"):
        return None
    values = reached(graph, node.name)
    for curve in values:
        for found in _GATES.get(graph.node(curve).operator, _none)(graph, curve, values):
            if _is(Formula(graph, (found.operand, curve), _HALF, _ONE).polynomial(node.name), found.formula):
                return found
    return None


def _is(found: Polynomial | None, wanted: Mapping[Powers, Fraction]) -> bool:
    return found is not None and found.coefficients == wanted and found.roundings <= _MOST_ROUNDINGS


# ── gates ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _none(graph: Graph, curve: str, values: Sequence[str]) -> Iterator[Activation]:
    yield from ()


def _of_sigmoid(graph: Graph, curve: str, values: Sequence[str]) -> Iterator[Activation]:
    """Yield x sigmoid(alpha x)."""
    for x, argument in _arguments(graph, curve, values):
        if set(argument.coefficients) == {(1,)} and argument.roundings <= 1:
            (alpha,) = argument.coefficients.values()
            if Fraction(float(alpha)) == alpha:
                yield Activation("Swish", x, _PRODUCT, {"alpha": float(alpha)})


def _of_tanh(graph: Graph, curve: str, values: Sequence[str]) -> Iterator[Activation]:
    """Yield x tanh(softplus(x)), and x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    (soft,) = graph.operands(curve)
    if graph.node(soft).operator == "Softplus":
        yield Activation("Mish", graph.operands(soft)[0], _PRODUCT)
    slope = sqrt(2.0 / pi)
    yield from _gelus(graph, curve, values, "tanh", {(1,): slope, (3,): CUBIC * slope})


def _of_erf(graph: Graph, curve: str, values: Sequence[str]) -> Iterator[Activation]:
    """Yield x (1 + erf(x / √2)) / 2."""
    yield from _gelus(graph, curve, values, "none", {(1,): sqrt(0.5)})


def _gelus(
    graph: Graph, curve: str, values: Sequence[str], form: str, wanted: Mapping[Powers, float]
) -> Iterator[Activation]:
    for x, argument in _arguments(graph, curve, values):
        if set(argument.coefficients) != set(wanted) or argument.roundings > _MOST_IN_ARGUMENT:
            continue
        if all(abs(argument.coefficients[i] / Fraction(number) - 1) <= _ROUNDED for i, number in wanted.items()):
            yield Activation("Gelu", x, _HALF_OF_SUM, {"approximate": form, "constants": "rounded"})


def _arguments(graph: Graph, curve: str, values: Sequence[str]) -> Iterator[tuple[str, Polynomial]]:
    """Yield each value of which the operand of a curve is a polynomial, and the polynomial."""
    (operand,) = graph.operands(curve)
    for x in reached(graph, operand):
        if x in values and (found := Formula(graph, (x,), *_ARGUMENT).polynomial(operand)) is not None:
            yield x, found


_GATES: Final[Mapping[str, Callable[[Graph, str, Sequence[str]], Iterator[Activation]]]] = {
    "Sigmoid": _of_sigmoid,
    "Tanh": _of_tanh,
    "Erf": _of_erf,
}
