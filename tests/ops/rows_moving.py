"""Rows of the operators that move, repeat, add up or interpolate the elements of a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case, Values


def summed_apart(call: Call, x: Tensor, **parameters: Any) -> Tensor:
    """Cumulative sums, each computed separately and from its end."""
    axis, shift = call["axis"], int(call["exclusive"])
    size = x.shape[axis]
    spans = [range(i + shift, size) if call["reverse"] else range(i + 1 - shift) for i in range(size)]
    parts = [x.narrow(axis, span.start, len(span)).flip(axis).sum(axis) for span in (s or range(0) for s in spans)]
    return torch.stack(parts, axis)


def resized_backwards(call: Call, x: Tensor, **parameters: Any) -> Tensor:
    """Weighted sums, tap by tap from the last one."""
    positions, weights, axis = parameters["positions"], parameters["weights"], call["axis"]
    view = [-1, *[1] * (x.dim() - axis - 1)]
    taps = reversed(range(positions.shape[1]))
    return sum(x.index_select(axis, positions[:, tap]) * weights[:, tap].reshape(view) for tap in taps)


_MOVES = (
    Case("Gather", (Box((5, 3)),), {"axis": 1}, {"indices": Values([4, 0, 0])}, name="rows, one of them twice"),
    Case("Gather", (Box((2, 4)),), {"axis": 2}, {"indices": Values([[3, 1], [0, 2]])}, name="matrix of indices"),
    Case("Gather", (Box((4, 2)),), {"axis": 1}, {"indices": Values(2)}, name="single index"),
    Case("Expand", (Box((1, 3)),), {"shape": [4, 3]}, name="rows"),
    Case("Expand", (Box((2, 1, 1)),), {"shape": [2, 1, 3]}, name="last dimension"),
    Case("Tile", (Box((2, 3)),), {"repeats": [3, 2]}, name="both dimensions"),
    Case("Tile", (Box((4,)),), {"repeats": [1]}, name="once"),
)

_SUMS = (
    Case("CumSum", (Box((2, 6)),), {"axis": 2}, name="inclusive", evaluations=(summed_apart,)),
    Case("CumSum", (Box((5, 2)),), {"axis": 1, "exclusive": True}, name="exclusive", evaluations=(summed_apart,)),
    Case("CumSum", (Box((7,)),), {"axis": 1, "reverse": True}, name="reverse", evaluations=(summed_apart,)),
    Case(
        "CumSum",
        (Box((3, 4), 999.0, 1001.0),),
        {"axis": 2, "exclusive": True, "reverse": True},
        name="exclusive, reverse, far from zero",
        evaluations=(summed_apart,),
    ),
)

_LINEAR = {
    "positions": Values([[0, 0], [0, 1], [1, 2], [2, 2]]),
    "weights": Values([[1.0, 0.0], [0.25, 0.75], [0.4, 0.6], [0.5, 0.5]]),
    "doubts": Values([[0.0, 0.0], [0.0, 0.0], [1e-6, 1e-6], [0.0, 0.0]]),
}
_CUBIC = {
    "positions": Values([[0, 1, 2, 3], [4, 3, 2, 1]]),
    "weights": Values([[-0.1, 0.7, 0.5, -0.1], [-0.05, 0.65, 0.5, -0.1]]),
    "doubts": Values([[0.0] * 4] * 2),
}
_RESIZED = (
    Case("Resize", (Box((3, 2)),), {"axis": 1}, _LINEAR, name="linear", evaluations=(resized_backwards,)),
    Case("Resize", (Box((2, 5)),), {"axis": 2}, _CUBIC, name="cubic", evaluations=(resized_backwards,)),
)

ROWS = (*_RESIZED, *_MOVES, *_SUMS)
