"""Averages of the weights over the last part of a run, and BatchNormalization statistics for the final weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from ibpc.lowering import Phase, entry_of, lower_nominal
from ibpc.network import Network
from ibpc.training.evaluating import evaluating
from ibpc.training.fields import value
from ibpc.training.momentum import BATCH_NORMALIZATION, REPLACED, with_momentum

NONE: Final = "none"
EQUAL: Final = "swa"
EXPONENTIAL: Final = "ema"
POPULATION: Final = "population"
RUNNING: Final = "running"


@dataclass(frozen=True)
class Averaging:
    """Which average of the weights a run ends with, and which statistics BatchNormalization then uses."""

    kind: str = value(
        NONE,
        "The mean: none, swa (equal weights: Izmailov et al. 2018), ema (exponential)",
        enum=[NONE, EQUAL, EXPONENTIAL],
    )
    start: float = value(
        0.9,
        "Share of the run after which averaging begins (CTBench: 0.93 to 0.94)",
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )
    every: int = value(10, "Steps from one set of weights to the next (10: CTBench)", type="integer", minimum=1)
    decay: float = value(
        0.99, "ema: share of the mean that is kept each time", type="number", exclusiveMinimum=0, exclusiveMaximum=1
    )
    statistics: str = value(
        RUNNING,
        "BatchNormalization at the end: running averages, or those of the training images under the final weights. "
        "A mean of weights always gets the latter",
        enum=[RUNNING, POPULATION],
    )


class WeightAverage:
    """The mean of a model's parameters over the last steps of a run; empty before it begins."""

    def __init__(self, options: Averaging, model: nn.Module, total: int) -> None:
        self._options = options
        self._parameters = dict(model.named_parameters())
        self._first = round(options.start * total)
        self._mean: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step`, counted from 0, to the mean, if they are due."""
        past = step + 1 - self._first
        if self._options.kind == NONE or past <= 0 or past % self._options.every:
            return
        if not self._mean:
            self._mean = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            return
        equal = self._options.kind == EQUAL
        share = self._options.every / past if equal else 1.0 - self._options.decay
        for name, parameter in self._parameters.items():
            self._mean[name].lerp_(parameter, share)

    @torch.no_grad()
    def apply(self) -> bool:
        """Copy the mean into the model, and return whether there is one."""
        for name, mean in self._mean.items():
            self._parameters[name].copy_(mean)
        return bool(self._mean)

    def state(self) -> Mapping[str, torch.Tensor]:
        """Return the mean by the names of the parameters; empty before it begins."""
        return dict(self._mean)

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a state. Raises KeyError for a parameter that the model does not have."""
        self._mean = {name: mean.to(self._parameters[name].device) for name, mean in state.items()}


@torch.no_grad()
def population_statistics(network: Network, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of every BatchNormalization to those of batches (B, …) under the present weights.

    With mean μ and variance v of each batch, they become E[μ] and E[v + μ²] − E[μ]², where each batch is normalized by
    its own statistics (Wu and Johnson 2021, arXiv 2105.07576, section 3). All batches have the same size.
    """
    names = [node.name for node in network.graph.order() if node.operator == BATCH_NORMALIZATION]
    if not names:
        return
    pairs = [(_buffer(network, name, "running_mean"), _buffer(network, name, "running_var")) for name in names]
    means, squares = ([torch.zeros_like(mean) for mean, _ in pairs] for _ in range(2))
    graph = with_momentum(network.graph, REPLACED)
    forward = lower_nominal(graph, network.parameters, Phase.TRAINING)
    count = 0
    with evaluating(network.parameters):
        for x in batches:
            forward(x)
            count += 1
            for (mean, variance), total, square in zip(pairs, means, squares, strict=True):
                total.add_(mean)
                square.add_(variance + mean**2)
    for (mean, variance), total, square in zip(pairs, means, squares, strict=True):
        mean.copy_(total / count)
        variance.copy_((square / count - mean**2).clamp_min(0.0))


def _buffer(network: Network, node: str, role: str) -> torch.Tensor:
    return entry_of(network.parameters, network.graph.source_of(f"{node}.{role}"))
