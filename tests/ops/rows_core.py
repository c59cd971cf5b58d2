"""Rows of the operators that the other ones are built around."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ibpc.ops._windows import torch_pads
from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case, Uniform, Values

# ── other orders of summation ───────────────────────────────────────────────────────────────────────────────────


def conv_tap_by_tap(call: Call, x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **_: Tensor) -> Tensor:
    """Start from the bias and add one product after the other, the last tap first."""
    products = list(_taps(call, x, weight))
    total = torch.zeros_like(products[0])
    if bias is not None:
        total = total + bias.reshape([1, -1, *[1] * (x.dim() - 2)])
    for term in reversed(products):
        total = total + term
    return total


def conv_bias_last(call: Call, x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **_: Tensor) -> Tensor:
    """Add the products in pairs, then the bias."""
    partial = list(_taps(call, x, weight))
    while len(partial) > 1:
        partial = [sum(partial[start : start + 2], torch.zeros(())) for start in range(0, len(partial), 2)]
    return partial[0] if bias is None else partial[0] + bias.reshape([1, -1, *[1] * (x.dim() - 2)])


def _taps(call: Call, x: Tensor, weight: Tensor) -> Iterator[Tensor]:
    """Yield, per input channel of a group and kernel position, its products: (B, M, …)."""
    kernel, spatial = weight.shape[2:], call.output[2:]
    group, width = call["group"], weight.shape[1]
    x = torch.nn.functional.pad(x, torch_pads(call["pads"]))
    positions = product(*(range(size) for size in kernel))
    for channel, (place, position) in product(range(width), enumerate(positions)):
        windows = [
            slice(tap * dilation, tap * dilation + (size - 1) * stride + 1, stride)
            for tap, dilation, stride, size in zip(position, call["dilations"], call["strides"], spatial, strict=True)
        ]
        values = x[:, channel::width][(slice(None), slice(None), *windows)]
        values = values.repeat_interleave(weight.shape[0] // group, dim=1)
        taps = weight[:, channel].flatten(1)[:, place]
        yield values * taps.reshape([1, -1, *[1] * len(kernel)])


def gemm_reversed(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    specification: Tensor | None = None,
    **_: Tensor,
) -> Tensor:
    """Round every product and every sum, last feature first; apply the specification to the rounded logits."""
    total = torch.zeros(weight.shape[0], dtype=x.dtype) if bias is None else bias
    for feature in reversed(range(x.shape[-1])):
        total = total + x[..., feature, None] * weight[:, feature]
    return total if specification is None else total @ specification.T


def gemm_flipped(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    specification: Tensor | None = None,
    **_: Tensor,
) -> Tensor:
    """Flip the features of x and of the weight; apply the specification to the rounded logits."""
    logits = torch.nn.functional.linear(x.flip(-1), weight.flip(-1), bias)
    return logits if specification is None else logits @ specification.T


def normalization_folded(
    call: Call, x: Tensor, *, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> Tensor:
    """One scale and one shift."""
    scale = weight / torch.sqrt(running_var + call["epsilon"])
    shape = [1, -1, *[1] * (x.dim() - 2)]
    return x * scale.reshape(shape) + (bias - running_mean * scale).reshape(shape)


def normalization_written_out(
    call: Call, x: Tensor, *, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> Tensor:
    """Subtract, divide, multiply, add."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    mean, variance, scale, shift = (value.reshape(shape) for value in (running_mean, running_var, weight, bias))
    return (x - mean) / torch.sqrt(variance + call["epsilon"]) * scale + shift


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────
_CONV_ORDERS = (conv_tap_by_tap, conv_bias_last)
_GEMM_ORDERS = (gemm_reversed, gemm_flipped)
_NORMALIZATION_ORDERS = (normalization_folded, normalization_written_out)


def _convolution(
    strides: list[int], pads: list[int], dilations: list[int] | None = None, group: int = 1
) -> dict[str, Any]:
    return {"strides": strides, "pads": pads, "dilations": dilations or [1] * len(strides), "group": group}


def _statistics(channels: int) -> dict[str, Uniform]:
    return {
        "weight": Uniform((channels,), -1.5, 1.5),
        "bias": Uniform((channels,)),
        "running_mean": Uniform((channels,), -0.5, 0.5),
        "running_var": Uniform((channels,), 0.3, 2.0),
    }


