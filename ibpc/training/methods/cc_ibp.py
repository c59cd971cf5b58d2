"""CC-IBP: the loss at a mean of adversarial and certified margins (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from functools import partial

import torch

from ibpc.training.methods._combined import COMBINED, combined
from ibpc.training.methods.base import WARM_UP, TrainingMethod, register
from ibpc.training.objectives import robust_loss


def join(attacked: torch.Tensor, margins: torch.Tensor, labels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the loss at (1 − α) · adversarial + α · IBP margins."""
    adversarial = attacked.gather(1, labels[:, None]) - attacked
    return robust_loss((1.0 - alpha) * adversarial + alpha * margins, labels)


METHOD = register(
    TrainingMethod(
        "cc-ibp", "Loss at a mean of adversarial and certified margins", partial(combined, join), WARM_UP, COMBINED
    )
)
