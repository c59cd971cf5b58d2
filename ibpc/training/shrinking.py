"""Boxes that shrink at unstable rectifiers in training (Müller et al. 2023, arXiv 2210.04871, for CIFAR-10 at 2/255).

A shrunk box misses points that the network reaches: it makes the loss gentler and certifies nothing. Only the graphs
of training steps use it, never those that evaluate held-out images.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ibpc.interval import Interval
from ibpc.ops import operators
from ibpc.ops.combinators import apart
from ibpc.ops.rules import Call, Operand, Rules
from ibpc.training.graphs import TrainingGraphs

_SHRUNK = "Relu"


def shrunk(graphs: TrainingGraphs, share: float) -> TrainingGraphs:
    """Return graphs of the same network whose boxes shrink at every Relu, or the same graphs if `share` is 1."""
    return graphs if share == 1 else graphs.obeying({_SHRUNK: shrinking_rules(share)})


def shrinking_rules(share: float) -> Rules:
    """Return rules of Relu that bound the output by [max(l, 0), max(c u, 0)], c = `share`, if the input has l < 0.

    For l ≥ 0 the output is bounded as usual.
    """
    rules = operators()[_SHRUNK].rules

    def interval(call: Call, x: Operand) -> Interval:
        assert isinstance(x, Interval)
        upper = torch.where(x.lower < 0, share * x.upper, x.upper)
        return rules.interval(call, Interval.bounds(x.lower, upper))

    return replace(rules, interval=interval, paired=apart(rules.nominal, interval))
