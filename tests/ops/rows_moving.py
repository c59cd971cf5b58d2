"""Rows of the operators that move, repeat, add up or interpolate the elements of a sample."""

from __future__ import annotations

from tests.ops.cases import Box, Case, Values

_MOVES = (
    Case("Gather", (Box((5, 3)),), {"axis": 1}, {"indices": Values([4, 0, 0])}, name="rows, one of them twice"),
    Case("Gather", (Box((2, 4)),), {"axis": 2}, {"indices": Values([[3, 1], [0, 2]])}, name="matrix of indices"),
    Case("Gather", (Box((4, 2)),), {"axis": 1}, {"indices": Values(2)}, name="single index"),
    Case("Expand", (Box((1, 3)),), {"shape": [4, 3]}, name="rows"),
    Case("Expand", (Box((2, 1, 1)),), {"shape": [2, 1, 3]}, name="last dimension"),
    Case("Tile", (Box((2, 3)),), {"repeats": [3, 2]}, name="both dimensions"),
    Case("Tile", (Box((4,)),), {"repeats": [1]}, name="once"),
)

ROWS = _MOVES
