"""The declarations of a VNN-LIB file: the tensors of inputs and outputs, and which element each variable is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from ibpc.errors import nearest
from ibpc.verify.properties import DeclaredTensor
from ibpc.verify.vnnlib.formulas import Side, Variable
from ibpc.verify.vnnlib.lexer import Token
from ibpc.verify.vnnlib.tokens import WORD, Tokens

MOST_ELEMENTS: Final = 2**24

_SCALAR: Final = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TYPES: Final = ("Real", "real", "float32", "float64")


@dataclass
class Declared:
    """The tensors of one side in order; `elements` holds the scalars X_i of a file of version 1.0."""

    tensors: list[DeclaredTensor] = field(default_factory=list)
    elements: dict[int, int] = field(default_factory=dict)


class Declarations:
    """The declarations that were read so far."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._source = tokens.source
        self._sides = {Side.INPUT: Declared(), Side.OUTPUT: Declared()}
        self._places: dict[str, tuple[Side, tuple[int, ...], int]] = {}
        self._network: str | None = None

    def declare_scalar(self, command: Token) -> None:
        """Read the rest of a declaration of X_i or Y_i."""
        if self._network is not None:
            raise self._tokens.error(command, "assertions: the network is declared already")
        name = self._tokens.word(_SCALAR, "X_0, X_1, … for inputs, Y_0, Y_1, … for outputs")
        if command.text == "declare-fun":
            self._tokens.take("(")
            self._tokens.take(")")
        self._type()
        side = Side.INPUT if name.text[0] == "X" else Side.OUTPUT
        index = int(name.text[2:])
        elements = self._sides[side].elements
        if index in elements:
            raise self._tokens.error(
                name, f"a name of its own: {name.text} is declared at {self._line(elements[index])}"
            )
        self._tokens.spend(name, WORD)
        elements[index] = name.offset

    def declare_network(self, _command: Token) -> None:
        """Read the rest of the declaration of a network with its tensors."""
        name = self._tokens.word(_NAME, "the network's name")
        if self._network is not None or any(side.elements for side in self._sides.values()):
            raise self._tokens.error(name, "one network", "properties that compare several networks are not supported")
        self._network = name.text
        kinds: Mapping[str, Callable[[Token], None]] = {
            "declare-input": lambda _: self._declare_tensor(Side.INPUT),
            "declare-output": lambda _: self._declare_tensor(Side.OUTPUT),
            "declare-hidden": self._refuse,
            "isomorphic-to": self._refuse,
            "equal-to": self._refuse,
        }
        while self._tokens.peek().text == "(":
            self._tokens.take("(")
            kind = self._tokens.next()
            if kind.text not in kinds:
                raise self._tokens.error(kind, "declare-input or declare-output", nearest(kind.text, kinds))
            kinds[kind.text](kind)
            self._tokens.take(")")

    def tensors(self, side: Side, letter: str) -> tuple[DeclaredTensor, ...]:
        """Return the tensors of a side. Raises PropertyError if there are none, or if a scalar is missing."""
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
            return (DeclaredTensor(letter, (count,)),)
        if not declared.tensors:
            raise self._source.error(len(self._source.text), f"the file declares no {side.value}", f"one, {letter}_0")
        return tuple(declared.tensors)

    def variable(self, token: Token) -> Variable:
        """Return the variable that starts with a token; its indices are read as well."""
        if self._network is not None:
            return self._element(token)
        match = _SCALAR.fullmatch(token.text)
        if match is None:
            raise self._tokens.error(token, "a number or a declared variable")
        side, index = Side.INPUT if match[1] == "X" else Side.OUTPUT, int(match[2])
        if index not in self._sides[side].elements:
            raise self._source.error(
                token.offset, f"{token.text} is not declared", f"(declare-const {token.text} Real)"
            )
        return side, index

    def _line(self, offset: int) -> str:
        return self._source.at(offset).removeprefix(f"{self._source.name}:")

    def _type(self) -> None:
        token = self._tokens.next()
        if token.text not in _TYPES:
            raise self._tokens.error(token, f"one of the element types {', '.join(_TYPES)}")

    def _refuse(self, token: Token) -> None:
        raise self._tokens.error(
            token, "declare-input or declare-output", "hidden values and other networks are not supported"
        )

    def _declare_tensor(self, side: Side) -> None:
        name = self._tokens.word(_NAME, "the tensor's name")
        if name.text in self._places:
            raise self._tokens.error(name, "a name that is not taken")
        self._type()
        shape = tuple(self._integers(least=1))
        tensors = self._sides[side].tensors
        start = sum(tensor.size for tensor in tensors)
        if start + prod(shape) > MOST_ELEMENTS:
            raise self._tokens.error(name, f"at most {MOST_ELEMENTS:,} elements")
        onnx_name = self._tokens.next().text[1:-1] if self._tokens.peek().text.startswith('"') else ""
        if self._tokens.peek().text == "initialized":
            remedy = "what a file initializes is constant here: leave this input out"
            raise self._tokens.error(self._tokens.peek(), "')'", remedy)
        tensors.append(DeclaredTensor(name.text, shape, onnx_name))
        self._places[name.text] = (side, shape, start)

    def _integers(self, least: int) -> Iterator[int]:
        """Yield the numbers of a bracketed list, which is empty for a scalar."""
        self._tokens.take("[")
        if self._tokens.peek().text == "]":
            self._tokens.next()
            return
        while True:
            token = self._tokens.next()
            if not (
                token.text.isascii() and token.text.isdigit() and len(token.text) < 10 and int(token.text) >= least
            ):
                raise self._tokens.error(token, f"a whole number of at least {least}")
            yield int(token.text)
            mark = self._tokens.next()
            if mark.text == "]":
                return
            if mark.text != ",":
                raise self._tokens.error(mark, "',' or ']'")

    def _element(self, token: Token) -> Variable:
        if token.text not in self._places:
            raise self._tokens.error(token, "a number or a declared tensor", nearest(token.text, self._places))
        side, shape, start = self._places[token.text]
        indices = tuple(self._integers(least=0)) if self._tokens.peek().text == "[" else ()
        if len(indices) != len(shape) or any(i >= size for i, size in zip(indices, shape, strict=True)):
            found = f"{token.text}[{','.join(map(str, indices))}]"
            raise self._source.error(token.offset, found, f"an element of shape [{','.join(map(str, shape))}]")
        flat = 0
        for index, size in zip(indices, shape, strict=True):
            flat = flat * size + index
        return side, start + flat
