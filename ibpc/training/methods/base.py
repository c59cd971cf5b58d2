"""The record of a training method, and the registry of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from ibpc.errors import OperatorError, UsageError, nearest
from ibpc.ir import Graph
from ibpc.training.draws import Draws
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.schedules import Moment

if TYPE_CHECKING:
    from ibpc.training.recipe import Recipe


@dataclass(frozen=True)
class Terms:
    """The result of an objective for one batch: the loss to minimize, its parts by name (scalars), logits and margins.

    `margins` are lower bounds (B, K) over the whole ball of radius ε, with 0 at the label, or None if the method
    computes none (bounds over a smaller box certify nothing).
    """

    loss: torch.Tensor
    logits: torch.Tensor
    margins: torch.Tensor | None = None
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """The loss of one batch, computed without host synchronization."""

    def __call__(self, x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        """Return the terms of images x (B, …) in [0, 1] with labels (B,) int64 at a moment of the schedules.

        All random numbers come from `draws`, on the device of x. A checkpoint stores its generator, so a resumed run
        continues with the same numbers.
        """
        ...


def without_margins(objective: Objective) -> Objective:
    """Return the objective with no margins in its terms, for boxes that do not contain the whole ball."""

    def hidden(x: torch.Tensor, labels: torch.Tensor, moment: Moment, draws: Draws) -> Terms:
        return replace(objective(x, labels, moment, draws), margins=None)

    return hidden


def no_advice(graph: Graph) -> tuple[str, ...]:
    """Return no advice."""
    return ()


@dataclass(frozen=True)
class TrainingMethod:
    """A training method by name. `build(graphs, recipe)` returns its objective.

    `defaults` are values of a recipe, by dotted name, for which the paper differs from the defaults of the schema; a
    recipe that leaves them out gets them. `sections` name those of OWN_SECTIONS that the method reads.
    `advice(graph)` lists where the network deviates from the paper's recommendations.
    """

    name: str
    summary: str
    build: Callable[[TrainingGraphs, Recipe], Objective]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sections: frozenset[str] = frozenset()
    advice: Callable[[Graph], tuple[str, ...]] = no_advice


# Sections of a recipe that only some methods read.
OWN_SECTIONS: Final = frozenset({"attack", "box", "combination", "cut", "linear"})
# Defaults that several papers share and that differ from IBP as Gowal et al. (2018) train it.
ROBUST_ALONE: Final[Mapping[str, Any]] = MappingProxyType(
    {"schedule.kappa_start": 0.0, "schedule.kappa_end": 0.0, "schedule.shape": "smooth"}
)
WARM_UP: Final[Mapping[str, Any]] = MappingProxyType(
    {**ROBUST_ALONE, "regularization.tightness": 0.5, "regularization.balance": 0.5}
)


_REGISTRY: Final[dict[str, TrainingMethod]] = {}


def register(method: TrainingMethod) -> TrainingMethod:
    """Add a method to the registry. Raises OperatorError for a name that is taken, or sections that are not its own."""
    where = f"method {method.name}"
    if method.name in _REGISTRY:
        raise OperatorError.at(where, "the name is taken", "a unique name")
    if unknown := method.sections - OWN_SECTIONS:
        found = f"it reads {', '.join(sorted(unknown))}"
        raise OperatorError.at(where, found, f"sections that only some methods read: {', '.join(sorted(OWN_SECTIONS))}")
    _REGISTRY[method.name] = method
    return method


def methods() -> Mapping[str, TrainingMethod]:
    """Return all registered methods by name."""
    return MappingProxyType(_REGISTRY)


def method_named(name: str) -> TrainingMethod:
    """Return a method. Raises UsageError for an unknown name."""
    if name not in _REGISTRY:
        raise UsageError.at("method", f"found {name!r}", "a training method", nearest(name, _REGISTRY))
    return _REGISTRY[name]


def reads(method: str, key: str) -> bool:
    """Return whether a method reads a value of the recipe, given by its dotted name. Raises UsageError."""
    section = key.partition(".")[0]
    return section not in OWN_SECTIONS or section in method_named(method).sections
