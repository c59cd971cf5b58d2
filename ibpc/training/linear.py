"""Linear bounds in a training step: a backward pass between the boxes of interval propagation.

(CROWN-IBP: Zhang et al. 2020, arXiv 1906.06316; loss fusion: Xu et al. 2020, arXiv 2002.12920, section 3.3.) This is
the backward pass of certification (`ibpc.bounds.backward`) in the precision of the weights. Gradients reach the weights
through the coefficients and through the boxes that determine the planes. Rounding is not accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

import torch
from torch.nn.utils import parametrize

from ibpc.bounds.backward import Backward
from ibpc.bounds.values import Step, Values
from ibpc.interval import Interval
from ibpc.ir import INPUT, Node
from ibpc.lowering import entry_of, lower_paired
from ibpc.margins import margins_of, other_classes, spread_margins
from ibpc.ops import operators
from ibpc.ops.base import Operator
from ibpc.ops.rules import Call, Operand, call_of
from ibpc.training.fields import value
from ibpc.training.graphs import TrainingGraphs

MARGINS: Final = "margins"
LOSS: Final = "loss"
# The planes of a narrower box have slopes without a usable gradient.
_NARROWEST: Final = 1e-8


@dataclass(frozen=True)
class LinearOptions:
    """What is bounded by linear bounds, and the weight of these bounds in the loss."""

    rows: str = value(
        LOSS,
        "The backward pass bounds the loss of a sample as one value (Xu et al. 2020), or each of its K − 1 margins, at "
        "K − 1 times the cost (Zhang et al. 2020)",
        enum=[LOSS, MARGINS],
    )
    beta_start: float = value(
        1.0,
        "Weight of linear bounds before the ramp; interval bounds get the rest",
        type="number",
        minimum=0,
        maximum=1,
    )
    beta_end: float = value(
        0.0,
        "Weight of linear bounds after the ramp (Zhang et al. 2020: 0, and 1 for CIFAR-10 at 2/255)",
        type="number",
        minimum=0,
        maximum=1,
    )


class _RoughBackward(Backward):
    """A backward pass that does not account for rounding and never waits for the device to read a value."""

    slack = 0.0
    may_synchronize = False


@dataclass(frozen=True)
class _Steps:
    """The steps of the network for one batch, as `Backward` reads them."""

    steps: Mapping[str, Step]
    inputs: tuple[str, ...]
    constants: dict[str, torch.Tensor | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Propagated:
    """The results of interval propagation: logits (B, K), box of the class differences (B, pairs), boxes by node."""

    logits: torch.Tensor
    differences: Interval
    boxes: Mapping[str, Interval]
    _backward: Backward
    _output: str

    def lower(self, forms: torch.Tensor) -> torch.Tensor:
        """Return lower bounds (R, B) over the box for linear forms (R, B, K) of the logits."""
        return self._backward.lower({self._output: forms})


class LinearGraphs:
    """Boxes and linear bounds of a training step, over the parameters of `graphs`."""

    def __init__(self, graphs: TrainingGraphs) -> None:
        merged = graphs.merged
        self._output, margins = merged.outputs
        self._graphs, self._merged = graphs, merged
        needed = merged.ancestors([self._output])
        self._nodes = [node for node in merged.order() if node.name in needed and node.operator != INPUT]
        self._calls = {node.name: call_of(merged, node) for node in self._nodes}
        self._perturbed = merged.descendants(merged.inputs)
        rules = {node.name: operators()[node.operator].rules for node in self._nodes}
        self._scaled = [name for name, rule in rules.items() if rule.scaling and name in self._perturbed]
        bent = [name for name, rule in rules.items() if rule.relaxation and name in self._perturbed]
        operands = (name for node in bent for name in merged.operands(node))
        self._boxed = [name for name in dict.fromkeys(operands) if name in self._perturbed]
        bounded = [margins, *self._boxed]
        self._paired = graphs.prepared(lower_paired(merged, graphs.tree, [self._output], bounded, scaled=self._scaled))

    def __call__(self, x: torch.Tensor, box: Interval) -> Propagated:
        """Return the results for images x (B, …) and a box around them, in training mode."""
        with parametrize.cached():
            logits, *rest = self._paired(x, box.lower, box.upper)
            parameters = {node.name: self._parameters(node) for node in self._nodes}
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        differences, *inner = [Interval.bounds(*pair) for pair in pairs[: 1 + len(self._boxed)]]
        scalings = dict(zip(self._scaled, pairs[1 + len(self._boxed) :], strict=True))
        boxes = dict(zip(self._boxed, inner, strict=True))
        steps = {node.name: self._step(node, parameters[node.name], scalings) for node in self._nodes}
        (start,) = self._merged.inputs
        known = self._known(steps, {**{name: _widened(box) for name, box in boxes.items()}, start: box})
        backward = _RoughBackward(_Steps(steps, (start,)), Values(known, dict.fromkeys(known)))
        return Propagated(logits, differences, boxes, backward, self._output)

    def _parameters(self, node: Node) -> dict[str, torch.Tensor]:
        roles = self._merged.parameters_of(node.name)
        return {role: entry_of(self._graphs.tree, self._merged.source_of(f"{node.name}.{role}")) for role in roles}

    def _step(
        self,
        node: Node,
        parameters: Mapping[str, torch.Tensor],
        scalings: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> Step:
        operator, call = operators()[node.operator], self._calls[node.name]
        operands = self._merged.operands(node.name)
        if node.name in scalings:
            scale, shift = scalings[node.name]
            return Step(node, _fixed(operator), call, operands, {"scale": scale, "shift": shift})
        return Step(node, operator, call, operands, parameters)

    def _known(self, steps: Mapping[str, Step], boxes: dict[str, Interval]) -> dict[str, Operand]:
        """Return boxes and constants by node. A box that no plane depends on is (−∞, ∞) of the right shape."""
        known: dict[str, Operand] = dict(boxes)
        like = next(iter(boxes.values())).lower
        for name, step in steps.items():
            if name in known:
                continue
            if name in self._perturbed:
                ends = (like.new_full((), end).expand(len(like), *step.node.shape[1:]) for end in (-inf, inf))
                known[name] = Interval.bounds(*ends)
            else:
                operands = [known[operand] for operand in step.operands]
                known[name] = step.operator.rules.nominal(step.call, *operands, **step.parameters)
        return known


def _widened(box: Interval) -> Interval:
    return Interval.bounds(box.lower, torch.maximum(box.upper, box.lower + _NARROWEST))


def _fixed(operator: Operator) -> Operator:
    """Return the operator with `scale` · x + `shift` as its nominal rule."""
    return replace(operator, rules=replace(operator.rules, nominal=_scale))


def _scale(call: Call, x: torch.Tensor, *, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return a · x + b for x (R · B, …) or (1, …), where a and b are (B, …) or have no batch dimension."""
    if scale.dim() < x.dim():
        return x * scale + shift
    rows = x.reshape(-1, min(len(x), len(scale)), *x.shape[1:])
    return (rows * scale + shift).flatten(0, 1)


