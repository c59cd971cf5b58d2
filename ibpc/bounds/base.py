"""The one signature of all bounding methods."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol, TypeAlias

import torch

from ibpc.bounds.values import Walk
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

Bounder: TypeAlias = Callable[..., Interval]


class Method(Protocol):
    """A bounding method: from a network and margin rows to a function that bounds the margins over boxes.

    The function takes one box (B, …) for each input of the network.
    """

    def __call__(
        self,
        walk: Walk,
        matrix: torch.Tensor,
        arithmetic: Arithmetic,
        deadline: float = inf,
    ) -> Bounder:
        """Return the function boxes (B, …) → bounds of `matrix` · outputs, (B, rows).

        `walk` goes over the network made ready (`walk_of`), on the device of the boxes; `matrix` is (rows, K) over
        all outputs, flat and one after the other. After `deadline` (of `time.monotonic`) the function stops tightening
        and returns what it has: looser bounds, and as sound.
        """
        ...
