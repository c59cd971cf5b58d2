"""What a training method is: a name, and a builder of its objective over a network's graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

import torch

from ibpc.errors import OperatorError, UsageError, nearest
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.schedules import Moment


@dataclass(frozen=True)
class Terms:
    """What an objective says of one batch: the loss to descend, its parts by name (scalars), and what led to them.

    `margins` are lower bounds (B, K) with 0 at the label, or None where the method computes none.
    """

    loss: torch.Tensor
    logits: torch.Tensor
    margins: torch.Tensor | None = None
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """The loss of one batch. No host synchronisation in it: it runs on the device without waiting."""

    def __call__(self, x: torch.Tensor, labels: torch.Tensor, moment: Moment) -> Terms:
        """Return the terms of images x (B, …) in [0, 1] with labels (B,) int64 at a moment of the schedules."""
        ...


@dataclass(frozen=True)
class Method:
    """A training method by name. `build(graphs)` returns its objective."""

    name: str
    summary: str
    build: Callable[[TrainingGraphs], Objective]


_REGISTRY: Final[dict[str, Method]] = {}


def register(method: Method) -> Method:
    """Add a method to the registry. Raises OperatorError for a name that is taken."""
    if method.name in _REGISTRY:
        raise OperatorError.at(f"method {method.name}", "the name is taken", "a unique name")
    _REGISTRY[method.name] = method
    return method


def methods() -> Mapping[str, Method]:
    """Return all registered methods by name."""
    return MappingProxyType(_REGISTRY)


def method_named(name: str) -> Method:
    """Return a method. Raises UsageError for an unknown name."""
    if name not in _REGISTRY:
        raise UsageError.at("method", f"found {name!r}", "a training method", nearest(name, _REGISTRY))
    return _REGISTRY[name]
