"""Rows of the pools, the transposed convolution, and the operators that only move elements."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ibpc.ops.rules import Call
from tests.ops.cases import Box, Case, Uniform


# ── other orders of summation ───────────────────────────────────────────────────────────────────────────────────
def transposed_tap_by_tap(call: Call, x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **_: Tensor) -> Tensor:
    """Spread one input channel and kernel position after the other over the bias, the last first."""
    dimensions, group, width = weight.dim() - 2, call["group"], weight.shape[0] // call["group"]
    before = call["pads"][:dimensions]
    full = [
        (size - 1) * stride + (taps - 1) * dilation + 1 + extra
        for size, stride, taps, dilation, extra in zip(
            x.shape[2:], call["strides"], weight.shape[2:], call["dilations"], call["output_padding"], strict=True
        )
    ]
    total = x.new_zeros(x.shape[0], weight.shape[1] * group, *full)
    if bias is not None:
        total = total + bias.reshape([1, -1, *[1] * dimensions])
    for channel, *position in reversed(list(product(range(width), *map(range, weight.shape[2:])))):
        places = [
            slice(tap * dilation, tap * dilation + (size - 1) * stride + 1, stride)
            for tap, dilation, size, stride in zip(
                position, call["dilations"], x.shape[2:], call["strides"], strict=True
            )
        ]
        taps = weight[channel::width][(slice(None), slice(None), *position)].flatten()
        values = x[:, channel::width].repeat_interleave(weight.shape[1], dim=1)
        total[(slice(None), slice(None), *places)] += values * taps.reshape([1, -1, *[1] * dimensions])
    window = [slice(start, start + size) for start, size in zip(before, call.output[2:], strict=True)]
    return total[(slice(None), slice(None), *window)]


def averaged_one_by_one(call: Call, x: Tensor) -> Tensor:
    """Add the elements of each window one after the other, the last first, and multiply by a rounded reciprocal."""
    result = x.new_zeros(x.shape[0], *call.output[1:])
    for place in product(*map(range, call.output[2:])):
        starts = [
            index * stride - pad for index, stride, pad in zip(place, call["strides"], call["pads"], strict=False)
        ]
        taps = [
            [start + step * dilation for step in range(size)]
            for start, size, dilation in zip(starts, call["kernel_shape"], call["dilations"], strict=True)
        ]
        total, count = x.new_zeros(x.shape[:2]), 0
        for position in reversed(list(product(*taps))):
            if all(0 <= at < size for at, size in zip(position, x.shape[2:], strict=True)):
                total = total + x[(slice(None), slice(None), *position)]
                count += 1
            elif call["count_include_pad"] and _is_padding(call, position, x.shape[2:]):
                count += 1
        result[(slice(None), slice(None), *place)] = total * (1.0 / torch.tensor(count, dtype=x.dtype))
    return result


def _is_padding(call: Call, position: tuple[int, ...], spatial: torch.Size) -> bool:
    dimensions = len(spatial)
    before, after = call["pads"][:dimensions], call["pads"][dimensions:]
    return all(-pad <= at < size + more for pad, at, size, more in zip(before, position, spatial, after, strict=True))


def mean_backwards(call: Call, x: Tensor) -> Tensor:
    """Add all positions one after the other, the last first, then divide."""
    flat = x.flatten(2)
    total = torch.zeros_like(flat[..., 0])
    for position in reversed(range(flat.shape[-1])):
        total = total + flat[..., position]
    return (total / flat.shape[-1]).reshape([x.shape[0], *call.output[1:]])


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _transposed(strides: list[int], pads: list[int], extra: list[int], **others: object) -> dict[str, object]:
    return {"strides": strides, "pads": pads, "dilations": [1] * len(strides), "output_padding": extra, **others}


def _pool(kernel: list[int], strides: list[int], pads: list[int], **others: object) -> dict[str, object]:
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": [1] * len(kernel), **others}


_TRANSPOSED = (
    Case(
        "ConvTranspose",
        (Box((2, 4)),),
        _transposed([2], [1, 1], [1]),
        {"weight": Uniform((2, 3, 3)), "bias": Uniform((3,))},
        name="one dimension, output padding",
        evaluations=(transposed_tap_by_tap,),
    ),
    Case(
        "ConvTranspose",
        (Box((4, 3, 3)),),
        _transposed([2, 1], [0, 0, 0, 0], [0, 0], group=2, dilations=[1, 2]),
        {"weight": Uniform((4, 2, 2, 3)), "bias": Uniform((4,)), "bias_magnitude": Uniform((4,), 2.0, 5.0)},
        name="groups, dilation, magnitude of a folded bias",
        evaluations=(transposed_tap_by_tap,),
        growth=4.0,
        without={"reference": "it takes one output channel per group"},
    ),
    Case(
        "ConvTranspose",
        (Box((2, 3, 4)),),
        _transposed([1, 2], [0, 1, 2, 0], [0, 1]),
        {"weight": Uniform((2, 1, 3, 2))},
        name="asymmetric pads, no bias",
        evaluations=(transposed_tap_by_tap,),
    ),
    Case(
        "ConvTranspose",
        (Box((1, 2, 2, 2)),),
        _transposed([1, 2, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0]),
        {"weight": Uniform((1, 2, 2, 3, 2)), "bias": Uniform((2,))},
        name="three dimensions",
        evaluations=(transposed_tap_by_tap,),
    ),
)

_MAX = (
    Case("MaxPool", (Box((2, 4, 4)),), _pool([2, 2], [2, 2], [0, 0, 0, 0]), name="plain"),
    Case("MaxPool", (Box((1, 7), radius=1.0),), _pool([3], [2], [0, 1], ceil_mode=1), name="odd padding"),
    Case(
        "MaxPool",
        (Box((1, 5, 6), -2.0, -1.0),),
        _pool([2, 3], [2, 4], [1, 1, 0, 1], ceil_mode=1, dilations=[2, 1]),
        name="negative values, ceil mode, dilation",
    ),
    Case("MaxPool", (Box((1, 3, 3, 3)),), _pool([2, 2, 2], [1, 2, 1], [0, 1, 0, 0, 1, 0]), name="three dimensions"),
)

_AVERAGE = (
    Case(
        "AveragePool",
        (Box((2, 4, 4)),),
        _pool([2, 2], [2, 2], [0, 0, 0, 0]),
        name="plain",
        evaluations=(averaged_one_by_one,),
    ),
    Case(
        "AveragePool",
        (Box((1, 5, 5)),),
        _pool([3, 2], [2, 1], [1, 1, 1, 0]),
        name="padding left out of the divisor",
        evaluations=(averaged_one_by_one,),
    ),
    Case(
        "AveragePool",
        (Box((1, 6)),),
        _pool([3], [2], [1, 1], ceil_mode=1, count_include_pad=1),
        name="padding in the divisor, ceil mode",
        evaluations=(averaged_one_by_one,),
    ),
    Case(
        "AveragePool",
        (Box((2, 5, 4)),),
        _pool([2, 2], [1, 1], [1, 0, 0, 1], count_include_pad=1, dilations=[2, 1]),
        name="dilated",
        evaluations=(averaged_one_by_one,),
    ),
    Case(
        "AveragePool",
        (Box((1, 3, 3, 4)),),
        _pool([2, 2, 2], [1, 1, 2], [0, 1, 0, 0, 1, 0], ceil_mode=1),
        name="three dimensions",
        evaluations=(averaged_one_by_one,),
    ),
)

_GLOBAL = (
    Case("GlobalAveragePool", (Box((3, 4, 4)),), name="two dimensions", evaluations=(mean_backwards,)),
    Case("GlobalAveragePool", (Box((2, 7)),), name="one dimension", evaluations=(mean_backwards,)),
    Case(
        "GlobalAveragePool",
        (Box((2, 3, 3, 2), 999.0, 1001.0),),
        name="far from zero",
        evaluations=(mean_backwards,),
    ),
)

_EXPANDED = "the constant is exported with an Expand to the batch, which only the frontend reads"

_SPREAD = (
    Case("Spread", (Box((3,)),), {}, {"value": Uniform((2, 4))}, name="matrix", without={"round_trip": _EXPANDED}),
    Case("Spread", (Box((2, 2)),), {}, {"value": Uniform((1,))}, name="number", without={"round_trip": _EXPANDED}),
)

_MOVES = (
    Case("Reshape", (Box((2, 3, 4)),), {"shape": [4, 6]}, name="other dimensions"),
    Case("Reshape", (Box((6,)),), {"shape": [2, 1, 3]}, name="more dimensions"),
    Case("Reshape", (Box((3, 1, 2)),), {"shape": [6]}, name="fewer dimensions"),
    Case("Transpose", (Box((2, 3, 4)),), {"perm": [0, 3, 1, 2]}, name="channels to the front"),
    Case("Transpose", (Box((3, 2)),), {"perm": [0, 2, 1]}, name="matrix"),
    Case("Concat", (Box((2, 3)), Box((1, 3)), Box((2, 3), radius=0.0)), {"axis": 1}, name="three boxes"),
    Case(
        "Concat",
        (Uniform((1, 2, 3)), Box((2, 2))),
        {"axis": 2},
        name="constant first",
        without={"round_trip": _EXPANDED},
    ),
    Case(
        "Concat",
        (Box((4,)), Uniform((1, 3)), Box((1,))),
        {"axis": -1},
        name="constant between boxes",
        without={"round_trip": _EXPANDED},
    ),
    Case(
        "Slice",
        (Box((5, 4)),),
        {"starts": [1, 0], "ends": [5, 9], "axes": [1, 2], "steps": [2, 3]},
        name="two dimensions with steps",
    ),
    Case(
        "Slice",
        (Box((6,)),),
        {"starts": [-1], "ends": [-6], "axes": [1], "steps": [-2]},
        name="backwards",
    ),
    Case("Slice", (Box((2, 5)),), {"starts": [-3], "ends": [-1], "axes": [2], "steps": [1]}, name="from the end"),
    Case("Pad", (Box((2, 3)),), {"pads": [0, 1, 0, 0, 0, 2], "value": -1.5}, name="constant"),
    Case("Pad", (Box((1, 4, 4)),), {"pads": [0, 0, 2, 1, 0, 0, 0, 3], "mode": "reflect"}, name="reflection"),
    Case("Pad", (Box((2, 3)),), {"pads": [0, 1, 2, 0, 0, 1], "mode": "edge"}, name="edge"),
    Case(
        "Pad",
        (Box((3, 4)),),
        {"pads": [0, -1, 2, 0, 0, -2]},
        name="cropped",
        without=dict.fromkeys(("reference", "checker"), "it knows no negative pads"),
    ),
    Case("Squeeze", (Box((1, 3, 1)),), {"axes": [1, 3]}, name="two dimensions"),
    Case("Squeeze", (Box((2, 1)),), {"axes": [-1]}, name="the last dimension"),
    Case("Unsqueeze", (Box((2, 3)),), {"axes": [1, 4]}, name="front and back"),
    Case("Unsqueeze", (Box((4,)),), {"axes": [-1]}, name="the last dimension"),
)

ROWS = (*_TRANSPOSED, *_MAX, *_AVERAGE, *_GLOBAL, *_SPREAD, *_MOVES)
