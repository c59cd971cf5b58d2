"""Rows between computed numbers, and what is known of the values of a model that have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ibpc.frontends.onnx_fold import Array, Known

_NAMED: Final = 5


@dataclass(frozen=True)
class Bound:
    """A whole number of the file: that of an ONNX value of one element, and an offset. Without a value, the offset."""

    root: str
    offset: int


@dataclass(frozen=True)
class Span:
    """The rows from `start` to the one before `end` of an axis of `size` rows, as ONNX Slice counts and clamps them."""

    start: Bound
    end: Bound
    size: int


Dim: TypeAlias = int | Span
Dims: TypeAlias = tuple[Dim, ...]
Vector: TypeAlias = NDArray[np.object_]


class Shapes:
    """What is known of the values of a model: beside those of static shape, `windows` and the shapes of windows.

    A window has dimensions, of which some are spans; its shape is one of the `vectors`, of numbers and spans.
    """

    def __init__(self, values: Mapping[str, Known]) -> None:
        self.values = values
        self.windows: dict[str, Dims] = {}
        self.vectors: dict[str, Vector] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a value is a window or the shape of one, which has no static shape in the file."""
        return name in self.windows or name in self.vectors

    def dims(self, name: str) -> Dims:
        """Return the dimensions of a value."""
        return self.windows[name] if name in self.windows else self.values[name].shape

    def vector(self, node: onnx.NodeProto, slot: int) -> Vector:
        """Return an operand that is a shape, as python numbers and spans."""
        name = node.input[slot]
        if name in self.vectors:
            return self.vectors[name]
        known = self._constant(name)
        if known is None or known.dtype.kind not in "iu":
            raise self.refusal(node)
        return known.astype(object)

    def constant(self, node: onnx.NodeProto, slot: int) -> Array:
        """Return an operand that is a constant."""
        known = self._constant(node.input[slot] if slot < len(node.input) else "")
        if known is None:
            raise self.refusal(node)
        return known

    def _constant(self, name: str) -> Array | None:
        return self.values[name].constant if name in self.values and name not in self else None

    def refusal(self, node: onnx.NodeProto, detail: str = "") -> ValueError:
        """Return the error for a node that wants to know a shape that no static network has."""
        names = ", ".join([name for name in node.input if name in self][:_NAMED])
        where = f" ({names})" if names else ""
        return ValueError(
            f"the shape of what it reads depends on numbers that the network computes{where}{detail and ': '}{detail}; "
            "expected a static shape, or a window that ScatterND writes to"
        )


def has_operand(node: onnx.NodeProto, slot: int) -> bool:
    """Return whether a node has an operand at a slot."""
    return slot < len(node.input) and bool(node.input[slot])


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def whole_sizes(dims: Iterable[Dim]) -> NDArray[np.int64]:
    """Return the shape of the whole tensor."""
    return np.array([dim.size if isinstance(dim, Span) else dim for dim in dims], dtype=np.int64)
