"""Which rows are in a window: comparisons of computed numbers with the numbers of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ibpc.frontends.onnx_fold import Known
from ibpc.frontends.onnx_windows.spans import Dims, Span
from ibpc.frontends.onnx_windows.writer import NodeWriter

# A row number where neither 32 bits nor the integers of binary32 arithmetic end, and which no row has.
_NEVER: Final = 2**24


class Marks:
    """Writes the marks of spans, each once."""

    def __init__(self, values: Mapping[str, Known], writer: NodeWriter) -> None:
        self._values = values
        self._writer = writer
        self._marks: dict[Span, str] = {}

    def of(self, dims: Dims, node: onnx.NodeProto) -> str:
        """Return where all spans among some dimensions have rows, as a tensor that broadcasts over them."""
        spans, joined = [dim for dim in dims if isinstance(dim, Span)], ""
        for place, span in enumerate(spans):
            shape = [1] * len(spans)
            shape[place] = span.size
            marks = self._reshaped(self._of_span(span, node), shape, node)
            joined = self._writer.add("And", [joined, marks], node) if joined else marks
        return self._reshaped(joined, [dim.size if isinstance(dim, Span) else 1 for dim in dims], node)

    def _reshaped(self, name: str, shape: Sequence[int], node: onnx.NodeProto) -> str:
        return self._writer.add("Reshape", [name, self._writer.constant(np.array(shape, np.int64))], node)

    def _of_span(self, span: Span, node: onnx.NodeProto) -> str:
        """Return which rows are in a span: row r is, if start ≤ r < end, either counted from the end where negative.

        With start = a + i and n rows, start ≤ r is (a ≤ r − i and a ≥ −i) or a ≤ r − n − i, and r < end = b + j is
        b > r − j or (b > r − n − j and b < −j), which no b is for the last row. a and b are compared as they are, so
        whole numbers decide exactly; bounds are so too, of a window with a row that starts at 0 or behind it.
        """
        if span not in self._marks:
            rows = np.arange(span.size)
            a, i, b, j = span.start.root, span.start.offset, span.end.root, span.end.offset
            from_front = self._writer.add("And", [self._below(a, rows - i + 1, node), self._from(a, [-i], node)], node)
            begun = self._writer.add("Or", [from_front, self._below(a, rows - span.size - i + 1, node)], node)
            least = np.where(rows == span.size - 1, _NEVER, rows - span.size - j + 1)
            from_back = self._writer.add("And", [self._from(b, least, node), self._below(b, [-j], node)], node)
            not_over = self._writer.add("Or", [self._from(b, rows - j + 1, node), from_back], node)
            self._marks[span] = self._writer.add("And", [begun, not_over], node)
        return self._marks[span]

    def _below(self, root: str, limits: Sequence[int] | NDArray[np.int64], node: onnx.NodeProto) -> str:
        """Return root < limits, elementwise."""
        kind = onnx.TensorProto.INT64 if not root else self._values[root].elem_type
        numbers = np.asarray(limits, helper.tensor_dtype_to_np_dtype(kind))
        one = self._writer.constant(np.zeros(1, numbers.dtype))
        if root:
            one = self._reshaped(root, [1], node)
        return self._writer.add("Less", [one, self._writer.constant(numbers)], node)

    def _from(self, root: str, limits: Sequence[int] | NDArray[np.int64], node: onnx.NodeProto) -> str:
        """Return root ≥ limits, elementwise."""
        return self._writer.add("Not", [self._below(root, limits, node)], node)
