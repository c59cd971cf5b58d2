"""The graphs that training runs, over the network's own parameters, with the margins merged into the last layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import torch
from torch import fx
from torch.nn import functional as F

from ibpc.data import Split, fit_images, to_unit
from ibpc.errors import TrainingError
from ibpc.interval import Interval, boxes_of
from ibpc.ir import Graph, Node
from ibpc.lowering import NO_OVERRIDES, Phase, lower_interval, lower_nominal, lower_paired, parameter_tree
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.ops.rules import Rules
from ibpc.passes.merge_specification import merge_specification
from ibpc.training.attack import AttackOptions, AttackScore, ascend
from ibpc.training.draws import Draws
from ibpc.training.engine import USUAL, Engine, Precision, Products, in_bfloat16, repeating, running
from ibpc.training.evaluating import evaluating
from ibpc.training.momentum import BATCH_NORMALIZATION, KEPT, with_momentum
from ibpc.training.objectives import certified, correct
from ibpc.training.synchronization import synchronized
from ibpc.workers import ALONE, Workers

_RECTIFIERS: Final = frozenset({"Relu", "LeakyRelu", "PRelu"})


@dataclass(frozen=True)
class Accuracy:
    """Shares of `images` images: classified correctly, and certified at radius `eps`."""

    images: int
    eps: float
    nominal: float
    certified: float


class TrainingGraphs:
    """A network's graphs for training and for evaluation during training, each made on first use.

    Further graphs are lowered from `merged`, the network with the class differences as its last output, and `tree`, its
    parameters, shared with the network's. `index` finds the margins of a label (`ibpc.margins.margin_index`).

    Raises TrainingError unless the network has one input and one output, a row of logits.
    """

    def __init__(
        self,
        network: Network,
        workers: Workers = ALONE,
        engine: Engine = Engine.EAGER,
        precision: Precision = USUAL,
        rules: Mapping[str, Rules] = NO_OVERRIDES,
    ) -> None:
        if len(network.graph.inputs) != 1 or len(network.graph.outputs) != 1:
            found = f"{len(network.graph.inputs)} inputs and {len(network.graph.outputs)} outputs"
            raise TrainingError.at(f"network {network.name}", found, "one input and one output")
        self.network, self.workers, self.rules = network, workers, rules
        self._engine, self._precision = engine, precision
        self.merged: Graph = merge_specification(
            network.graph, class_differences(network.classes), name=network.graph.fresh_name("margins")
        ).graph
        self.tree = parameter_tree(self.merged, network.parameters).to(network.device)
        self.index = margin_index(network.classes).to(network.device)

    def obeying(self, rules: Mapping[str, Rules]) -> Self:
        """Return graphs of the same network whose training uses other rules for some operators; evaluation does not."""
        return type(self)(self.network, self.workers, self._engine, self._precision, rules)

    def prepared(self, module: fx.GraphModule) -> fx.GraphModule:
        """Return a training graph in the recipe's precision; BatchNormalization sees the batch of all processes."""
        shared = synchronized(module, self.workers)
        return in_bfloat16(shared) if self._precision.products == Products.BFLOAT16.value else shared

    def run(self, module: fx.GraphModule) -> Callable[..., Any]:
        """Return a training graph, prepared, as the engine runs it; call it at most once per step (`engine.py`)."""
        return running(self._engine, self.prepared(module))

    def repeat(self, function: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., tuple[torch.Tensor, ...]]:
        """Return a function, whose gradients stay inside it, as the engine runs it; it can be called any time."""
        return repeating(self._engine, function)

    @cached_property
    def nominal(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The graph x → logits in training."""
        return self.run(lower_nominal(self.network.graph, self.network.parameters, Phase.TRAINING))

    @cached_property
    def logits_of(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The graph points → logits in training: normalized by the batch of points, without updating the statistics."""
        return self.run(lower_nominal(with_momentum(self.network.graph, KEPT), self.network.parameters, Phase.TRAINING))

    @cached_property
    def undescended(self) -> TrainingGraphs:
        """Graphs whose logits carry no gradient, for steps whose loss does not use them.

        They save the backward pass through the nominal values. Where boxes depend on the nominal batch
        (BatchNormalization), the graphs themselves are returned.
        """
        if any(rules.training is not rules.nominal for rules in map(self._rules_of, self.merged.order())):
            return self
        return _Undescended(self.network, self.workers, self._engine, self._precision, self.rules)

    def _rules_of(self, node: Node) -> Rules:
        return self.rules.get(node.operator, operators()[node.operator].rules)

    @cached_property
    def _paired(self) -> Callable[..., Any]:
        return self._pair(self.merged.outputs[-1:])

    @cached_property
    def _observed(self) -> Callable[..., Any]:
        return self._pair((*self.merged.outputs[-1:], *self.rectified))

    def _pair(self, bounded: Sequence[str]) -> Callable[..., Any]:
        """Return the graph (x, l, u) → logits, then l, u of each `bounded` value."""
        return self.run(lower_paired(self.merged, self.tree, self.merged.outputs[:1], bounded, rules=self.rules))

    @cached_property
    def rectified(self) -> tuple[str, ...]:
        """The names of the values that a rectifier reads, in order."""
        return rectified_values(self.network.graph)

    @cached_property
    def _bounds(self) -> fx.GraphModule:
        return lower_interval(self.merged, self.tree, outputs=self.merged.outputs[-1:])

    def ball(self, x: torch.Tensor, eps: float) -> Interval:
        """Return the L∞ ball of radius `eps` around x (B, …), clipped to the same range as in certification."""
        return Interval.ball(x, eps, self.network.pixel_range)

    def paired(self, x: torch.Tensor, box: Interval, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (B, K) at x and the lower bounds (B, K) of the margins over the box, in training."""
        logits, lower, upper = self._paired(x, box.lower, box.upper)
        return logits, margins_of(lower, upper, labels, self.index)

    def observed(
        self, x: torch.Tensor, box: Interval, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[Interval, ...]]:
        """Return what `paired` returns, and the boxes of the values that rectifiers read, ordered as `rectified`."""
        logits, *bounds = self._observed(x, box.lower, box.upper)
        boxes = boxes_of(bounds)
        return logits, margins_of(boxes[0].lower, boxes[0].upper, labels, self.index), boxes[1:]

    def adversarial(
        self, x: torch.Tensor, labels: torch.Tensor, eps: float, attack: AttackOptions, draws: Draws
    ) -> torch.Tensor:
        """Return points (B, …) of the balls of radius `eps` · attack.eps_factor with a high cross-entropy.

        The attacked network is in evaluation mode: it uses running statistics and does not update them.
        """
        with evaluating(self.network.parameters):
            return ascend(self._errors, self.ball(x, eps * attack.eps_factor), attack, draws, labels)

    @cached_property
    def _errors(self) -> AttackScore:
        def score(points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.network.nominal(points), labels, reduction="none")

        return AttackScore(score, self.repeat)

    @torch.no_grad()
    def accuracy(self, split: Split, eps: float, batch: int) -> Accuracy:
        """Return the accuracies over a split (on the network's device) at radius `eps`, in evaluation mode.

        Each process evaluates its share of the images.
        """
        self.network.parameters.eval()
        counts = torch.zeros(2, dtype=torch.int64, device=self.network.device)
        shares = (torch.split(self.workers.share(rows), batch) for rows in (split.images, split.labels))
        for images, labels in zip(*shares, strict=True):
            x = fit_images(to_unit(images), self.network.input_shape)
            box = self.ball(x, eps)
            right = correct(self.network.nominal(x), labels)
            lower, upper = self._bounds(box.lower, box.upper)
            proved = certified(margins_of(lower, upper, labels, self.index))
            counts += torch.stack([right.sum(), proved.sum()])
        nominal, proven = (count / len(split) for count in self.workers.total(counts).tolist())
        return Accuracy(len(split), eps, nominal, proven)


class _Undescended(TrainingGraphs):
    """Graphs that compute logits and boxes separately, the logits without gradients."""

    def _pair(self, bounded: Sequence[str]) -> Callable[..., Any]:
        boxes = self.run(lower_paired(self.merged, self.tree, (), bounded, rules=self.rules))
        logits = self.repeat(lambda x: (self.network.nominal(x),))

        def pair(x: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                found = logits(x)
            return (*found, *boxes(x, lower, upper))

        return pair


def rectified_values(graph: Graph) -> tuple[str, ...]:
    """Return the names of the values that a rectifier (Relu, LeakyRelu, PRelu) reads, in order."""
    nodes = (node for node in graph.order() if node.operator in _RECTIFIERS)
    return tuple(dict.fromkeys(graph.operands(node.name)[0] for node in nodes))


def unnormalized_values(graph: Graph) -> tuple[str, ...]:
    """Return the names of the values that a rectifier reads and that do not come from a BatchNormalization."""
    return tuple(name for name in rectified_values(graph) if graph.node(name).operator != BATCH_NORMALIZATION)
