"""A network cut in two: boxes up to the cut, adversarial points of the box behind it.

(Mao et al. 2023, arXiv 2305.04574.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch

from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.lowering import lower_nominal, lower_paired
from ibpc.margins import margins_of, other_classes, spread_margins
from ibpc.ops import operators
from ibpc.training.attack import AttackOptions, AttackScore, ascend
from ibpc.training.draws import Draws
from ibpc.training.evaluating import evaluating
from ibpc.training.fields import value
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.momentum import KEPT, with_momentum

_NARROW: Final = 1e-5


@dataclass(frozen=True)
class CutOptions:
    """Where the network is cut, and how gradients cross the cut."""

    layers: int = value(
        1,
        "Nonlinear operators behind the cut (Mao et al. 2023: 3 and 1 for MNIST at 0.1 and 0.3, 5 and 1 for CIFAR-10 "
        "at 2/255 and 8/255)",
        type="integer",
        minimum=1,
    )
    softness: float = value(
        0.5,
        "c: share of the box, next to a bound, in which a point passes gradient to that bound (0.5: Mao et al. 2023)",
        type="number",
        exclusiveMinimum=0,
        maximum=0.5,
    )
    gradient_scale: float = value(
        5.0,
        "w: factor of the gradient through the points (5: Mao et al. 2023 for CIFAR-10)",
        type="number",
        exclusiveMinimum=0,
    )


def cut_before(graph: Graph, output: str, layers: int) -> str:
    """Return the first cut with at most `layers` nonlinear operators between it and `output`.

    A cut is a node that every path from the inputs to `output` passes. A network with fewer nonlinear operators is cut
    at its input.
    """
    needed = graph.ancestors([output])
    for name in graph.cuts(output):
        behind = (graph.descendants([name]) & needed) - {name}
        if sum(not operators()[graph.node(node).operator].is_affine for node in behind) <= layers:
            return name
    return graph.inputs[0]


def connect(points: torch.Tensor, box: Interval, softness: float) -> torch.Tensor:
    """Return the points (B, P, …) unchanged, with gradients to the bounds (B, …) that they are close to.

    The upper bound gets the gradient of a point times (x − (u − c (u − l))) / (c (u − l)) where that is positive, the
    lower bound symmetrically (the rectified linear gradient connector of Mao et al. 2023, section 3.2).
    """
    lower, upper = box.lower.unsqueeze(1), box.upper.unsqueeze(1)
    points = points.detach()
    low, high = lower.detach(), upper.detach()
    slack = softness * (high - low)
    on_upper, on_lower = (_nearness(gap, slack) for gap in (points - (high - slack), low + slack - points))
    return points + on_upper * (upper - high) + on_lower * (lower - low)


def _nearness(gap: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
    """Return max(gap, 0) / slack; 1/2 in a box of width 0, where both bounds equal the point."""
    return torch.where(gap >= 0, gap.clamp_min(_NARROW / 2) / slack.clamp_min(_NARROW), torch.zeros_like(gap))


@dataclass(frozen=True)
class Front:
    """The results of the boxed part: logits (B, K), value and box at the cut (B, …), bounds of the margins (B, K)."""

    logits: torch.Tensor
    latent: torch.Tensor
    box: Interval
    margins: torch.Tensor


class CutGraphs:
    """The graphs before and behind a cut, over the parameters of `graphs`."""

    def __init__(self, graphs: TrainingGraphs, cut: CutOptions) -> None:
        logits, margins = graphs.merged.outputs
        self.name = cut_before(graphs.merged, logits, cut.layers)
        self._graphs = graphs
        self._softness = cut.softness
        merged, tree, start = graphs.merged, graphs.tree, [self.name]
        front = lower_paired(merged, tree, [logits, self.name], [self.name, margins], rules=graphs.rules)
        behind = lower_paired(with_momentum(merged, KEPT), tree, nominal=[], bounded=[margins], inputs=start)
        self._front, self._behind = graphs.run(front), graphs.run(behind)
        self._attacked = lower_nominal(merged, tree, inputs=start, outputs=[logits])
        self._gains = AttackScore(self._gain, graphs.repeat)

    def front(self, x: torch.Tensor, box: Interval, labels: torch.Tensor) -> Front:
        """Return the results for images x (B, …) and a box around them, in training mode."""
        logits, latent, lower, upper, *margins = self._front(x, box.lower, box.upper)
        bounds = margins_of(margins[0], margins[1], labels, self._graphs.index)
        return Front(logits, latent, Interval.bounds(lower, upper), bounds)

    def estimate(self, front: Front, labels: torch.Tensor, attack: AttackOptions, draws: Draws) -> torch.Tensor:
        """Return the least margins (B, K) found over the box at the cut, 0 at the label.

        Each other class is attacked with a point of its own. Gradients flow into the network behind the cut, which is
        normalized by the nominal batch, and through the connector into the box.
        """
        classes = front.logits.shape[1]
        others = other_classes(labels, classes)
        points = connect(self._search(front.box, labels, others, attack, draws), front.box, self._softness)
        flat, own = points.flatten(0, 1), labels.repeat_interleave(classes - 1)
        latent = front.latent.repeat_interleave(classes - 1, dim=0)
        lower, upper = self._behind(latent, flat, flat)
        margins = margins_of(lower, upper, own, self._graphs.index).gather(1, others.reshape(-1, 1))
        return spread_margins(margins.reshape(others.shape), others)

    def _search(
        self, box: Interval, labels: torch.Tensor, others: torch.Tensor, attack: AttackOptions, draws: Draws
    ) -> torch.Tensor:
        """Return for each other class (B, K − 1) a point (B, K − 1, …) of the box where its logit gains most."""
        count = others.shape[1]
        own = labels.repeat_interleave(count)[:, None]
        wide = Interval.bounds(*_repeated((box.lower, box.upper), count))
        with evaluating(self._graphs.network.parameters):
            points = ascend(self._gains, wide, attack, draws, others.reshape(-1, 1), own)
        return points.reshape(*others.shape, *points.shape[1:])

    def _gain(self, points: torch.Tensor, others: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return z_others − z_own (B,) for classes `others` and `own`, both (B, 1)."""
        logits: torch.Tensor = self._attacked(points)
        return (logits.gather(1, others) - logits.gather(1, own))[:, 0]


def _repeated(tensors: Iterable[torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (tensor.detach().repeat_interleave(count, dim=0) for tensor in tensors)
    return first, second
