"""The grammar of VNN-LIB 1.0 and 2.0: tokens become declarations and formulas.

1.0 is a subset of SMT-LIB with the variables X_0, X_1, … and Y_0, Y_1, …, each declared on its own; 2.0 declares a
network with tensors, X[0,3]. The standard: Demarchi, Guidotti, Pulina, Tacchella, "Supporting Standardization of Neural
Networks Verification with VNN-LIB and CoCoNet" (2023), and the grammar of the VNN-LIB standard 2.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Final

from ibpc.errors import PropertyError, nearest
from ibpc.verify._vnnlib_formulas import And, Atom, Formula, Linear, Or, Side, Variable, opposite
from ibpc.verify._vnnlib_lexer import Source, Token, shown
from ibpc.verify.properties import Tensor

DEEPEST: Final = 100
MOST_ELEMENTS: Final = 2**24
# What reading a file may cost, in terms that are added up, and what a declaration, number or variable counts for.
MOST_WORK: Final = 2**22
_WORD: Final = 2
# Bits of numerators and denominators.
_LONGEST: Final = 2**14

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_SCALAR: Final = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_VERSION: Final = re.compile(r"<[12]\.\d{1,3}>", re.ASCII)
_TYPES: Final = ("Real", "real", "float32", "float64")
_IGNORED: Final = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")


@dataclass
class Declared:
    """The tensors of one side in their order; `elements` counts the scalars X_i of a file of version 1.0."""

    tensors: list[Tensor] = field(default_factory=list)
    elements: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """What a file says: inputs, outputs, and the formulas that hold together at a counterexample."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    formulas: tuple[Formula, ...]


