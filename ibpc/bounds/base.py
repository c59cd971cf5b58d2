"""The one signature of all bounding methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch

from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic

Bounder: TypeAlias = Callable[[Interval], Interval]


class Method(Protocol):
    """A bounding method: from a network and margin rows to a function that bounds the margins over a box."""

    def __call__(self, graph: Graph, matrix: torch.Tensor, arithmetic: Arithmetic, device: torch.device) -> Bounder:
        """Return the function box (B, …) → bounds of `matrix` · output, (B, rows).

        `graph` carries its weights (a snapshot), `matrix` is (rows, outputs).
        """
        ...
