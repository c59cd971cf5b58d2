"""ReduceMean: the mean over some axes."""

from __future__ import annotations

from torch import Tensor

from ibpc.ops._reductions import count, reduction
from ibpc.ops.base import register
from ibpc.ops.combinators import affine, no_magnitude, nonnegative_weights
from ibpc.ops.rules import Call


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = Σ x / n."""
    return x.mean(list(call["axes"]), keepdim=bool(call["keepdims"]))


def terms(call: Call) -> int:
    """Return n, and 1 for the division, or for the product with a rounded reciprocal."""
    return count(call) + 1


OPERATOR = register(
    reduction(
        "ReduceMean",
        "The mean over some axes",
        (1, 11, 13, 18),
        affine(nominal, nonnegative_weights(nominal), terms, no_magnitude),
    )
)
