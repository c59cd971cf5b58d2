"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import nn

from ibpc.training.fields import value


@dataclass(frozen=True)
class Optimization:
    """Which optimizer, and its numbers."""

    name: str = value("adam", "The optimizer", enum=["adam", "adamw", "sgd"])
    learning_rate: float = value(1e-3, "The first learning rate", type="number", exclusiveMinimum=0)
    weight_decay: float = value(
        0.0, "Weight of the squared norm (adamw: decoupled from the gradient)", type="number", minimum=0
    )
    momentum: float = value(0.9, "Momentum of sgd", type="number", minimum=0, exclusiveMaximum=1)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer over `parameters`."""
        return _BUILDERS[self.name](self, parameters)


def _adam(options: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, options.learning_rate, weight_decay=options.weight_decay)


def _adamw(options: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, options.learning_rate, weight_decay=options.weight_decay)


def _sgd(options: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, options.learning_rate, options.momentum, weight_decay=options.weight_decay)


_BUILDERS: Final[Mapping[str, Callable[[Optimization, Iterable[nn.Parameter]], torch.optim.Optimizer]]] = (
    MappingProxyType({"adam": _adam, "adamw": _adamw, "sgd": _sgd})
)
