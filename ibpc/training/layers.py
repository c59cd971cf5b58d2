"""Boxes inside a network: their widths where rectifiers read them, and the shares of dead and active neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ibpc.interval import Interval, boxes_of
from ibpc.lowering import lower_interval
from ibpc.network import Network
from ibpc.training.evaluating import evaluating
from ibpc.training.graphs import rectified_values


def boxes_within(network: Network, names: Sequence[str]) -> Callable[[Interval], tuple[Interval, ...]]:
    """Return a function from a box (B, …) of the input to those of the values `names`, under the present weights."""
    bounds = lower_interval(network.graph, network.parameters, outputs=names)

    def boxes(box: Interval) -> tuple[Interval, ...]:
        return boxes_of(bounds(box.lower, box.upper))

    return boxes


@dataclass(frozen=True)
class LayerFigures:
    """Figures of the value `name`, which a rectifier reads: mean width of its box, and shares of its neurons.

    Neurons are active if lower ≥ 0, else dead if upper ≤ 0, else unstable. The three shares add up to 1.
    """

    name: str
    width: float
    dead: float
    active: float
    unstable: float


class LayerProbe:
    """Bounds the values inside a network around images x (B, …), in evaluation mode, under its current weights."""

    def __init__(self, network: Network, x: torch.Tensor, eps: float) -> None:
        self._network = network
        self._names = rectified_values(network.graph)
        self._box = Interval.ball(x.to(network.device), eps, network.pixel_range)
        self._boxes = boxes_within(network, self._names) if self._names else None

    @torch.no_grad()
    def __call__(self) -> tuple[LayerFigures, ...]:
        """Return the figures under the current weights, in the order of the network."""
        if self._boxes is None:
            return ()
        with evaluating(self._network.parameters):
            boxes = self._boxes(self._box)
        return tuple(_figures(name, box) for name, box in zip(self._names, boxes, strict=True))


def _figures(name: str, box: Interval) -> LayerFigures:
    is_active = box.lower >= 0
    is_dead = (box.upper <= 0) & ~is_active
    means = torch.stack([box.width.mean(), is_active.float().mean(), is_dead.float().mean()])
    width, active, dead = means.tolist()
    return LayerFigures(name, width, dead, active, max(0.0, 1.0 - active - dead))
