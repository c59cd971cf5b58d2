"""Random numbers for part of a batch.

Every process draws for the whole batch and keeps its own rows. So a run does not depend on how its batches are split
among processes and micro-batches, and a checkpoint needs the state of one generator only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draws:
    """Random numbers for part number `part` of a batch that is split into `parts` equal parts, in order."""

    generator: torch.Generator
    part: int = 0
    parts: int = 1

    def uniform(self, like: torch.Tensor) -> torch.Tensor:
        """Return this part's rows of uniform numbers in [0, 1), with the shape (B, …), dtype and device of `like`."""
        rows = like.shape[0]
        shape = (rows * self.parts, *like.shape[1:])
        whole = torch.rand(shape, generator=self.generator, device=like.device, dtype=like.dtype)
        return whole[rows * self.part : rows * (self.part + 1)]
