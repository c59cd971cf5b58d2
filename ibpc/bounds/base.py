"""The one signature of all bounding methods."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol, TypeAlias

import torch

from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.rounding import Arithmetic

Bounder: TypeAlias = Callable[..., Interval]


class Method(Protocol):
    """A bounding method: from a network and margin rows to a function that bounds the margins over boxes.

    The function takes one box (B, …) for each input of the network.
    """

    def __call__(
        self,
        graph: Graph,
        matrix: torch.Tensor,
        arithmetic: Arithmetic,
        device: torch.device,
        deadline: float = inf,
    ) -> Bounder:
        """Return the function boxes (B, …) → bounds of `matrix` · outputs, (B, rows).

        `graph` carries its weights (a snapshot), `matrix` is (rows, K) over all outputs, flat and one after
        the other. After `deadline` (of `time.monotonic`) the function stops tightening and returns what it has: looser
        bounds, and as sound.
        """
        ...