_CONV = (
    Case(
        "Conv",
        (Box((2, 7)),),
        _convolution([2], [1, 1]),
        {"weight": Uniform((3, 2, 3)), "bias": Uniform((3,))},
        name="one dimension, strided",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((3, 5, 5)),),
        _convolution([1, 1], [1, 1, 1, 1]),
        {"weight": Uniform((4, 3, 3, 3)), "bias": Uniform((4,))},
        name="two dimensions",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((2, 6, 5)),),
        _convolution([2, 1], [0, 2, 1, 0]),
        {"weight": Uniform((2, 2, 3, 2))},
        name="asymmetric pads, no bias",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((2, 3, 3, 3)),),
        _convolution([1, 2, 1], [0, 1, 0, 0, 1, 0]),
        {"weight": Uniform((2, 2, 2, 2, 2)), "bias": Uniform((2,))},
        name="three dimensions",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((4, 4, 4)),),
        _convolution([1, 1], [0, 0, 0, 0], group=2),
        {"weight": Uniform((6, 2, 2, 2)), "bias": Uniform((6,))},
        name="groups",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((3, 4, 4)),),
        _convolution([1, 1], [1, 1, 1, 1], group=3),
        {"weight": Uniform((3, 1, 3, 3)), "bias": Uniform((3,))},
        name="depthwise",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((1, 7, 7)),),
        _convolution([1, 2], [2, 1, 2, 1], [2, 3]),
        {"weight": Uniform((2, 1, 3, 2)), "bias": Uniform((2,))},
        name="dilated",
        evaluations=_CONV_ORDERS,
    ),
    Case(
        "Conv",
        (Box((2, 4, 4)),),
        _convolution([1, 1], [0, 0, 0, 0]),
        {"weight": Uniform((3, 2, 3, 3)), "bias": Uniform((3,)), "bias_magnitude": Uniform((3,), 2.0, 5.0)},
        name="magnitude of a folded bias",
        evaluations=_CONV_ORDERS,
        growth=4.0,
    ),
    Case(
        "Conv",
        (Box((2, 4, 4), 900.0, 1100.0, 1e-3),),
        _convolution([1, 1], [0, 0, 0, 0]),
        {"weight": Uniform((3, 2, 3, 3), -100.0, 100.0), "bias": Uniform((3,), -1e6, 1e6)},
        name="narrow box far from zero, large weights",
        evaluations=_CONV_ORDERS,
    ),
)

_GEMM = (
    Case(
        "Gemm",
        (Box((5,)),),
        {},
        {"weight": Uniform((4, 5)), "bias": Uniform((4,))},
        name="bias",
        evaluations=_GEMM_ORDERS,
    ),
    Case("Gemm", (Box((6,)),), {}, {"weight": Uniform((3, 6))}, name="no bias", evaluations=_GEMM_ORDERS),
    Case(
        "Gemm",
        (Box((3, 4)),),
        {},
        {"weight": Uniform((2, 4)), "bias": Uniform((2,))},
        name="rank 3",
        evaluations=_GEMM_ORDERS,
    ),
    Case("Gemm", (Box((2, 3)),), {}, {"weight": Uniform((2, 3))}, name="rank 3, no bias", evaluations=_GEMM_ORDERS),
    Case(
        "Gemm",
        (Box((5,)),),
        {},
        {
            "weight": Uniform((3, 5)),
            "bias": Uniform((3,)),
            "specification": Values([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]),
        },
        name="class differences",
        evaluations=_GEMM_ORDERS,
        growth=8.0,
    ),
    Case(
        "Gemm",
        (Box((4,)),),
        {},
        {
            "weight": Values([[1e3, -2e3, 5e2, 3.0], [1e3, -2e3, 5e2, 3.001]]),
            "bias": Values([7.0, 7.25]),
            "specification": Values([[1.0, -1.0], [-1.0, 1.0]]),
        },
        name="class differences that cancel",
        evaluations=_GEMM_ORDERS,
        growth=1e4,
        tolerance=1e-3,
    ),
    Case(
        "Gemm",
        (Box((5,)),),
        {},
        {
            "weight": Uniform((3, 5)),
            "bias": Uniform((3,)),
            "bias_magnitude": Uniform((3,), 2.0, 5.0),
            "specification": Uniform((2, 3)),
        },
        name="specification and magnitude of a folded bias",
        evaluations=_GEMM_ORDERS,
        growth=8.0,
    ),
    Case(
        "Gemm",
        (Box((4,), 0.999, 1.001, 5e-4),),
        {},
        {"weight": Values([[1e6, -1e6, 1e6, -1e6], [1.0, 3e7, -3e7, 1e-7]]), "bias": Values([1e-3, -1.0])},
        name="cancelling weights",
        evaluations=_GEMM_ORDERS,
        tolerance=10.0,
    ),
    Case(
        "Gemm",
        (Box((6,), 1.0, 2.0),),
        {},
        {"weight": Values([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0], [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]])},
        name="partial sums beyond the whole",
        evaluations=_GEMM_ORDERS,
    ),
    Case(
        "Gemm",
        (Box((5,)),),
        {},
        {"weight": Uniform((3, 5), -1e20, 1e20)},
        name="weights that bring denormal inputs back",
        evaluations=_GEMM_ORDERS,
    ),
    Case(
        "Gemm",
        (Box((4,)),),
        {},
        {
            "weight": Uniform((3, 4), -1e20, 1e20),
            "specification": Values([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]),
        },
        name="specification of weights that bring denormal inputs back",
        evaluations=_GEMM_ORDERS,
        growth=8.0,
    ),
)

