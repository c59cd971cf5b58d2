"""Rows of the elementwise operators, of the products of two operands, and of Softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case, Uniform, Values


# ── other ways to compute the same in binary32 ──────────────────────────────────────────────────────────────────
def matmul_backwards(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Round every product and every sum, last term first."""
    columns = y if y.dim() > 1 else y[:, None]
    total = torch.zeros(())
    for k in reversed(range(x.shape[-1])):
        total = total + x[..., k, None] * columns[..., k, None, :]
    return total if y.dim() > 1 else total[..., 0]


def matmul_as_it_comes(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Leave the order to a sum over all products."""
    left = x.unsqueeze(-1)
    right = (y if y.dim() > 1 else y[:, None]).unsqueeze(-3)
    result = (left * right).sum(-2)
    return result if y.dim() > 1 else result[..., 0]


def softmax_term_by_term(call: Call, x: Tensor) -> Tensor:
    """Sum the exponentials one after the other, last first, and multiply by the inverse of the sum."""
    powers = torch.exp(x - x.amax(call["axis"], keepdim=True))
    total = torch.zeros(())
    for part in reversed(powers.unbind(call["axis"])):
        total = total + part
    return powers * (1.0 / total).unsqueeze(call["axis"])


def elu_by_difference(call: Call, x: Tensor) -> Tensor:
    """Subtract 1 from the exponential."""
    return torch.where(x >= 0, x, call["alpha"] * (torch.exp(x) - 1.0))


def sigmoid_by_tanh(call: Call, x: Tensor) -> Tensor:
    """Halve 1 + tanh(x / 2)."""
    return 0.5 * (1.0 + torch.tanh(0.5 * x))


def sigmoid_by_exponential(call: Call, x: Tensor) -> Tensor:
    """Invert 1 + e⁻ˣ."""
    return 1.0 / (1.0 + torch.exp(-x))


def tanh_by_exponential(call: Call, x: Tensor) -> Tensor:
    """Subtract 2 / (e²ˣ + 1) from 1."""
    return 1.0 - 2.0 / (torch.exp(2.0 * x) + 1.0)


def softplus_by_logarithm(call: Call, x: Tensor) -> Tensor:
    """Take the logarithm of 1 + eˣ."""
    return torch.log(1.0 + torch.exp(x))


_SQUASHED = Box((3, 4), -9.0, 9.0, 4.0)
_DIVISORS = Values([[0.5], [-3.0], [0.05]])

_ARITHMETIC = (
    Case("Sub", (Box((2, 3)), Box((2, 3))), name="boxes"),
    Case("Sub", (Box((2, 3)), Uniform((3,))), name="box minus constant"),
    Case("Sub", (Uniform((1, 2, 3)), Box((2, 1))), name="constant minus box"),
    Case("Mul", (Box((2, 3)), Box((2, 3))), name="boxes"),
    Case("Mul", (Box((2, 3)), Box((2, 1), -8.0, 8.0, 6.0)), name="boxes broadcast"),
    Case("Mul", (Box((2, 3)), Uniform((3,))), name="box times constant"),
    Case("Mul", (Uniform((1, 2, 3)), Box((2, 1))), name="constant times box"),
    Case("Div", (Box((3, 2)), _DIVISORS), name="by a constant"),
    Case("Div", (Box((3, 2)), Box((3, 2), 0.2, 3.0, 0.5)), name="by a positive box"),
    Case("Div", (Box((3, 2)), Box((3, 1), -3.0, -0.2, 0.5)), name="by a negative box"),
    Case("Div", (Uniform((2,)), Box((3, 2), 0.2, 3.0, 0.5)), name="of a constant"),
    Case("Neg", (Box((2, 3)),), name="matrix"),
    Case("Neg", (Box((4, 1, 2)),), name="rank 4"),
)

_SUMS = (matmul_backwards, matmul_as_it_comes)
_SADDLES = {"attained": "gradients stop at local extremes; test_elementwise_rules tries all corners"}
_MATMUL = (
    Case("MatMul", (Box((3, 4)), Uniform((4, 2))), name="box times constant", evaluations=_SUMS),
    Case("MatMul", (Box((4,)), Uniform((4, 2))), name="rows are the batch", evaluations=_SUMS),
    Case("MatMul", (Box((3, 4)), Uniform((4,))), name="box times column", evaluations=_SUMS),
    Case("MatMul", (Uniform((3, 4)), Box((4, 2))), name="constant times box", evaluations=_SUMS),
    Case("MatMul", (Uniform((4,)), Box((2, 4, 3))), name="row times box"),
    Case("MatMul", (Box((3, 4)), Box((4, 2))), name="boxes", evaluations=_SUMS, without=_SADDLES),
    Case("MatMul", (Box((2, 2, 3)), Box((1, 3, 2))), name="boxes broadcast", evaluations=_SUMS),
)

_RECTIFIERS = (
    Case("LeakyRelu", (Box((3, 4)),), name="default"),
    Case("LeakyRelu", (Box((3, 4)),), {"alpha": 1.75}, name="steeper below"),
    Case("LeakyRelu", (Box((3, 4)),), {"alpha": -0.375}, name="turning"),
    Case("PRelu", (Box((3, 2)),), parameters={"weight": Values([0.25])}, name="one slope"),
    Case("PRelu", (Box((3, 2, 2)),), parameters={"weight": Values([-1.5, 0.3, 2.5])}, name="slopes per channel"),
    Case("PRelu", (Box((3, 2)),), parameters={"weight": Uniform((1, 1, 2), -2.0, 2.0)}, name="slopes along the last"),
    Case("Abs", (Box((3, 4)),), name="matrix"),
    Case("Abs", (Box((3, 4), radius=1.5),), name="wide"),
    Case("Clip", (Box((3, 4)),), {"min": -0.75, "max": 0.5}, name="both ends"),
    Case(
        "Clip",
        (Box((3, 4), radius=1.5),),
        {"min": -0.1, "max": 0.7},
        name="ends that binary32 lacks",
        tolerance=2e-4,
    ),
    Case("Clip", (Box((3, 4)),), {"min": 0.25}, name="from below"),
    Case("Clip", (Box((3, 4)),), {"max": -0.5}, name="from above"),
    Case("Clip", (Box((3, 4)),), name="no end"),
)

_NAIVE_SIGMOIDS = (sigmoid_by_tanh, sigmoid_by_exponential)
_VANISHING = {"float32_tight": "widened by an absolute error where it vanishes; test_elementwise_rules limits it"}
_SMOOTH = (
    Case("Elu", (Box((3, 4)),), name="default", evaluations=(elu_by_difference,)),
    Case("Elu", (Box((3, 4), radius=1.5),), {"alpha": 2.5}, name="steeper below", evaluations=(elu_by_difference,)),
    Case("Elu", (Box((3, 4), radius=1.5),), {"alpha": -0.5}, name="turning", evaluations=(elu_by_difference,)),
    Case("Elu", (Box((3, 4), radius=1.5),), {"alpha": 0.0}, name="flat", evaluations=(elu_by_difference,)),
    Case("Sigmoid", (Box((3, 4)),), name="narrow", evaluations=_NAIVE_SIGMOIDS),
    Case("Sigmoid", (_SQUASHED,), name="wide", evaluations=_NAIVE_SIGMOIDS, without=_VANISHING),
    Case("Tanh", (Box((3, 4)),), name="narrow", evaluations=(tanh_by_exponential,), without=_VANISHING),
    Case("Tanh", (_SQUASHED,), name="wide", evaluations=(tanh_by_exponential,), without=_VANISHING),
    Case("Softplus", (Box((3, 4)),), name="narrow", evaluations=(softplus_by_logarithm,)),
    Case(
        "Softplus",
        (Box((3, 4), -30.0, 30.0, 9.0),),
        name="wide",
        evaluations=(softplus_by_logarithm,),
        without=_VANISHING,
    ),
)

_SOFTMAX = (
    Case("Softmax", (Box((5,)),), name="vector", evaluations=(softmax_term_by_term,)),
    Case("Softmax", (Box((2, 4), -20.0, 20.0, 5.0),), name="wide", evaluations=(softmax_term_by_term,)),
    Case("Softmax", (Box((3, 2, 2)),), {"axis": 1}, name="channels", evaluations=(softmax_term_by_term,)),
    Case("Softmax", (Box((1,)),), name="single", evaluations=(softmax_term_by_term,)),
)

_REST = (
    Case("Identity", (Box((2, 3)),), name="matrix"),
    Case("Identity", (Box((4, 1, 2)),), name="rank 4"),
    Case("Dropout", (Box((3, 4)),), name="default"),
    Case("Dropout", (Box((3, 4)),), {"ratio": 0.0}, name="nothing dropped"),
)

ROWS = (*_ARITHMETIC, *_MATMUL, *_RECTIFIERS, *_SMOOTH, *_SOFTMAX, *_REST)
