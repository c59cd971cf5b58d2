"""EXP-IBP: the adversarial and the certified loss, each to a power (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from functools import partial

import torch

from ibpc.training.methods._combined import combined
from ibpc.training.methods.base import WARM_UP, Method, register
from ibpc.training.objectives import exponential_loss, nominal_loss, robust_loss


def join(attacked: torch.Tensor, margins: torch.Tensor, labels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return adversarial loss^(1 − α) · IBP loss^α."""
    return exponential_loss(nominal_loss(attacked, labels), robust_loss(margins, labels), alpha)


METHOD = register(
    Method("exp-ibp", "Product of powers of the adversarial and the IBP loss", partial(combined, join), WARM_UP)
)
