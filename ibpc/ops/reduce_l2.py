"""ReduceL2: √Σ x² over some axes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._norms import norm_interval, norm_planes
from ibpc.ops._reductions import count, gathered, reduction
from ibpc.ops.base import register
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = √Σ x², with the gradient 0 at 0."""
    result: Tensor = torch.linalg.vector_norm(x, 2, list(call["axes"]), keepdim=bool(call["keepdims"]))
    return result


def interval(call: Call, x: Interval) -> Interval:
    """Norms of the least and of the greatest moduli; exact. See `norm_interval`."""
    return norm_interval(call, x.map(partial(gathered, call)), 2, count(call))


def relaxation(call: Call, x: Interval) -> Planes:
    """Return the tangent below and a tangent of √ of the squares' chords above; see `norm_planes`."""
    return norm_planes(x.map(partial(gathered, call)), 2, lambda value: gathered(call, value))


OPERATOR = register(
    reduction("ReduceL2", "The Euclidean norm", (1, 11, 13, 18), nonlinear(nominal, interval, relaxation))
)
