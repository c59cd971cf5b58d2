"""Regularization terms of the loss: of the parameters, and of the boxes inside the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from ibpc.interval import Interval
from ibpc.training.fields import value

_TINY: Final = 1e-12


@dataclass(frozen=True)
class Regularization:
    """The weight of each term. Weight decay belongs to the optimizer."""

    l1: float = value(0.0, "Weight of the sum of the absolute values of all weights", type="number", minimum=0)
    tightness: float = value(
        0.0,
        "First weight of the growth of boxes, which falls to 0 as ε climbs (λ₀ = 0.5: Shi et al. 2021)",
        type="number",
        minimum=0,
    )
    balance: float = value(
        0.0,
        "First weight of the imbalance of rectifiers, which falls to 0 as ε climbs (λ₀ = 0.5: Shi et al. 2021)",
        type="number",
        minimum=0,
    )
    tolerance: float = value(
        0.5,
        "τ: the ratio above which tightness and balance are not penalized (0.5: Shi et al. 2021)",
        type="number",
        exclusiveMinimum=0,
        maximum=1,
    )


L1: Final = "l1_loss"


def l1_norm(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return Σ |w| over all weights, a scalar. It limits the growth of boxes, as radii are multiplied by |W|."""
    return torch.stack([weight.abs().sum() for weight in weights]).sum()


def tightness(first: Interval, boxes: Sequence[Interval], tolerance: float) -> torch.Tensor:
    """Return how much wider the boxes are than the `first`, that of the input: a scalar.

    It is the mean over the boxes of max(τ − E[r₀] / E[rᵢ], 0) / τ, with mean radii E[r] (Shi et al. 2021, arXiv
    2103.17268, section 3.3).
    """
    start = first.width.mean()
    ratios = torch.stack([start / box.width.mean().clamp_min(_TINY) for box in boxes])
    return (tolerance - ratios).clamp_min(0.0).mean() / tolerance


def balance(boxes: Sequence[Interval], tolerance: float) -> torch.Tensor:
    """Return the imbalance between active and inactive neurons, whose inputs lie in the boxes: a scalar.

    It is the mean over the boxes of (max(τ − α, 0) + max(τ − β, 0)) / τ. α is the ratio, smaller to greater, of the
    sums of |center| over active neurons (lower > 0) and over inactive ones (upper < 0); β is the same ratio of the sums
    of squared deviations of the centers from their mean (Shi et al. 2021, section 3.3).
    """
    return torch.stack([_imbalance(box, tolerance) for box in boxes]).mean() / tolerance


def _imbalance(box: Interval, tolerance: float) -> torch.Tensor:
    center = box.center
    mean = center.mean()
    (active, above), (inactive, below) = (_moments(center, kind, mean) for kind in (box.lower > 0, box.upper < 0))
    return _lack(active, -inactive, tolerance) + _lack(above, below, tolerance)


def _moments(center: torch.Tensor, chosen: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Σ c and Σ (c − mean)² over the n chosen centers c, in few passes over the tensor.

    The second is computed as Σ c² − 2 mean Σ c + n mean².
    """
    centers = (center * chosen.to(center.dtype)).flatten()
    total = centers.sum()
    return total, (torch.dot(centers, centers) - 2 * mean * total + mean**2 * chosen.sum()).clamp_min(0.0)


def _lack(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Return max(τ − smaller / greater, 0), or 0 if both are 0, which means that no neuron is stable."""
    greater = torch.maximum(first, second)
    lack = (tolerance - torch.minimum(first, second) / greater.clamp_min(_TINY)).clamp_min(0.0)
    return torch.where(greater > 0, lack, torch.zeros_like(lack))
