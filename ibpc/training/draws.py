"""Random numbers of a part of a batch: those that its rows get when the whole batch draws.

Every process draws for the whole batch and keeps its own rows. So a run is the same however its batches are shared out
among processes and micro-batches, and one generator's state is all that a checkpoint needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draws:
    """Random numbers for part `part` of the `parts` equal ones, in order, of a batch."""

    generator: torch.Generator
    part: int = 0
    parts: int = 1

    def uniform(self, like: torch.Tensor) -> torch.Tensor:
        """Return numbers uniform in [0, 1), of the shape (B, …), dtype and device of `like`, this part's rows."""
        rows = like.shape[0]
        shape = (rows * self.parts, *like.shape[1:])
        whole = torch.rand(shape, generator=self.generator, device=like.device, dtype=like.dtype)
        return whole[rows * self.part : rows * (self.part + 1)]
