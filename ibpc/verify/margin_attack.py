"""Attacks on the margins of samples: the least z_label − z_other over a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ibpc.interval import Interval
from ibpc.verify.attack import Attack, Points

Logits: TypeAlias = Callable[[Tensor], Tensor]

TARGETS: Final = 3


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return z_label − max over other classes, (B,): at most 0 where the prediction is wrong."""
    hot = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(hot, -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def worst_points(attack: Attack, model: Logits, x: Tensor, box: Interval, labels: Tensor) -> Tensor:
    """Return the point of each box with the least margin found: by an attack on the margin, then one on each target.

    The targets are the `TARGETS` classes that come nearest to the label at the best point so far.
    """
    found = attack.run(lambda points, items: margin(model(points[0]), labels[items]), (x,), (box,))
    worst, left = found.points[0], (found.scores > 0).nonzero()[:, 0]
    if not len(left):
        return worst
    with torch.no_grad():
        logits = model(worst[left]).scatter(1, labels[left, None], -torch.inf)
    targets = logits.topk(min(TARGETS, logits.shape[1] - 1), 1).indices
    rows, wanted = left.repeat_interleave(targets.shape[1]), targets.flatten()

    def score(points: Points, items: Tensor) -> Tensor:
        outputs = model(points[0])
        true = outputs.gather(1, labels[rows[items], None])
        return (true - outputs.gather(1, wanted[items, None]))[:, 0]

    targeted = attack.run(score, (worst[rows],), (box.map(lambda end: end[rows]),))
    best = targeted.scores.reshape(targets.shape).min(1)
    points = targeted.points[0].reshape(*targets.shape, *worst.shape[1:])
    worst[left] = points[torch.arange(len(left), device=left.device), best.indices]
    return worst


def inner_box(x: Tensor, box: Interval) -> Interval:
    """Return a box inside the exact ball, given `box`, the ball rounded outward: its ends move in by one float."""
    point = box.nearest(x)
    inward = torch.nextafter(box.lower, box.upper), torch.nextafter(box.upper, box.lower)
    return Interval.bounds(torch.minimum(inward[0], point), torch.maximum(inward[1], point))
