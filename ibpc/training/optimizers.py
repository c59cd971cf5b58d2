"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

from ibpc.training.fields import value


@dataclass(frozen=True)
class Optimization:
    """The optimizer and its parameters."""

    name: str = value("adam", "The optimizer", enum=["adam", "adamw", "sgd"])
    learning_rate: float = value(1e-3, "The first learning rate", type="number", exclusiveMinimum=0)
    weight_decay: float = value(
        0.0, "Weight of the squared norm (adamw: decoupled from the gradient)", type="number", minimum=0
    )
    momentum: float = value(0.9, "Momentum of sgd", type="number", minimum=0, exclusiveMaximum=1)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer over `parameters`."""
        return _BUILDERS[self.name](self, parameters)

    def state_of(self, parameter: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return tensors like those that the optimizer keeps for a parameter, by taking one step on a dummy."""
        dummy = nn.Parameter(torch.zeros_like(parameter))
        dummy.grad = torch.zeros_like(parameter)
        optimizer = self.build([dummy])
        optimizer.step()
        return {key: entry for key, entry in optimizer.state[dummy].items() if isinstance(entry, torch.Tensor)}


def _common(options: Optimization, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """Return the arguments of every optimizer. On a GPU, a fused kernel updates all parameters."""
    trained = list(parameters)
    return {
        "params": trained,
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
        "fused": all(parameter.is_cuda for parameter in trained) or None,
    }


def _adam(options: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(**_common(options, parameters))


def _adamw(options: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(**_common(options, parameters))


def _sgd(options: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(**_common(options, parameters), momentum=options.momentum)


_BUILDERS: Final[Mapping[str, Callable[[Optimization, Iterable[nn.Parameter]], torch.optim.Optimizer]]] = (
    MappingProxyType({"adam": _adam, "adamw": _adamw, "sgd": _sgd})
)
