"""The numbers at which windows start and end: values of one element, plus a constant."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from ibpc.frontends.onnx_windows.spans import Bound, Shapes

WHOLE_NUMBERS: Final = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
# Positions and row numbers stay where neither 32 bits nor the integers of binary32 arithmetic end.
FARTHEST: Final = 2**23
_LONGEST_SUM: Final = 64


class Positions:
    """Reads the operands of Slice nodes."""

    def __init__(self, graph: onnx.GraphProto, shapes: Shapes) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._shapes = shapes

    def are_computed(self, node: onnx.NodeProto) -> bool:
        """Return whether a node of Slice starts or ends at numbers that the network computes."""
        return any(name and self._shapes.values[name].constant is None for name in node.input[1:3])

    def of(self, node: onnx.NodeProto, slot: int) -> list[Bound]:
        """Return the numbers in an operand."""
        name = node.input[slot]
        known = self._shapes.values[name].constant
        if known is not None:
            return [Bound("", int(number)) for number in known.ravel()]
        return [self._bound(name, node)]

    def _bound(self, name: str, node: onnx.NodeProto) -> Bound:
        """Return a computed number as that of a value of one element, and an offset: sums with constants are undone."""
        offset = 0
        for _ in range(_LONGEST_SUM):
            if (step := self._step_of(name)) is None:
                break
            name, offset = step[0], offset + step[1]
        known = self._shapes.values[name]
        if known.elem_type not in WHOLE_NUMBERS or int(np.prod(known.shape)) != 1 or abs(offset) > FARTHEST:
            raise self._shapes.refusal(node, f"{name} is no single whole number")
        return Bound(name, offset)

    def _step_of(self, name: str) -> tuple[str, int] | None:
        """Return the value that another one is plus a number, if its node says so."""
        maker = self._makers.get(name)
        if maker is None or maker.domain or any(each and each not in self._shapes.values for each in maker.input):
            return None
        known = [self._shapes.values[each] for each in maker.input if each]
        if any(each.elem_type != onnx.TensorProto.INT64 for each in (*known, self._shapes.values[name])):
            return None
        if maker.op_type in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast") and known[0].constant is None:
            return maker.input[0], 0
        if maker.op_type not in ("Add", "Sub") or len(known) != 2:
            return None
        for slot, sign in ((0, 1), (1, 1 if maker.op_type == "Add" else -1)):
            constant = known[slot].constant
            other = known[1 - slot].constant
            if constant is not None and other is None and constant.size == 1 and (slot or maker.op_type == "Add"):
                return maker.input[1 - slot], sign * int(constant.ravel()[0])
        return None