# ── bounds of margins and losses ────────────────────────────────────────────────────────────────────────────────
def margin_bounds(propagated: Propagated, labels: torch.Tensor) -> torch.Tensor:
    """Return lower bounds (B, K) of the margins z_label − z_j, 0 at the label, by one backward pass of K − 1 rows."""
    logits = propagated.logits
    classes = logits.shape[1]
    others = other_classes(labels, classes)
    own = torch.zeros_like(logits).scatter(1, labels[:, None], 1.0)
    picked = logits.new_zeros(classes - 1, *logits.shape).scatter(2, others.T[:, :, None], 1.0)
    lower = propagated.lower(own - picked)
    return spread_margins(lower.T, others)


def fused_losses(propagated: Propagated, labels: torch.Tensor, index: torch.Tensor, beta: float) -> torch.Tensor:
    """Return upper bounds (B,) of the cross-entropy log Σ exp(−margin) over the box; the label's margin is 0.

    Interval propagation gives margins m in [l, u], where exp(−m) ≤ exp(−l) − s (m − l) with −s the slope of the chord.
    The sum of the right sides is one linear form of the logits, pulled back as one row. The bound of the sum, with
    weight β, is averaged with Σ exp(−l), with weight 1 − β, before the logarithm is taken (Xu et al. 2020, section
    3.3). Everything is computed relative to the greatest exp(−l), so nothing overflows.
    """
    box = propagated.differences
    lower = margins_of(box.lower, box.upper, labels, index)
    upper = -margins_of(-box.upper, -box.lower, labels, index)
    greatest = (-lower).amax(1, keepdim=True).detach()
    high, low = torch.exp(-lower - greatest), torch.exp(-upper - greatest)
    width = (upper - lower).clamp_min(_NARROWEST)
    slope = (high - low) / width
    own = torch.zeros_like(slope).scatter(1, labels[:, None], 1.0) * slope.sum(1, keepdim=True)
    linear = propagated.lower((own - slope)[None])[0]
    fused = (high + slope * lower).sum(1) - linear
    certain = high.sum(1)
    total = certain + beta * (torch.minimum(fused, certain) - certain)
    least = torch.exp(-greatest[:, 0]).clamp_min(torch.finfo(total.dtype).tiny)
    return greatest[:, 0] + torch.log(torch.maximum(total, least))
