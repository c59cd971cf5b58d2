"""EXP-IBP: the product of powers of the adversarial and the certified loss (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch

from ibpc.training.methods._combined import COMBINED, combined
from ibpc.training.methods.base import WARM_UP, TrainingMethod, register
from ibpc.training.objectives import nominal_loss, robust_loss

_TINY: Final = 1e-30


def join(attacked: torch.Tensor, margins: torch.Tensor, labels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return adversarial loss^(1 − α) · IBP loss^α.

    A loss below 1e-30 is replaced by 1e-30, with gradient 0: the powers have no finite gradient at 0.
    """
    losses = nominal_loss(attacked, labels), robust_loss(margins, labels)
    adversarial, certified = (loss.clamp_min(_TINY).log() for loss in losses)
    return torch.exp((1.0 - alpha) * adversarial + alpha * certified)


METHOD = register(
    TrainingMethod(
        "exp-ibp", "Product of powers of the adversarial and the IBP loss", partial(combined, join), WARM_UP, COMBINED
    )
)
