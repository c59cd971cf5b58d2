"""ReduceSum: the sum over some axes."""

from __future__ import annotations

import torch

from ibpc.ops._reductions import count, reduction, sum_of_radii
from ibpc.ops.base import Call, affine, no_magnitude, register


def nominal(call: Call, x: torch.Tensor) -> torch.Tensor:
    """y = Σ x."""
    return x.sum(list(call["axes"]), keepdim=bool(call["keepdims"]))


OPERATOR = register(
    reduction(
        "ReduceSum",
        "The sum over some axes",
        (1, 11, 13),
        affine(nominal, sum_of_radii(nominal), count, no_magnitude),
    )
)
