"""Max: the greatest of any number of operands, elementwise, with broadcasting."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ibpc.ops._choices import choice, greatest_planes
from ibpc.ops.base import register
from ibpc.ops.rules import Call, Operand, Planes


def nominal(call: Call, *operands: Tensor) -> Tensor:
    """y = max(x₀, x₁, …)."""
    return reduce(torch.maximum, operands)


def relaxation(call: Call, *operands: Operand) -> Planes:
    """See `greatest_planes`."""
    return greatest_planes(operands)


OPERATOR = register(choice("Max", "Greatest of the operands, elementwise", nominal, relaxation))
