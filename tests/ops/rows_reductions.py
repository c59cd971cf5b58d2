"""Rows of the reductions over axes and of the pools that are reductions."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.ops._reductions import gathered
from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case


# ── other orders of summation ───────────────────────────────────────────────────────────────────────────────────
def _backwards(terms: Tensor) -> Tensor:
    total = torch.zeros_like(terms[..., 0])
    for place in reversed(range(terms.shape[-1])):
        total = total + terms[..., place]
    return total


def sum_backwards(call: Call, x: Tensor) -> Tensor:
    """Add one element after the other, the last first."""
    return _backwards(gathered(call, x))


def mean_backwards(call: Call, x: Tensor) -> Tensor:
    """Add one element after the other, the last first, and multiply by a rounded reciprocal."""
    terms = gathered(call, x)
    return _backwards(terms) * (1.0 / torch.tensor(terms.shape[-1], dtype=x.dtype))


def moduli_backwards(call: Call, x: Tensor) -> Tensor:
    """Add one modulus after the other, the last first."""
    return _backwards(gathered(call, x).abs())


def squares_backwards(call: Call, x: Tensor) -> Tensor:
    """Add one square after the other, the last first."""
    return _backwards(gathered(call, x).square())


def length_backwards(call: Call, x: Tensor) -> Tensor:
    """The root of the squares, added one after the other, the last first."""
    return squares_backwards(call, x).sqrt()


def product_backwards(call: Call, x: Tensor) -> Tensor:
    """Multiply one factor after the other, the last first."""
    factors = gathered(call, x)
    result = torch.ones_like(factors[..., 0])
    for place in reversed(range(factors.shape[-1])):
        result = result * factors[..., place]
    return result


def log_sum_backwards(call: Call, x: Tensor) -> Tensor:
    """The logarithm of the sum of one element after the other, the last first."""
    return sum_backwards(call, x).log()


def log_sum_exp_plainly(call: Call, x: Tensor) -> Tensor:
    """The logarithm of the unscaled exponentials, added one after the other, the last first."""
    return _backwards(gathered(call, x).exp()).log()


def log_softmax_backwards(call: Call, x: Tensor) -> Tensor:
    """x − m − ln Σ e^{x − m}, one exponential after the other, the last first."""
    shifted = (x - x.amax(call["axis"], keepdim=True)).movedim(call["axis"], -1)
    return (shifted - _backwards(shifted.exp()).log().unsqueeze(-1)).movedim(-1, call["axis"])


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────
_SUMS = (
    Case("ReduceSum", (Box((3, 4)),), {"axes": [2]}, name="last axis", evaluations=(sum_backwards,)),
    Case(
        "ReduceSum",
        (Box((3, 2, 4)),),
        {"axes": [1, 3], "keepdims": False},
        name="two axes",
        evaluations=(sum_backwards,),
    ),
    Case("ReduceMean", (Box((3, 4)),), {"axes": [1]}, name="first axis", evaluations=(mean_backwards,)),
    Case(
        "ReduceMean",
        (Box((2, 3, 3)),),
        {"axes": [2, 3], "keepdims": False},
        name="two axes",
        evaluations=(mean_backwards,),
    ),
)

_EXTREMES = tuple(
    row
    for name in ("ReduceMax", "ReduceMin")
    for row in (
        Case(name, (Box((3, 4), radius=1.0),), {"axes": [2]}, name="last axis"),
        Case(name, (Box((3, 2, 4)),), {"axes": [1, 3], "keepdims": False}, name="two axes"),
        Case(name, (Box((3, 1)),), {"axes": [2]}, name="single"),
    )
)

# Symmetric boxes: the gradient at their centers is 0, and no common corner has the greatest moduli.
_SYMMETRIC = {"attained": "the attack stays at 0; test_reduction_rules tries all corners"}
_NORMS = tuple(
    row
    for name, rule in (
        ("ReduceL1", moduli_backwards),
        ("ReduceL2", length_backwards),
        ("ReduceSumSquare", squares_backwards),
    )
    for row in (
        Case(
            name,
            (Box((3, 4), radius=1.0),),
            {"axes": [2]},
            name="last axis",
            evaluations=(rule,),
            without={} if name == "ReduceL1" else _SYMMETRIC,
        ),
        Case(
            name,
            (Box((3, 2, 4)),),
            {"axes": [1, 3], "keepdims": False},
            name="two axes",
            evaluations=(rule,),
            without=_SYMMETRIC,
        ),
        Case(name, (Box((2, 5), 0.5, 3.0),), {"axes": [1]}, name="positive", evaluations=(rule,)),
    )
)

_PRODUCTS = (
    Case(
        "ReduceProd",
        (Box((3, 4), radius=1.0),),
        {"axes": [2]},
        name="last axis",
        evaluations=(product_backwards,),
        without=_SYMMETRIC,
    ),
    Case(
        "ReduceProd",
        (Box((5, 2, 2)),),
        {"axes": [1, 3], "keepdims": False},
        name="two axes",
        evaluations=(product_backwards,),
        without=_SYMMETRIC,
        growth=4.0,
    ),
    Case("ReduceProd", (Box((2, 5), 0.5, 2.0),), {"axes": [1]}, name="positive", evaluations=(product_backwards,)),
    Case("ReduceProd", (Box((3, 1)),), {"axes": [2]}, name="single", evaluations=(product_backwards,)),
)

_LOGARITHMS = (
    Case("ReduceLogSum", (Box((3, 4), 0.1, 3.0),), {"axes": [2]}, name="last axis", evaluations=(log_sum_backwards,)),
    Case(
        "ReduceLogSum",
        (Box((3, 2, 4), 0.5, 3.0, 1.0),),
        {"axes": [1, 3], "keepdims": False},
        name="two axes",
        evaluations=(log_sum_backwards,),
    ),
    Case(
        "ReduceLogSumExp",
        (Box((3, 4), radius=1.0),),
        {"axes": [2]},
        name="last axis",
        evaluations=(log_sum_exp_plainly,),
        growth=4.0,
    ),
    Case(
        "ReduceLogSumExp",
        (Box((3, 2, 4), -20.0, 20.0, 5.0),),
        {"axes": [1, 3], "keepdims": False},
        name="two axes, far apart",
        evaluations=(log_sum_exp_plainly,),
    ),
    Case("ReduceLogSumExp", (Box((3, 1)),), {"axes": [2]}, name="single", growth=16.0),
    Case("LogSoftmax", (Box((5,)),), name="vector", evaluations=(log_softmax_backwards,), growth=4.0),
    Case(
        "LogSoftmax",
        (Box((3, 2, 4), -10.0, 10.0, 2.0),),
        {"axis": 1},
        name="channels",
        evaluations=(log_softmax_backwards,),
        growth=4.0,
    ),
)

_FLAT = {"reference": "its GlobalMaxPool adds a dimension unless there are two spatial ones"}
_POOLS = (
    Case("GlobalMaxPool", (Box((3, 4, 4)),), name="two dimensions"),
    Case("GlobalMaxPool", (Box((2, 7), radius=1.0),), name="one dimension", without=_FLAT),
    Case("GlobalMaxPool", (Box((2, 2, 3, 2)),), name="three dimensions", without=_FLAT),
)

ROWS = (*_SUMS, *_EXTREMES, *_NORMS, *_PRODUCTS, *_LOGARITHMS, *_POOLS)
