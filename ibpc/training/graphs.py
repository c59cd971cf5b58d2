"""The graphs that training runs, over the network's own parameters, with the margins merged into the last layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx

from ibpc.data import Split, fit_images, to_unit
from ibpc.errors import TrainingError
from ibpc.interval import Interval
from ibpc.lowering import lower_interval, lower_paired, parameter_tree
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.network import Network
from ibpc.passes.merge_specification import merge_specification
from ibpc.training.objectives import certified, correct


@dataclass(frozen=True)
class Accuracy:
    """Shares of `images` images: classified as their label, and proved to be so at radius `eps`."""

    images: int
    eps: float
    nominal: float
    certified: float


class TrainingGraphs:
    """A network's graphs for training and for looking at it meanwhile. Each is made on first use.

    Raises TrainingError unless the network has one input and one output, a row of logits.
    """

    def __init__(self, network: Network) -> None:
        if len(network.graph.inputs) != 1 or len(network.graph.outputs) != 1:
            found = f"{len(network.graph.inputs)} inputs and {len(network.graph.outputs)} outputs"
            raise TrainingError.at(f"network {network.name}", found, "one input and one output")
        self.network = network
        self._merged = merge_specification(
            network.graph, class_differences(network.classes), name=network.graph.fresh_name("margins")
        ).graph
        self._tree = parameter_tree(self._merged, network.parameters).to(network.device)
        self._index = margin_index(network.classes).to(network.device)

    @property
    def nominal(self) -> fx.GraphModule:
        """The graph x → logits in training."""
        return self.network.nominal_training

    @cached_property
    def _paired(self) -> fx.GraphModule:
        logits, margins = self._merged.outputs
        return lower_paired(self._merged, self._tree, nominal=[logits], bounded=[margins])

    @cached_property
    def _bounds(self) -> fx.GraphModule:
        return lower_interval(self._merged, self._tree, outputs=self._merged.outputs[-1:])

    def ball(self, x: torch.Tensor, eps: float) -> Interval:
        """Return the L∞ ball of radius `eps` around x (B, …), clipped to the network's input range."""
        return Interval.ball(x, eps, self.network.input_range)

    def paired(self, x: torch.Tensor, box: Interval, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (B, K) at x and the lower bounds (B, K) of the margins over the box, in training."""
        logits, lower, upper = self._paired(x, box.lower, box.upper)
        return logits, margins_of(lower, upper, labels, self._index)

    @torch.no_grad()
    def accuracy(self, split: Split, eps: float, batch: int) -> Accuracy:
        """Return the accuracies over a split (on the network's device) at radius `eps`, in evaluation."""
        self.network.parameters.eval()
        counts = torch.zeros(2, dtype=torch.int64, device=self.network.device)
        for images, labels in zip(torch.split(split.images, batch), torch.split(split.labels, batch), strict=True):
            x = fit_images(to_unit(images), self.network.input_shape)
            box = self.ball(x, eps)
            right = correct(self.network.nominal(x), labels)
            lower, upper = self._bounds(box.lower, box.upper)
            proved = certified(margins_of(lower, upper, labels, self._index))
            counts += torch.stack([right.sum(), proved.sum()])
        nominal, proven = (count / len(split) for count in counts.tolist())
        return Accuracy(len(split), eps, nominal, proven)
