"""Min: the least of any number of operands, elementwise, with broadcasting."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ibpc.ops._choices import choice, greatest_planes, mirrored, negated
from ibpc.ops.base import register
from ibpc.ops.rules import Call, Operand, Planes


def nominal(call: Call, *operands: Tensor) -> Tensor:
    """y = min(x₀, x₁, …)."""
    return reduce(torch.minimum, operands)


def relaxation(call: Call, *operands: Operand) -> Planes:
    """Return the planes of −max(−x₀, −x₁, …); see `greatest_planes`."""
    return mirrored(greatest_planes([negated(x) for x in operands]))


OPERATOR = register(choice("Min", "Least of the operands, elementwise", nominal, relaxation))
