"""Boxes that shrink at unstable rectifiers in training (Müller et al. 2023, arXiv 2210.04871, for CIFAR-10 at 2/255).

A shrunk box leaves points of the network out: it is a gentler loss, and it certifies nothing. Only the graphs that a
training step descends are built with it; those that judge held-out images never are.
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
    """Return graphs of the same network whose boxes shrink at every Relu; for a `share` of 1 the graphs themselves."""
    return graphs if share == 1 else graphs.obeying({_SHRUNK: shrinking_rules(share)})


def shrinking_rules(share: float) -> Rules:
    """Return the rules of a Relu with [max(l, 0), max(c u, 0)] for an input in [l, u] with l < 0, c = `share`.

    An input with l ≥ 0 keeps its box.
    """
    rules = operators()[_SHRUNK].rules

    def interval(call: Call, x: Operand) -> Interval:
        assert isinstance(x, Interval)
        upper = torch.where(x.lower < 0, share * x.upper, x.upper)
        return rules.interval(call, Interval.bounds(x.lower, upper))

    return replace(rules, interval=interval, paired=apart(rules.nominal, interval))
