"""Rows of the normalizations over the elements of a sample."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ibpc.ops import lp_pool, lrn
from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case, Uniform


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
    """Mean, then squares of the differences from it, all sums last element first; then weight and bias."""
    groups = _grouped(call, x)
    apart = groups - _backwards(groups) / groups.shape[-1]
    variance = _backwards(apart * apart) / groups.shape[-1]
    standardized = (apart / (variance + call["epsilon"]).sqrt()).reshape(x.shape)
    return standardized * _parameter(call, weight, 1.0).type_as(x) + _parameter(call, bias, 0.0).type_as(x)


def standardized_in_one_pass(
    call: Call, x: Tensor, *, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The variance as mean of squares minus squared mean; x and mean scaled separately (as in ONNX Runtime)."""
    groups = _grouped(call, x)
    mean = _backwards(groups) / groups.shape[-1]
    variance = _backwards(groups * groups) / groups.shape[-1] - mean * mean
    scale = (torch.rsqrt(variance + call["epsilon"]).expand_as(groups)).reshape(x.shape)
    scale = scale * _parameter(call, weight, 1.0).type_as(x)
    return x * scale + (_parameter(call, bias, 0.0).type_as(x) - mean.expand_as(groups).reshape(x.shape) * scale)


def _grouped_as_is(call: Call, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], prod(call.output[1 : call["axis"] % len(call.output)]), -1)


def root_mean_square_backwards(call: Call, x: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Divide by the root of the squares, added one after the other, the last first."""
    groups = _grouped_as_is(call, x)
    root = (_backwards(groups * groups) / groups.shape[-1] + call["epsilon"]).sqrt()
    return (groups / root).reshape(x.shape) * (1.0 if weight is None else weight)


def normalized_backwards(call: Call, x: Tensor) -> Tensor:
    """Divide by the root of the squares, or the sum of the moduli, added one after the other, the last first."""
    moved = x.movedim(call["axis"], -1)
    total = _backwards(moved.abs() if call["p"] == 1 else moved * moved)
    return (moved / (total if call["p"] == 1 else total.sqrt())).movedim(-1, call["axis"])


def response_backwards(call: Call, x: Tensor) -> Tensor:
    """Add the squares of the window one after the other, the last first."""
    total = _backwards(lrn.windows(call, x * x)).squeeze(-1)
    return x * (call["bias"] + call["alpha"] * total / call["size"]) ** -call["beta"]


def pooled_backwards(call: Call, x: Tensor) -> Tensor:
    """Add the powers of the window one after the other, the last first."""
    total = _backwards(lp_pool.gathered(call, x).abs() ** call["p"]).squeeze(-1)
    return total ** (1.0 / call["p"])


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

_MIXED = {"attained": "the attack finds no mixed corners; test_reduction_rules tries all of them"}
_SWAPPED = {"reference": "its LRN counts the channels by the batch"}

_QUOTIENTS = (
    Case(
        "RMSNormalization",
        (Box((3, 4)),),
        {},
        {"weight": Uniform((4,))},
        name="last dimension",
        evaluations=(root_mean_square_backwards,),
        without=_MIXED,
    ),
    Case(
        "RMSNormalization",
        (Box((2, 3, 2), radius=1.0),),
        {"axis": 2, "epsilon": 0.0009765625},
        name="two dimensions, no weight",
        evaluations=(root_mean_square_backwards,),
        without=_MIXED,
    ),
    Case("LpNormalization", (Box((6,), 0.5, 2.0),), name="vector", evaluations=(normalized_backwards,)),
    Case(
        "LpNormalization",
        (Box((4, 3), 0.25, 3.0, 1.0),),
        {"axis": 1, "p": 1},
        name="moduli of channels",
        evaluations=(normalized_backwards,),
    ),
    Case(
        "LpNormalization",
        (Box((3, 8), -3.0, 3.0),),
        {"p": 2},
        name="both signs",
        evaluations=(normalized_backwards,),
        without=_MIXED,
        growth=4.0,
    ),
    Case(
        "LRN",
        (Box((5, 2, 2)),),
        {"size": 3},
        name="defaults",
        evaluations=(response_backwards,),
        without=_SWAPPED,
    ),
    Case(
        "LRN",
        (Box((4, 3), radius=1.0),),
        {"size": 4, "alpha": 2.0, "beta": 0.75, "bias": 0.5},
        name="strong, even window",
        evaluations=(response_backwards,),
        without=_MIXED | _SWAPPED | dict.fromkeys(("onnx_runtime", "checker"), "it takes odd sizes only"),
    ),
    Case(
        "LRN",
        (Box((3, 2, 1)),),
        {"size": 5, "alpha": 1.0, "beta": 0.5, "bias": 1.0},
        name="root",
        evaluations=(response_backwards,),
        without=_MIXED | _SWAPPED,
    ),
)


def _pool(kernel: list[int], strides: list[int], pads: list[int], **others: object) -> dict[str, object]:
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": [1] * len(kernel), **others}


_POOLS = (
    Case(
        "LpPool",
        (Box((2, 4, 4)),),
        _pool([2, 2], [2, 2], [0, 0, 0, 0]),
        name="Euclidean",
        evaluations=(pooled_backwards,),
        without=_MIXED,
    ),
    Case(
        "LpPool",
        (Box((2, 7), 0.25, 3.0),),
        _pool([3], [2], [0, 1], p=3, ceil_mode=1),
        name="cubes, padding",
        evaluations=(pooled_backwards,),
    ),
    Case(
        "LpPool",
        (Box((1, 5, 5)),),
        _pool([2, 3], [1, 2], [1, 1, 0, 1], p=1, dilations=[2, 1]),
        name="moduli, dilation",
        evaluations=(pooled_backwards,),
        without=_MIXED,
    ),
    Case(
        "LpPool",
        (Box((1, 2, 3, 2)),),
        _pool([2, 2, 2], [1, 1, 1], [0, 0, 0, 0, 0, 0], p=4),
        name="three dimensions, fourth powers",
        evaluations=(pooled_backwards,),
        without=_MIXED,
    ),
)

ROWS = (*_LAYERS, *_GROUPS, *_QUOTIENTS, *_POOLS)
