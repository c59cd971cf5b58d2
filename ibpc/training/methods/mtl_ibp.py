"""MTL-IBP: a weighted sum of the adversarial and the certified loss (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from functools import partial

import torch

from ibpc.training.methods._combined import COMBINED, combined
from ibpc.training.methods.base import WARM_UP, TrainingMethod, register
from ibpc.training.objectives import blend, nominal_loss, robust_loss


def join(attacked: torch.Tensor, margins: torch.Tensor, labels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return (1 − α) · adversarial + α · IBP loss."""
    return blend(robust_loss(margins, labels), nominal_loss(attacked, labels), alpha)


METHOD = register(
    TrainingMethod(
        "mtl-ibp", "Weighted sum of the adversarial and the IBP loss", partial(combined, join), WARM_UP, COMBINED
    )
)