def parse(source: Source) -> Query:
    """Return what a VNN-LIB file says. Raises PropertyError with the line and column of the first mistake."""
    return _Parser(source).query()


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens = source.tokens()
        self._end = Token("", len(source.text))
        self._following = next(self._tokens, self._end)
        self._work = 0
        self._sides = {Side.INPUT: Declared(), Side.OUTPUT: Declared()}
        self._places: dict[str, tuple[Side, tuple[int, ...], int]] = {}
        self._network: str | None = None

    # ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _peek(self) -> Token:
        return self._following

    def _next(self) -> Token:
        token = self._following
        self._following = next(self._tokens, self._end)
        return token

    def _error(self, token: Token, expected: str, remedy: str = "") -> PropertyError:
        found = f"found {shown(token.text)}" if token.text else "the file ends"
        return self._source.error(token.offset, found, expected, remedy)

    def _take(self, text: str) -> Token:
        token = self._next()
        if token.text != text:
            raise self._error(token, repr(text))
        return token

    def _word(self, pattern: re.Pattern[str], expected: str) -> Token:
        token = self._next()
        if not pattern.fullmatch(token.text):
            raise self._error(token, expected)
        return token

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────
    def query(self) -> Query:
        """Read the whole file."""
        commands: Mapping[str, Callable[[Token], Formula | None]] = {
            "declare-const": self._declare_scalar,
            "declare-fun": self._declare_scalar,
            "declare-network": self._declare_network,
            "vnnlib-version": self._version,
            "assert": self._assert,
            **dict.fromkeys(_IGNORED, self._skip),
        }
        formulas: list[Formula] = []
        while self._peek() is not self._end:
            self._take("(")
            token = self._next()
            if token.text not in commands:
                raise self._error(token, "a declaration or an assertion", nearest(token.text, commands))
            formula = commands[token.text](token)
            self._take(")")
            if formula is not None:
                formulas.append(formula)
        return Query(self._tensors(Side.INPUT, "X"), self._tensors(Side.OUTPUT, "Y"), tuple(formulas))

    def _skip(self, _command: Token) -> None:
        while self._peek().text not in ("(", ")", ""):
            self._next()

    def _version(self, _command: Token) -> None:
        token = self._next()
        if not _VERSION.fullmatch(token.text):
            raise self._error(token, "<1.0> or <2.0>")

    def _assert(self, _command: Token) -> Formula:
        return self._formula(0, 1)

    def _tensors(self, side: Side, letter: str) -> tuple[Tensor, ...]:
        declared = self._sides[side]
        if declared.elements:
            count = len(declared.elements)
            missing = next((index for index in range(count) if index not in declared.elements), None)
            if missing is not None:
                last = max(declared.elements)
                where = declared.elements[last]
                raise self._source.error(
                    where, f"{letter}_{last} is declared, {letter}_{missing} is not", "all of them"
                )
            return (Tensor(letter, (count,)),)
        if not declared.tensors:
            raise self._source.error(len(self._source.text), f"the file declares no {side.value}", f"one, {letter}_0")
        return tuple(declared.tensors)

    # ── declarations ────────────────────────────────────────────────────────────────────────────────────────────
    def _declare_scalar(self, command: Token) -> None:
        if self._network is not None:
            raise self._error(command, "assertions: the network is declared already")
        name = self._word(_SCALAR, "X_0, X_1, … for inputs, Y_0, Y_1, … for outputs")
        if command.text == "declare-fun":
            self._take("(")
            self._take(")")
        self._type()
        side = Side.INPUT if name.text[0] == "X" else Side.OUTPUT
        index = int(name.text[2:])
        elements = self._sides[side].elements
        if index in elements:
            raise self._error(name, f"a name of its own: {name.text} is declared at {self._line(elements[index])}")
        self._spend(name, _WORD)
        elements[index] = name.offset

    def _line(self, offset: int) -> str:
        return self._source.at(offset).removeprefix(f"{self._source.name}:")

    def _type(self) -> None:
        token = self._next()
        if token.text not in _TYPES:
            raise self._error(token, f"one of the element types {', '.join(_TYPES)}")

    def _declare_network(self, _command: Token) -> None:
        name = self._word(_NAME, "the network's name")
        if self._network is not None or any(side.elements for side in self._sides.values()):
            raise self._error(name, "one network", "properties that compare several networks are not supported")
        self._network = name.text
        kinds: Mapping[str, Callable[[Token], None]] = {
            "declare-input": lambda _: self._declare_tensor(Side.INPUT),
            "declare-output": lambda _: self._declare_tensor(Side.OUTPUT),
            "declare-hidden": self._refuse,
            "isomorphic-to": self._refuse,
            "equal-to": self._refuse,
        }
        while self._peek().text == "(":
            self._take("(")
            kind = self._next()
            if kind.text not in kinds:
                raise self._error(kind, "declare-input or declare-output", nearest(kind.text, kinds))
            kinds[kind.text](kind)
            self._take(")")

    def _refuse(self, token: Token) -> None:
        raise self._error(
            token, "declare-input or declare-output", "hidden values and other networks are not supported"
        )

    def _declare_tensor(self, side: Side) -> None:
        name = self._word(_NAME, "the tensor's name")
        if name.text in self._places:
            raise self._error(name, "a name that is not taken")
        self._type()
        shape = tuple(self._integers(least=1))
        tensors = self._sides[side].tensors
        start = sum(tensor.size for tensor in tensors)
        if start + prod(shape) > MOST_ELEMENTS:
            raise self._error(name, f"at most {MOST_ELEMENTS:,} elements")
        onnx_name = self._next().text[1:-1] if self._peek().text.startswith('"') else ""
        if self._peek().text == "initialized":
            remedy = "what a file initializes is constant here: leave this input out"
            raise self._error(self._peek(), "')'", remedy)
        tensors.append(Tensor(name.text, shape, onnx_name))
        self._places[name.text] = (side, shape, start)

    def _integers(self, least: int) -> Iterator[int]:
        """Yield the numbers of a list in brackets, empty for a scalar."""
        self._take("[")
        if self._peek().text == "]":
            self._next()
            return
        while True:
            token = self._next()
            if not (
                token.text.isascii() and token.text.isdigit() and len(token.text) < 10 and int(token.text) >= least
            ):
                raise self._error(token, f"a whole number of at least {least}")
            yield int(token.text)
            mark = self._next()
            if mark.text == "]":
                return
            if mark.text != ",":
                raise self._error(mark, "',' or ']'")

    # ── formulas ────────────────────────────────────────────────────────────────────────────────────────────────
    def _formula(self, depth: int, sign: int) -> Formula:
        """Return a formula, or its opposite where `sign` is −1: below an odd number of negations."""
        start = self._take("(")
        if depth > DEEPEST:
            raise self._source.error(start.offset, f"a formula nested more than {DEEPEST} deep")
        token = self._next()
        if token.text in _COMPARISONS:
            compared = self._comparison(token, depth)
            formula = compared if sign > 0 else opposite(compared)
        elif token.text in ("and", "or"):
            parts = [self._formula(depth + 1, sign)]
            while self._peek().text == "(":
                parts.append(self._formula(depth + 1, sign))
            formula = And(tuple(parts)) if (token.text == "and") == (sign > 0) else Or(tuple(parts))
        elif token.text == "not":
            formula = self._formula(depth + 1, -sign)
        elif token.text == "=>":
            implied = self._formula(depth + 1, -sign), self._formula(depth + 1, sign)
            formula = Or(implied) if sign > 0 else And(implied)
        else:
            raise self._error(token, f"one of and, or, not, =>, {', '.join(_COMPARISONS)}")
        self._take(")")
        return formula

    def _comparison(self, operator: Token, depth: int) -> Formula:
        """Return what a comparison says, of each operand and the next one: (<= a b c) is a ≤ b and b ≤ c."""
        operands = [self._arithmetic(depth), self._arithmetic(depth)]
        while operator.text != "!=" and self._peek().text not in (")", ""):
            operands.append(self._arithmetic(depth))
        self._spend(operator, sum(len(operand.terms) for operand in operands))
        compared = tuple(_COMPARISONS[operator.text](left, right) for left, right in pairwise(operands))
        return compared[0] if len(compared) == 1 else And(compared)

    def _spend(self, token: Token, amount: int) -> None:
        self._work += amount
        if self._work > MOST_WORK:
            raise self._source.error(token.offset, "too many numbers and variables so far", "a smaller property")

    def _arithmetic(self, depth: int) -> Linear:
        token = self._next()
        if token.text == "(":
            return self._operation(token, depth + 1)
        self._spend(token, _WORD)
        if _NUMBER.fullmatch(token.text):
            return Linear({}, Fraction(token.text))
        return Linear({self._variable(token): Fraction(1)}, Fraction())

    def _operation(self, start: Token, depth: int) -> Linear:
        if depth > DEEPEST:
            raise self._source.error(start.offset, f"an expression nested more than {DEEPEST} deep")
        operator = self._next()
        if operator.text not in ("+", "-", "*", "/"):
            raise self._error(operator, "+, -, * or /")
        operands = [self._arithmetic(depth)]
        while self._peek().text not in (")", ""):
            operands.append(self._arithmetic(depth))
        self._take(")")
        self._spend(operator, sum(len(operand.terms) for operand in operands))
        return self._combined(operator, operands)

    def _combined(self, operator: Token, operands: Sequence[Linear]) -> Linear:
        if operator.text == "*":
            return self._product(operator, operands)
        if operator.text == "/":
            return self._quotient(operator, operands)
        if operator.text == "-" and len(operands) == 1:
            return operands[0].times(Fraction(-1))
        return self._sum(operator, operands, Fraction(-1 if operator.text == "-" else 1))

    def _sum(self, operator: Token, operands: Sequence[Linear], sign: Fraction) -> Linear:
        """Return the first operand + sign · Σ others, in time linear in the number of terms."""
        terms, constant = dict(operands[0].terms), operands[0].constant
        for other in operands[1:]:
            constant = self._short(operator, constant + sign * other.constant)
            for variable, value in other.terms.items():
                terms[variable] = self._short(operator, terms.get(variable, Fraction()) + sign * value)
        return Linear({variable: value for variable, value in terms.items() if value}, constant)

    def _product(self, operator: Token, operands: Sequence[Linear]) -> Linear:
        factor, form = Fraction(1), None
        for operand in operands:
            if not operand.terms:
                factor = self._short(operator, factor * operand.constant)
            elif form is None:
                form = operand
            else:
                raise self._source.error(operator.offset, "a product of two variables", "linear constraints")
        return Linear({}, factor) if form is None else self._times(operator, form, factor)

    def _quotient(self, operator: Token, operands: Sequence[Linear]) -> Linear:
        if len(operands) < 2:
            raise self._source.error(operator.offset, "a quotient of one number", "at least two")
        factor = Fraction(1)
        for operand in operands[1:]:
            if operand.terms:
                raise self._source.error(operator.offset, "a division by a variable", "linear constraints")
            if not operand.constant:
                raise self._source.error(operator.offset, "a division by 0", "another number")
            factor = self._short(operator, factor / operand.constant)
        return self._times(operator, operands[0], factor)

    def _times(self, operator: Token, form: Linear, factor: Fraction) -> Linear:
        product = form.times(factor)
        for value in (product.constant, *product.terms.values()):
            self._short(operator, value)
        return product

    def _short(self, operator: Token, value: Fraction) -> Fraction:
        """Return the number. Raises PropertyError where it has too many digits to go on with."""
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LONGEST:
            raise self._source.error(operator.offset, "a number with too many digits")
        return value

    def _variable(self, token: Token) -> Variable:
        if self._network is not None:
            return self._element(token)
        match = _SCALAR.fullmatch(token.text)
        if match is None:
            raise self._error(token, "a number or a declared variable")
        side, index = Side.INPUT if match[1] == "X" else Side.OUTPUT, int(match[2])
        if index not in self._sides[side].elements:
            raise self._source.error(
                token.offset, f"{token.text} is not declared", f"(declare-const {token.text} Real)"
            )
        return side, index

    def _element(self, token: Token) -> Variable:
        if token.text not in self._places:
            raise self._error(token, "a number or a declared tensor", nearest(token.text, self._places))
        side, shape, start = self._places[token.text]
        indices = tuple(self._integers(least=0)) if self._peek().text == "[" else ()
        if len(indices) != len(shape) or any(i >= size for i, size in zip(indices, shape, strict=True)):
            found = f"{token.text}[{','.join(map(str, indices))}]"
            raise self._source.error(token.offset, found, f"an element of shape [{','.join(map(str, shape))}]")
        flat = 0
        for index, size in zip(indices, shape, strict=True):
            flat = flat * size + index
        return side, start + flat


def _at_most(left: Linear, right: Linear) -> Formula:
    return Atom(left.plus(right, Fraction(-1)), strict=False)


def _below(left: Linear, right: Linear) -> Formula:
    return Atom(left.plus(right, Fraction(-1)), strict=True)


_COMPARISONS: Final[Mapping[str, Callable[[Linear, Linear], Formula]]] = MappingProxyType(
    {
        "<=": _at_most,
        ">=": lambda left, right: _at_most(right, left),
        "<": _below,
        ">": lambda left, right: _below(right, left),
        "=": lambda left, right: And((_at_most(left, right), _at_most(right, left))),
        "==": lambda left, right: And((_at_most(left, right), _at_most(right, left))),
        "!=": lambda left, right: Or((_below(left, right), _below(right, left))),
    }
)
