"""The grammar of VNN-LIB 1.0 and 2.0: tokens become declarations and formulas.

1.0 is a subset of SMT-LIB with the variables X_0, X_1, … and Y_0, Y_1, …, each declared by itself; 2.0 declares a
network with tensors, X[0,3]. The standard: Demarchi, Guidotti, Pulina, Tacchella, "Supporting Standardization of Neural
Networks Verification with VNN-LIB and CoCoNet" (2023), and the grammar of the VNN-LIB standard 2.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from ibpc.errors import nearest
from ibpc.verify.properties import DeclaredTensor
from ibpc.verify.vnnlib.declarations import Declarations
from ibpc.verify.vnnlib.formulas import And, Atom, Formula, LinearForm, Or, Side, opposite
from ibpc.verify.vnnlib.lexer import SourceText, Token
from ibpc.verify.vnnlib.tokens import WORD, Tokens

DEEPEST: Final = 100
# Most bits of a numerator or denominator.
_LONGEST: Final = 2**14

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_VERSION: Final = re.compile(r"<[12]\.\d{1,3}>", re.ASCII)
_IGNORED: Final = ("set-logic", "set-info", "set-option", "get-model")
_ENDS: Final = ("check-sat", "exit")


@dataclass(frozen=True)
class Query:
    """A parsed file: inputs, outputs, and the formulas that all hold at a counterexample."""

    inputs: tuple[DeclaredTensor, ...]
    outputs: tuple[DeclaredTensor, ...]
    formulas: tuple[Formula, ...]


def parse(source: SourceText) -> Query:
    """Parse a VNN-LIB file. Raises PropertyError with the line and column of the first mistake."""
    return _Parser(source).query()


class _Parser:
    def __init__(self, source: SourceText) -> None:
        self._source = source
        self._tokens = Tokens(source)
        self._declared = Declarations(self._tokens)

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────
    def query(self) -> Query:
        """Read the whole file."""
        commands: Mapping[str, Callable[[Token], Formula | None]] = {
            "declare-const": self._declared.declare_scalar,
            "declare-fun": self._declared.declare_scalar,
            "declare-network": self._declared.declare_network,
            "vnnlib-version": self._version,
            "assert": self._assert,
            **dict.fromkeys((*_IGNORED, *_ENDS), self._skip),
        }
        is_over = False
        formulas: list[Formula] = []
        while not self._tokens.is_at_end:
            self._tokens.take("(")
            token = self._tokens.next()
            if token.text not in commands:
                raise self._tokens.error(token, "a declaration or an assertion", nearest(token.text, commands))
            if is_over and token.text not in ("get-model", "exit"):
                raise self._tokens.error(token, "nothing but get-model and exit behind check-sat")
            is_over = is_over or token.text in _ENDS
            formula = commands[token.text](token)
            self._tokens.take(")")
            if formula is not None:
                formulas.append(formula)
        return Query(self._declared.tensors(Side.INPUT, "X"), self._declared.tensors(Side.OUTPUT, "Y"), tuple(formulas))

    def _skip(self, _command: Token) -> None:
        while self._tokens.peek().text not in ("(", ")", ""):
            self._tokens.next()

    def _version(self, _command: Token) -> None:
        token = self._tokens.next()
        if not _VERSION.fullmatch(token.text):
            raise self._tokens.error(token, "<1.0> or <2.0>")

    def _assert(self, _command: Token) -> Formula:
        return self._formula(0, 1)

    # ── formulas ────────────────────────────────────────────────────────────────────────────────────────────────
    def _formula(self, depth: int, sign: int) -> Formula:
        """Return a formula, or its negation if `sign` is −1: below an odd number of negations."""
        start = self._tokens.take("(")
        if depth > DEEPEST:
            raise self._source.error(start.offset, f"a formula nested more than {DEEPEST} deep")
        token = self._tokens.next()
        if token.text in _COMPARISONS:
            compared = self._comparison(token, depth)
            formula = compared if sign > 0 else opposite(compared)
        elif token.text in ("and", "or"):
            parts = [self._formula(depth + 1, sign)]
            while self._tokens.peek().text == "(":
                parts.append(self._formula(depth + 1, sign))
            formula = And(tuple(parts)) if (token.text == "and") == (sign > 0) else Or(tuple(parts))
        elif token.text == "not":
            formula = self._formula(depth + 1, -sign)
        elif token.text == "=>":
            implied = self._formula(depth + 1, -sign), self._formula(depth + 1, sign)
            formula = Or(implied) if sign > 0 else And(implied)
        else:
            raise self._tokens.error(token, f"one of and, or, not, =>, {', '.join(_COMPARISONS)}")
        self._tokens.take(")")
        return formula

    def _comparison(self, operator: Token, depth: int) -> Formula:
        """Return a comparison of each operand with the next one: (<= a b c) means a ≤ b and b ≤ c."""
        operands = [self._arithmetic(depth), self._arithmetic(depth)]
        while operator.text != "!=" and self._tokens.peek().text not in (")", ""):
            operands.append(self._arithmetic(depth))
        self._tokens.spend(operator, sum(len(operand.terms) for operand in operands))
        compared = tuple(_COMPARISONS[operator.text](left, right) for left, right in pairwise(operands))
        return compared[0] if len(compared) == 1 else And(compared)

    def _arithmetic(self, depth: int) -> LinearForm:
        token = self._tokens.next()
        if token.text == "(":
            return self._operation(token, depth + 1)
        self._tokens.spend(token, WORD)
        if _NUMBER.fullmatch(token.text):
            return LinearForm({}, Fraction(token.text))
        return LinearForm({self._declared.variable(token): Fraction(1)}, Fraction())

    def _operation(self, start: Token, depth: int) -> LinearForm:
        if depth > DEEPEST:
            raise self._source.error(start.offset, f"an expression nested more than {DEEPEST} deep")
        operator = self._tokens.next()
        if operator.text not in ("+", "-", "*", "/"):
            raise self._tokens.error(operator, "+, -, * or /")
        operands = [self._arithmetic(depth)]
        while self._tokens.peek().text not in (")", ""):
            operands.append(self._arithmetic(depth))
        self._tokens.take(")")
        self._tokens.spend(operator, sum(len(operand.terms) for operand in operands))
        return self._combined(operator, operands)

    def _combined(self, operator: Token, operands: Sequence[LinearForm]) -> LinearForm:
        if operator.text == "*":
            return self._product(operator, operands)
        if operator.text == "/":
            return self._quotient(operator, operands)
        if operator.text == "-" and len(operands) == 1:
            return operands[0].times(Fraction(-1))
        return self._sum(operator, operands, Fraction(-1 if operator.text == "-" else 1))

    def _sum(self, operator: Token, operands: Sequence[LinearForm], sign: Fraction) -> LinearForm:
        """Return the first operand + sign · Σ others, in time linear in the number of terms."""
        terms, constant = dict(operands[0].terms), operands[0].constant
        for other in operands[1:]:
            constant = self._short(operator, constant + sign * other.constant)
            for variable, value in other.terms.items():
                terms[variable] = self._short(operator, terms.get(variable, Fraction()) + sign * value)
        return LinearForm({variable: value for variable, value in terms.items() if value}, constant)

    def _product(self, operator: Token, operands: Sequence[LinearForm]) -> LinearForm:
        factor, form = Fraction(1), None
        for operand in operands:
            if not operand.terms:
                factor = self._short(operator, factor * operand.constant)
            elif form is None:
                form = operand
            else:
                raise self._source.error(operator.offset, "a product of two variables", "linear constraints")
        return LinearForm({}, factor) if form is None else self._times(operator, form, factor)

    def _quotient(self, operator: Token, operands: Sequence[LinearForm]) -> LinearForm:
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

    def _times(self, operator: Token, form: LinearForm, factor: Fraction) -> LinearForm:
        product = form.times(factor)
        for value in (product.constant, *product.terms.values()):
            self._short(operator, value)
        return product

    def _short(self, operator: Token, value: Fraction) -> Fraction:
        """Return the number. Raises PropertyError if it has too many digits."""
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LONGEST:
            raise self._source.error(operator.offset, "a number with too many digits")
        return value


def _at_most(left: LinearForm, right: LinearForm) -> Formula:
    return Atom(left.plus(right, Fraction(-1)), strict=False)


def _below(left: LinearForm, right: LinearForm) -> Formula:
    return Atom(left.plus(right, Fraction(-1)), strict=True)


_COMPARISONS: Final[Mapping[str, Callable[[LinearForm, LinearForm], Formula]]] = MappingProxyType(
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
