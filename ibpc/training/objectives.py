"""Loss terms: pure functions of tensors. Methods put them together.

`logits` are (B, K), `labels` (B,) int64, and `margins` (B, K) lower bounds of z_label − z_j with 0 at j = label
(`ibpc.margins.margins_of`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional as F

from ibpc.training.fields import value

_TINY: Final = 1e-30


@dataclass(frozen=True)
class Combination:
    """How adversarial and certified losses meet."""

    alpha: float = value(
        0.5,
        "α: the weight of the certified side (De Palma et al. 2024: from 0.004 for CIFAR-10 at 2/255 to 0.5 at 8/255)",
        type="number",
        minimum=0,
        maximum=1,
    )


def nominal_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the logits: a scalar."""
    return F.cross_entropy(logits, labels)


def robust_loss(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the worst-case logits, a scalar.

    The worst-case logits relative to the label's own are −margins, with 0 at the label: an upper bound of
    z_j − z_label over the box (Gowal et al. 2018, arXiv 1810.12715, equation 9, with the last layer elided). It
    bounds the cross-entropy of every point of the box from above.
    """
    return F.cross_entropy(-margins, labels)


def blend(nominal: torch.Tensor, robust: torch.Tensor, kappa: float) -> torch.Tensor:
    """Return κ · nominal + (1 − κ) · robust (Gowal et al. 2018, equation 12). A term of weight 0 is left out."""
    if kappa in (0.0, 1.0):
        return nominal if kappa else robust
    return nominal * kappa + robust * (1.0 - kappa)


# ── adversarial and certified terms together ────────────────────────────────────────────────────────────────────
def margins_at(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the margins z_label − z_j (B, K) of the logits themselves."""
    return logits.gather(1, labels[:, None]) - logits


def multi_task_loss(adversarial: torch.Tensor, certified: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return (1 − α) · adversarial + α · certified, of two losses (MTL-IBP: De Palma et al. 2024, arXiv 2305.13991)."""
    return (1.0 - alpha) * adversarial + alpha * certified


def convex_combination_loss(
    adversarial: torch.Tensor, certified: torch.Tensor, labels: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return the loss at (1 − α) · adversarial + α · certified, of two tables of margins (B, K).

    (CC-IBP: De Palma et al. 2024.)
    """
    return robust_loss((1.0 - alpha) * adversarial + alpha * certified, labels)


def exponential_loss(adversarial: torch.Tensor, certified: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return adversarial^(1 − α) · certified^α, of two losses (EXP-IBP: De Palma et al. 2024).

    Losses below 1e-30 count as that, without a gradient: the powers have none at 0.
    """
    first, second = adversarial.clamp_min(_TINY).log(), certified.clamp_min(_TINY).log()
    return torch.exp((1.0 - alpha) * first + alpha * second)


def product_loss(estimated: torch.Tensor, certified: torch.Tensor, scale: float) -> torch.Tensor:
    """Return estimated · certified, with the gradient through `estimated` multiplied by `scale`.

    (TAPS: Mao et al. 2023, arXiv 2305.04574, section 3.4.)
    """
    return (estimated.detach() + scale * (estimated - estimated.detach())) * certified


def convex_polygon_loss(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean of log(1 + exp(−margin)) over the K − 1 other classes and the batch, a scalar.

    The faces margin > 0 bound the polytope of correct outputs: the loss counts each face on its own, where a
    cross-entropy lets the worst one dominate.
    """
    others = (-margins).scatter(1, labels[:, None], -torch.inf)
    return F.softplus(others).sum() / (margins.shape[0] * (margins.shape[1] - 1))


# ── what is counted ─────────────────────────────────────────────────────────────────────────────────────────────


def correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return for each sample whether the largest logit is the label's, (B,) bool."""
    return logits.argmax(1) == labels


def certified(margins: torch.Tensor) -> torch.Tensor:
    """Return for each sample whether all K − 1 margins against other classes are positive, (B,) bool."""
    return (margins > 0).sum(1) == margins.shape[1] - 1
