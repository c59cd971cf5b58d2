"""Terms of the loss that depend on the parameters alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ibpc.training.fields import value


@dataclass(frozen=True)
class Regularization:
    """How strongly each term counts. Weight decay belongs to the optimizer."""

    l1: float = value(0.0, "Weight of the sum of the moduli of all weights", type="number", minimum=0)


def l1_norm(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return Σ |w| over all weights, a scalar. It is what lets a box grow: the radius passes through |W|."""
    return torch.stack([weight.abs().sum() for weight in weights]).sum()
