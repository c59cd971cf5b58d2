"""BatchNormalization: per-channel normalization by running statistics, in training by batch statistics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx.node import has_side_effect
from torch.nn import functional as F
from torch.overrides import wrap_torch_function

from ibpc.errors import GraphError
from ibpc.interval import Interval, Paired
from ibpc.ir import Attributes, Shape, format_shape
from ibpc.ops._curves import defined
from ibpc.ops.base import Fill, Layer, LayerPlan, Operator, Role, register
from ibpc.ops.combinators import affine, no_macs
from ibpc.ops.onnx import Builder, OnnxImport, OnnxNode, Value, Writer
from ibpc.ops.rules import Call, PairedOperand, Rules
from ibpc.rounding import Arithmetic

# A little below the largest number of binary32.
_GREATEST: Final = 2.0**127


def shape(attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]) -> Shape:
    """Return the shape of x, N×C×…. Raises GraphError unless all parameters have shape (C,)."""
    (x,) = operands
    if len(x) < 2 or any(size != (x[1],) for size in parameters.values()):
        raise GraphError.at(
            "BatchNormalization", f"x {format_shape(x)} with parameters {dict(parameters)}", "one value per channel"
        )
    return x


def nominal(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
) -> Tensor:
    """y = (x − mean) / √(var + ε) · weight + bias with the running statistics (Ioffe and Szegedy 2015)."""
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, call["epsilon"])


def _broadcast(call: Call, value: Tensor) -> Tensor:
    return value.reshape([-1, *[1] * (len(call.operands[0]) - 2)])


def absolute(
    call: Call,
    radius: Tensor,
    *,
    offset: Tensor | float | None,
    weight: Tensor,
    running_var: Tensor,
    **_: Tensor,
) -> Tensor:
    """|weight / √(var + ε)| · radius + offset."""
    result = radius * _broadcast(call, (weight * torch.rsqrt(running_var + call["epsilon"])).abs())
    if offset is None:
        return result
    return result + (offset if isinstance(offset, float) else _broadcast(call, offset))


def magnitude(
    call: Call,
    *,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
) -> Tensor:
    """|mean · weight / √(var + ε)| + |bias|: the two may cancel, their rounding errors do not."""
    return (running_mean * weight * torch.rsqrt(running_var + call["epsilon"])).abs() + bias.abs()


def terms(call: Call) -> int:
    """Return 24: one product, two sums, and up to ten roundings in the scale, generously."""
    return 24


def update_running_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: int,
    momentum: float,
) -> None:
    """Move the running statistics to (1 − momentum) · batch + momentum · running, the variance unbiased.

    `momentum` is ONNX's: the weight of the old value. `count` is the number of values averaged per channel.
    """
    with torch.no_grad():
        running_mean.lerp_(mean.detach(), 1.0 - momentum)
        running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), 1.0 - momentum)


@has_side_effect
@wrap_torch_function(lambda *tensors_and_momentum: tensors_and_momentum[:-1])
def batch_statistics(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (C,) of the batch x (B, C, …); update the running statistics in place."""
    axes = [0, *range(2, x.dim())]
    mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    update_running_statistics(running_mean, running_var, mean, variance, x.numel() // x.shape[1], momentum)
    return mean, variance


@wrap_torch_function(lambda *tensors_and_numbers: tensors_and_numbers[:-2])
def normalize_by_batch(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """Return x (B, C, …) normalized by its own statistics; update the running ones as `batch_statistics` does."""
    return F.batch_norm(x, running_mean, running_var, weight, bias, True, 1.0 - momentum, epsilon)


def normalized(
    mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, epsilon: float, rank: int
) -> tuple[Tensor, Tensor]:
    """Return a and b of the normalization a x + b by these statistics, for x (B, C, …) of `rank` dimensions."""
    scale = weight * torch.rsqrt(variance + epsilon)
    shape = [-1, *[1] * (rank - 2)]
    return scale.reshape(shape), (bias - mean * scale).reshape(shape)


def training(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
) -> Tensor:
    """Return y by the statistics of the batch; update the running ones."""
    return normalize_by_batch(x, running_mean, running_var, weight, bias, call["momentum"], call["epsilon"])


def scaling(
    call: Call,
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return a and b of the normalization a x + b by the statistics of the batch x; update the running ones."""
    found = batch_statistics(x, running_mean, running_var, call["momentum"])
    return normalized(found[0], found[1], weight, bias, call["epsilon"], len(call.operands[0]))


def paired(call: Call, x: PairedOperand, **parameters: Tensor) -> Paired:
    """Normalize nominal value and box by the statistics of the nominal batch, with gradients through them.

    (Shi et al. 2021, section 3.3: both passes are normalized by the clean batch, so the box bounds the very function
    that the nominal pass computes.) The running statistics are updated once.
    """
    assert isinstance(x, Paired)
    clean = x.nominal
    slope, shift = scaling(call, clean, **parameters)
    radius = x.radius * slope.abs()
    if x.is_stacked:
        return Paired.stacked(x.stack * slope + shift, radius)
    return Paired.separate(clean * slope + shift, Interval.around(x.interval.center * slope + shift, radius))


def plan(ranks: tuple[int, ...], options: Mapping[str, Any], operands: tuple[Shape, ...]) -> LayerPlan:
    """Plan a BatchNormNd layer."""
    (x,) = operands
    if len(x) not in ranks:
        wanted = " or ".join(str(rank) for rank in ranks)
        raise GraphError.at("BatchNorm", f"an input of shape {format_shape(x)}", f"rank {wanted}")
    attributes = {"epsilon": options["eps"], "momentum": 1.0 - options["momentum"]}
    return LayerPlan(attributes, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (x[1],)))


def layer(name: str, ranks: tuple[int, ...]) -> Layer:
    """Return the torch.nn layer `name`."""
    options = {
        "eps": {"description": "Added to the variance", "type": "number", "exclusiveMinimum": 0, "default": 1e-5},
        "momentum": {
            "description": "Share of the batch in the running statistics",
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0.1,
        },
    }
    return Layer(name, options, partial(plan, ranks))


def read(node: OnnxNode, builder: Builder) -> Value:
    """Import BatchNormalization in its inference form."""
    if node.attributes.get("training_mode", 0):
        raise GraphError.at(f"node {node.name}", "training_mode=1 normalizes by the batch", "training_mode=0")
    if not node.attributes.get("spatial", 1):
        raise GraphError.at(f"node {node.name}", "spatial=0 normalizes each element", "spatial=1")
    roles = ("weight", "bias", "running_mean", "running_var")
    parameters = {role: node.known(slot) for slot, role in enumerate(roles, start=1)}
    attributes = {
        "epsilon": float(node.attributes.get("epsilon", 1e-5)),
        "momentum": float(node.attributes.get("momentum", 0.9)),
    }
    return builder.add("BatchNormalization", [node.operand(0)], attributes, parameters)


def write(call: Call, writer: Writer, operands: tuple[str, ...], parameters: Mapping[str, Tensor]) -> str:
    """Export BatchNormalization in its inference form."""
    roles = ("weight", "bias", "running_mean", "running_var")
    return writer.node(
        "BatchNormalization",
        [*operands, *(writer.constant(parameters[role]) for role in roles)],
        epsilon=call["epsilon"],
        momentum=call["momentum"],
    )


_EVALUATION = affine(nominal, absolute, terms, magnitude)


def interval(
    call: Call,
    x: Interval,
    *,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
) -> Interval:
    """Bound as an affine operator; [−∞, ∞] where x − mean or its product with either factor may overflow binary32.

    (|x| + |mean|) (1 + |weight|) (1 + 1 / √(var + ε)) is an upper bound of all of these.
    """
    parameters = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    box = _EVALUATION.interval(call, x, **parameters)
    if call.arithmetic is Arithmetic.REAL:
        return box
    factor = (1.0 + weight.abs()) * (1.0 + torch.rsqrt(running_var + call["epsilon"]))
    far = torch.maximum(x.lower.abs(), x.upper.abs()) + _broadcast(call, running_mean.abs())
    return defined(far * _broadcast(call, factor) < _GREATEST, box)


OPERATOR = register(
    Operator(
        name="BatchNormalization",
        summary="Per-channel normalization by running (evaluation) or batch (training) statistics",
        attributes={
            "epsilon": {"type": "number", "exclusiveMinimum": 0, "default": 1e-5},
            "momentum": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.9},
        },
        operands=(1, 1),
        roles=(
            Role("weight", Fill.ONES),
            Role("bias", Fill.ZEROS),
            Role("running_mean", Fill.ZEROS, trainable=False),
            Role("running_var", Fill.ONES, trainable=False),
        ),
        shape=shape,
        macs=no_macs,
        rules=Rules(nominal, interval, paired, None, training, scaling=scaling),
        reads=(OnnxImport("BatchNormalization", (1, 6, 7, 9, 14, 15), read),),
        writes=write,
        layers=(
            layer("BatchNorm1d", (2, 3)),
            layer("BatchNorm2d", (4,)),
            layer("BatchNorm3d", (5,)),
        ),
    )
)
