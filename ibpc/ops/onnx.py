"""How operators are imported from and exported to ONNX: the interfaces of import and export rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from ibpc.errors import GraphError
from ibpc.ir import Attributes, Shape
from ibpc.ops.rules import Call


class Value(Protocol):
    """A value during import: a constant, or computed from an input."""

    @property
    def constant(self) -> Tensor | None:
        """The value if it is constant, else None."""
        ...

    @property
    def shape(self) -> Shape:
        """The shape (dimension 0 is `BATCH` where the value is not constant)."""
        ...


class Builder(Protocol):
    """Builds nodes for an ONNX import rule."""

    def add(
        self,
        operator: str,
        operands: Iterable[Value],
        attributes: Attributes | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Value:
        """Add a node, missing attributes filled with defaults, and return its value."""
        ...

    def constant(self, value: Tensor) -> Value:
        """Return a constant value."""
        ...


@dataclass(frozen=True)
class OnnxNode:
    """One ONNX node as an import rule sees it; `inputs` holds None for an omitted input ("").

    `version` is the operator version determined by the file's opset. `attributes` hold python values (ints, floats,
    strings, lists, tensors) with the operator version's defaults filled in. `types` are the element types of the
    inputs in the file (numbers of onnx.TensorProto.DataType, 0 for an omitted input), `unread` the output slots that
    nothing reads.
    """

    name: str
    type: str
    version: int
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: int = 1
    types: tuple[int, ...] = ()
    unread: frozenset[int] = frozenset()

    def type_of(self, slot: int) -> int:
        """Return the element type of an input in the file, 0 if it is omitted or unknown."""
        return self.types[slot] if slot < len(self.types) else 0

    def operand(self, slot: int) -> Value:
        """Return the input of a slot. Raises GraphError if it is omitted."""
        value = self.inputs[slot] if slot < len(self.inputs) else None
        if value is None:
            raise GraphError.at(f"node {self.name}", f"input {slot} of {self.type} is left out", "a value")
        return value

    def optional(self, slot: int) -> Value | None:
        """Return the input of a slot, or None if it is omitted."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def known(self, slot: int) -> Tensor:
        """Return the constant of a slot. Raises GraphError if it is omitted or depends on an input."""
        constant = self.operand(slot).constant
        if constant is None:
            raise GraphError.at(
                f"node {self.name}", f"input {slot} of {self.type} depends on the network's input", "a constant"
            )
        return constant


class Writer(Protocol):
    """Writes nodes for an ONNX export rule. Values are ONNX value names."""

    def node(self, type: str, inputs: Iterable[str], outputs: int = 1, /, **attributes: Any) -> str:
        """Append a node and return the name of its (first) output."""
        ...

    def constant(self, value: Tensor) -> str:
        """Add an initializer and return its name."""
        ...


@dataclass(frozen=True)
class OnnxImport:
    """How an ONNX operator type is imported. `versions` are the versions (since_version) that `read` supports.

    `read(node, builder)` returns the node's output value, or a tuple for several.
    """

    type: str
    versions: tuple[int, ...]
    read: Callable[[OnnxNode, Builder], Value | tuple[Value, ...]]


OnnxExport: TypeAlias = Callable[[Call, Writer, tuple[str, ...], Mapping[str, Tensor]], str]
