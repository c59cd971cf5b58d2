"""Identity: x."""

from __future__ import annotations

from torch import Tensor

from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import passthrough
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = x."""
    return x


OPERATOR = register(
    elementwise("Identity", "The operand itself", passthrough(nominal), (1, 13, 14, 16, 19, 21, 23, 24, 25))
)