_NORMALIZATION = (
    Case(
        "BatchNormalization",
        (Box((4,)),),
        {"epsilon": 1e-3},
        _statistics(4),
        name="rank 2",
        evaluations=_NORMALIZATION_ORDERS,
        growth=4.0,
    ),
    Case(
        "BatchNormalization",
        (Box((3, 5)),),
        {"momentum": 0.8},
        _statistics(3),
        name="rank 3",
        evaluations=_NORMALIZATION_ORDERS,
        growth=4.0,
    ),
    Case(
        "BatchNormalization",
        (Box((2, 3, 3)),),
        {},
        _statistics(2),
        name="rank 4",
        evaluations=_NORMALIZATION_ORDERS,
        growth=4.0,
    ),
    Case(
        "BatchNormalization",
        (Box((2, 2, 2, 2)),),
        {},
        _statistics(2),
        name="rank 5",
        evaluations=_NORMALIZATION_ORDERS,
        growth=4.0,
    ),
    Case(
        "BatchNormalization",
        (Box((2, 3, 3), 99.0, 101.0, 0.01),),
        {},
        {
            "weight": Values([3.0, -2.0]),
            "bias": Values([0.01, -0.02]),
            "running_mean": Values([100.0, 100.5]),
            "running_var": Values([1e-4, 0.0]),
        },
        name="mean that cancels the input, vanishing variance",
        evaluations=_NORMALIZATION_ORDERS,
        tolerance=1e-3,
    ),
)

_REST = (
    Case("Relu", (Box((3, 4)),), name="rank 3"),
    Case("Relu", (Box((40,), -0.1, 0.1, 0.1),), name="around zero"),
    Case("Relu", (Box((2, 3, 3), 0.5, 2.0),), name="always active"),
    Case("Relu", (Box((6,), -2.0, -0.5),), name="never active"),
    Case("Add", (Box((3, 4)), Box((3, 4))), name="two boxes"),
    Case("Add", (Box((3, 4)), Box((1, 4), radius=0.1)), name="two boxes, one broadcast"),
    Case("Add", (Box((2, 3, 3)), Uniform((2, 1, 1))), name="constant per channel"),
    Case("Add", (Uniform((1, 3)), Box((3,))), name="constant first"),
    Case("Add", (Box((1, 4)), Uniform((3, 1))), name="constant that grows the box"),
    Case("Add", (Box((5,)), Values(-0.75)), name="scalar constant"),
    Case("Add", (Box((4,), 1e6, 1e6 + 2.0, 0.5), Uniform((4,), -1e6 - 2.0, -1e6)), name="cancelling constant"),
    Case("Flatten", (Box((2, 3)),), name="rank 3"),
    Case("Flatten", (Box((2, 3, 2)),), name="rank 4"),
    Case("Flatten", (Box((5,)),), name="already flat"),
    Case("Constant", parameters={"value": Uniform((2, 3))}, name="matrix"),
    Case("Constant", parameters={"value": Values(1.5)}, name="scalar"),
)

ROWS = (*_CONV, *_GEMM, *_NORMALIZATION, *_REST)
