"""What boxes do inside a network: how wide they are where a rectifier reads them, and how many neurons they decide."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ibpc.interval import Interval
from ibpc.lowering import lower_interval
from ibpc.network import Network
from ibpc.training.evaluating import evaluating
from ibpc.training.graphs import rectified_values


@dataclass(frozen=True)
class LayerFigures:
    """Of the value `name` that a rectifier reads: the mean width of its bounds, and shares of its neurons.

    Dead: upper ≤ 0. Active: lower ≥ 0. Unstable: neither. The three add up to 1.
    """

    name: str
    width: float
    dead: float
    active: float
    unstable: float


class LayerProbe:
    """Looks at a network's boxes around images x (B, …), in evaluation. It shares the network's parameters."""

    def __init__(self, network: Network, x: torch.Tensor, eps: float) -> None:
        self._network = network
        self._names = rectified_values(network.graph)
        self._box = Interval.ball(x.to(network.device), eps, network.pixel_range)
        self._bounds = lower_interval(network.graph, network.parameters, outputs=self._names) if self._names else None

    @torch.no_grad()
    def __call__(self) -> tuple[LayerFigures, ...]:
        """Return the figures under the present weights, in the order of the network."""
        if self._bounds is None:
            return ()
        with evaluating(self._network.parameters):
            bounds = self._bounds(self._box.lower, self._box.upper)
        pairs = zip(bounds[::2], bounds[1::2], strict=True)
        return tuple(_figures(name, *pair) for name, pair in zip(self._names, pairs, strict=True))


def _figures(name: str, lower: torch.Tensor, upper: torch.Tensor) -> LayerFigures:
    active = lower >= 0
    dead = (upper <= 0) & ~active
    width, alive, gone = torch.stack([(upper - lower).mean(), active.float().mean(), dead.float().mean()]).tolist()
    return LayerFigures(name, width, gone, alive, max(0.0, 1.0 - alive - gone))
