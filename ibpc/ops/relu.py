"""Relu: max(x, 0)."""

from __future__ import annotations

import torch

from ibpc.interval import Interval
from ibpc.ops._elementwise import export_as, import_as, option_free_layer
from ibpc.ops._shapes import same_as_operand
from ibpc.ops.base import Call, Operator, Plane, Planes, monotone, register


def nominal(call: Call, x: torch.Tensor) -> torch.Tensor:
    """y = max(x, 0)."""
    return torch.relu(x)


def relaxation(call: Call, x: Interval) -> Planes:
    """Lower plane a·x with a = 1 where u > −l and else 0, upper plane the chord u (x − l) / (u − l).

    (Zhang et al. 2018, CROWN, arXiv 1811.00866, table 2, with the adaptive lower slope.) Where l ≥ 0 both are x, where u ≤ 0 both are 0.
    """
    lower, upper = x.lower, x.upper
    active, dead = lower >= 0, upper <= 0
    width = torch.where(active | dead, torch.ones_like(upper), upper - lower)
    chord = torch.where(active, torch.ones_like(upper), torch.where(dead, torch.zeros_like(upper), upper / width))
    offset = torch.where(active | dead, torch.zeros_like(upper), -chord * lower)
    slope = torch.where(active | (~dead & (upper > -lower)), torch.ones_like(upper), torch.zeros_like(upper))
    return Planes(Plane((slope,), torch.zeros_like(lower)), Plane((chord,), offset))


OPERATOR = register(
    Operator(
        name="Relu",
        summary="max(x, 0)",
        attributes={},
        operands=(1, 1),
        roles=(),
        shape=same_as_operand,
        rules=monotone(nominal, relaxation, ulps=0),
        reads=(import_as("Relu", (1, 6, 13, 14)),),
        writes=export_as("Relu"),
        layers=(option_free_layer("ReLU"),),
    )
)
