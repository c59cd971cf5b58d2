"""Figures of an epoch: sums on the device, read once at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

import torch
from torch import nn

from ibpc.training.methods import Terms
from ibpc.training.objectives import certified, correct
from ibpc.workers import Workers

LOSS: Final = "loss"

_CORRECT: Final = "correct"
_CERTIFIED: Final = "certified"


@dataclass(frozen=True)
class Figures:
    """Means over the `images` images of an epoch, and whether every loss and every parameter is finite."""

    images: int
    losses: Mapping[str, float]
    nominal_accuracy: float
    certified_accuracy: float | None
    is_finite: bool


class Totals:
    """Sums over an epoch, kept on the device until they are read."""

    def __init__(self) -> None:
        self._images = 0
        self._sums: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, terms: Terms, labels: torch.Tensor) -> None:
        """Add the terms of one batch with labels (B,)."""
        count = len(labels)
        self._images += count
        for name, mean in {LOSS: terms.loss, **terms.parts}.items():
            self._sum(name, mean.detach() * count)
        self._sum(_CORRECT, correct(terms.logits, labels).sum())
        if terms.margins is not None:
            self._sum(_CERTIFIED, certified(terms.margins).sum())

    def _sum(self, name: str, amount: torch.Tensor) -> None:
        self._sums[name] = self._sums[name] + amount if name in self._sums else amount

    def read(self, model: nn.Module, workers: Workers) -> Figures:
        """Return the figures over the images of all processes. Waits for the device, once."""
        broken = ~torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()
        own = torch.stack([*(total.float() for total in self._sums.values()), broken.float()])
        *sums, failures = workers.total(own).tolist()
        images = self._images * workers.count
        means = {name: total / images for name, total in zip(self._sums, sums, strict=True)}
        shares = {name: means.pop(name, None) for name in (_CORRECT, _CERTIFIED)}
        nominal = shares[_CORRECT]
        assert nominal is not None
        is_finite = failures == 0.0 and all(map(isfinite, means.values()))
        return Figures(images, means, nominal, shares[_CERTIFIED], is_finite)
