"""Rows of the normalizations over the elements of a sample."""

from __future__ import annotations

from math import prod

import torch

from ibpc.ops.base import Call
from tests.ops.cases import Box, Case, Uniform

Tensor = torch.Tensor


# ── other orders of evaluation ──────────────────────────────────────────────────────────────────────────────────
def _backwards(terms: Tensor) -> Tensor:
    total = torch.zeros_like(terms[..., :1])
    for place in reversed(range(terms.shape[-1])):
        total = total + terms[..., place : place + 1]
    return total


def _grouped(call: Call, x: Tensor) -> Tensor:
    """Return the groups that are standardized, (B, groups, elements)."""
    if "axis" in call.attributes:
        axis = call["axis"] % len(call.output)
        return x.reshape(x.shape[0], prod(call.output[1:axis]), -1)
    return x.reshape(x.shape[0], call.attributes.get("num_groups", call.output[1]), -1)


def _parameter(call: Call, value: Tensor | None, otherwise: float) -> Tensor:
    if value is None:
        return torch.tensor(otherwise)
    return value if "axis" in call.attributes else value.reshape([-1, *[1] * (len(call.output) - 2)])


def standardized_backwards(
    call: Call, x: Tensor, *, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Mean, then the squares of the differences from it, each sum the last element first; then weight and bias."""
    groups = _grouped(call, x)
    apart = groups - _backwards(groups) / groups.shape[-1]
    variance = _backwards(apart * apart) / groups.shape[-1]
    standardized = (apart / (variance + call["epsilon"]).sqrt()).reshape(x.shape)
    return standardized * _parameter(call, weight, 1.0).type_as(x) + _parameter(call, bias, 0.0).type_as(x)


def standardized_in_one_pass(
    call: Call, x: Tensor, *, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The variance as mean of the squares minus square of the mean; x and mean scaled apart (as ONNX Runtime does)."""
    groups = _grouped(call, x)
    mean = _backwards(groups) / groups.shape[-1]
    variance = _backwards(groups * groups) / groups.shape[-1] - mean * mean
    scale = (torch.rsqrt(variance + call["epsilon"]).expand_as(groups)).reshape(x.shape)
    scale = scale * _parameter(call, weight, 1.0).type_as(x)
    return x * scale + (_parameter(call, bias, 0.0).type_as(x) - mean.expand_as(groups).reshape(x.shape) * scale)


_EVALUATIONS = (standardized_backwards, standardized_in_one_pass)

# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────
_LOOSE = (
    "from 9 elements on a bound on the side of the mean is that of a dual problem; test_standardization measures it"
)
_UNFOUND = {"attained": "the attack finds no mixed corners and levels; test_standardization tries all of them"}

_LAYERS = (
    Case(
        "LayerNormalization",
        (Box((3, 5)),),
        parameters={"weight": Uniform((5,)), "bias": Uniform((5,))},
        name="last dimension",
        evaluations=_EVALUATIONS,
        without=_UNFOUND,
    ),
    Case(
        "LayerNormalization",
        (Box((2, 3, 4), radius=1.0),),
        {"axis": 2},
        {"weight": Uniform((3, 4))},
        name="two dimensions, no bias",
        evaluations=_EVALUATIONS,
        loose=_LOOSE,
    ),
    Case(
        "LayerNormalization",
        (Box((12,), radius=0.1),),
        {"axis": 1, "epsilon": 0.015625},
        name="vector, no weight",
        evaluations=_EVALUATIONS,
        loose=_LOOSE,
    ),
    Case(
        "LayerNormalization",
        (Box((3, 1)),),
        {"epsilon": 0.0009765625},
        parameters={"bias": Uniform((1,))},
        name="single elements",
        growth=4.0,
    ),
    Case(
        "LayerNormalization",
        (Box((4, 2), radius=1.0),),
        {"epsilon": 0.125},
        {"weight": Uniform((2,))},
        name="pairs",
        evaluations=_EVALUATIONS,
        without=_UNFOUND,
    ),
)

_GROUPS = (
    Case(
        "InstanceNormalization",
        (Box((3, 4)),),
        {},
        {"weight": Uniform((3,)), "bias": Uniform((3,))},
        name="one dimension",
        evaluations=_EVALUATIONS,
        without=_UNFOUND,
    ),
    Case(
        "InstanceNormalization",
        (Box((2, 3, 4)),),
        {"epsilon": 0.0009765625},
        name="two dimensions, no weight",
        evaluations=_EVALUATIONS,
        loose=_LOOSE,
    ),
    Case(
        "GroupNormalization",
        (Box((4, 3)),),
        {"num_groups": 2},
        {"weight": Uniform((4,)), "bias": Uniform((4,))},
        name="one dimension",
        evaluations=_EVALUATIONS,
        without=_UNFOUND,
    ),
    Case(
        "GroupNormalization",
        (Box((4, 2, 3), radius=0.1),),
        {"num_groups": 1, "epsilon": 0.0009765625},
        {"weight": Uniform((4,))},
        name="one group",
        evaluations=_EVALUATIONS,
        loose=_LOOSE,
    ),
)

ROWS = (*_LAYERS, *_GROUPS)
