"""Loss terms that several methods share: pure functions of tensors.

`logits` are (B, K), `labels` (B,) int64, and `margins` (B, K) lower bounds of z_label − z_j with 0 at j = label
(`ibpc.margins.margins_of`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ibpc.training.fields import value


@dataclass(frozen=True)
class Combination:
    """How adversarial and certified losses are combined."""

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

    The worst-case logits relative to the label's own are −margins, with 0 at the label: upper bounds of z_j − z_label
    over the box (Gowal et al. 2018, arXiv 1810.12715, equation 9, with the last layer elided). The loss is an upper
    bound of the cross-entropy at every point of the box.
    """
    return F.cross_entropy(-margins, labels)


def blend(first: torch.Tensor, second: torch.Tensor, weight: float) -> torch.Tensor:
    """Return weight · first + (1 − weight) · second (Gowal et al. 2018, equation 12: κ · nominal + (1 − κ) · robust).

    A term of weight 0 is left out.
    """
    if weight in (0.0, 1.0):
        return first if weight else second
    return first * weight + second * (1.0 - weight)


# ── counting ────────────────────────────────────────────────────────────────────────────────────────────────────


def correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return for each sample whether the largest logit is the label's, (B,) bool."""
    return logits.argmax(1) == labels


def certified(margins: torch.Tensor) -> torch.Tensor:
    """Return for each sample whether all K − 1 margins against other classes are positive, (B,) bool."""
    return (margins > 0).sum(1) == margins.shape[1] - 1
