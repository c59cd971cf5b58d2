"""Scalings x ↦ s x + t by constants, elementwise, and folding them into linear operators.

For y = W x + b, a scaling after it gives W' = s W and b' = s b + t, one before it W' = W s and b' = b + W t. The sum
of the moduli of all parts of b' is kept as `bias_magnitude`: B' = |s| B + T or B' = B + |W| T, where T ≥ |t| sums the
moduli of the parts of t. `ibpc.passes._roundings` says why, and how roundings are counted. New values are computed in
binary64 and rounded once; B' is rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.ir import BATCH, VIEWS, Graph, Node, Shape
from ibpc.passes._roundings import MOST_ROUNDINGS, UNDERFLOW, add_fused_roundings, fused_roundings
from ibpc.passes.base import also_read, constant_of, described, listed, readers, uneven
from ibpc.rounding import toward

LINEAR: Final = ("Conv", "ConvTranspose", "Gemm")
# Sums, products and quotients round each term once, and the weight that a pass computes is rounded once more.
_ELEMENTWISE_ROUNDINGS: Final = 2
# Up to ten in the scale, three more in y = (x − mean) · scale + bias, one in the folded weight.
_NORMALIZATION_ROUNDINGS: Final = 14


@dataclass(frozen=True)
class Scaling:
    """x ↦ scale · x + shift on the elements of one sample (binary64), or on the channels of a linear operator.

    `magnitude` ≥ |shift| sums the moduli of the shift's parts. `roundings` counts the roundings of each term: those of
    the original, and one in the folded weight (none for Neg).
    """

    scale: Tensor
    shift: Tensor
    magnitude: Tensor
    roundings: int

    @property
    def shifts(self) -> bool:
        """Whether the shift has nonzero parts, even if they cancel."""
        return bool((self.magnitude != 0).any())

    def reshaped(self, shape: Shape) -> Scaling:
        """Return the scaling of a sample with the same elements in another shape."""
        return self._each(lambda tensor: tensor.reshape(shape))

    def per_channel(self, operator: str) -> Scaling | None:
        """Return the scaling per channel of an operand or result of a linear operator, None if channels are uneven.

        Channels are the first dimension of a sample for convolutions and the last one for Gemm.
        """
        by_channel = self._each(lambda tensor: _channels_first(tensor, operator))
        parts = (by_channel.scale, by_channel.shift, by_channel.magnitude)
        if not all(torch.allclose(part, part[:, :1], rtol=0.0, atol=0.0, equal_nan=True) for part in parts):
            return None
        return by_channel._each(lambda tensor: tensor[:, 0])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Scaling:
        return replace(self, scale=change(self.scale), shift=change(self.shift), magnitude=change(self.magnitude))


def _channels_first(sample: Tensor, operator: str) -> Tensor:
    if operator == "Gemm":
        return sample.reshape(-1, sample.shape[-1]).T
    return sample.reshape(sample.shape[0], -1)


# ── which operators are scalings ────────────────────────────────────────────────────────────────────────────────
def elementwise_scaling(graph: Graph, node: Node) -> tuple[str, Scaling] | None:
    """Return the operand that an Add, Sub, Mul, Div or Neg scales, and the scaling; None if it is no such scaling."""
    operands = graph.operands(node.name)
    perturbed = [name for name in operands if constant_of(graph, name) is None]
    if node.operator not in _SCALINGS or node.shape[:1] != (BATCH,) or len(perturbed) != 1:
        return None
    if graph.node(perturbed[0]).shape != node.shape:
        return None
    slot = operands.index(perturbed[0])
    values = (constant_of(graph, name) for name in operands)
    constants = [_expanded(value, node.shape) for value in values if value is not None]
    constant = constants[0] if constants else torch.zeros(node.shape[1:], dtype=torch.float64)
    scaling = _SCALINGS[node.operator](constant, slot)
    return None if scaling is None else (perturbed[0], scaling)


def _expanded(constant: Tensor, shape: Shape) -> Tensor:
    value = constant.double()
    if value.dim() == len(shape):
        value = value[0]
    return value.expand(shape[1:])


def _sum(constant: Tensor, slot: int) -> Scaling:
    return Scaling(torch.ones_like(constant), constant, constant.abs(), _ELEMENTWISE_ROUNDINGS)


def _difference(constant: Tensor, slot: int) -> Scaling:
    """Return x − c (x in slot 0) or c − x (x in slot 1)."""
    sign = 1.0 if slot == 0 else -1.0
    scale = torch.full_like(constant, sign)
    return Scaling(scale, -sign * constant, constant.abs(), _ELEMENTWISE_ROUNDINGS)


def _product(constant: Tensor, slot: int) -> Scaling:
    zero = torch.zeros_like(constant)
    return Scaling(constant, zero, zero, _ELEMENTWISE_ROUNDINGS)


def _quotient(constant: Tensor, slot: int) -> Scaling | None:
    """Return x / c, None for c / x, which is not affine, and for a c of 0."""
    if slot == 1 or bool((constant == 0).any()):
        return None
    return _product(1.0 / constant, slot)


def _negation(constant: Tensor, slot: int) -> Scaling:
    zero = torch.zeros_like(constant)
    return Scaling(zero - 1.0, zero, zero, 0)


_SCALINGS: Final[Mapping[str, Callable[[Tensor, int], Scaling | None]]] = {
    "Add": _sum,
    "Sub": _difference,
    "Mul": _product,
    "Div": _quotient,
    "Neg": _negation,
}


def normalization_scaling(graph: Graph, node: Node) -> Scaling:
    """Return (x − mean) / √(var + ε) · weight + bias as a scaling; mean · s and bias may cancel in its shift."""
    roles = ("weight", "bias", "running_mean", "running_var")
    parameters = graph.parameters_of(node.name)
    weight, bias, mean, variance = (torch.as_tensor(parameters[role]).double() for role in roles)
    scale = weight / torch.sqrt(variance + node.attributes["epsilon"])
    shape = (-1, *[1] * (len(node.shape) - 2))
    return Scaling(scale, bias - mean * scale, (mean * scale).abs() + bias.abs(), _NORMALIZATION_ROUNDINGS)._each(
        lambda tensor: tensor.reshape(shape).expand(node.shape[1:])
    )


# ── taking them in ──────────────────────────────────────────────────────────────────────────────────────────────
def fold_back(graph: Graph, name: str, operand: str, scaling: Scaling) -> tuple[Node, str | None]:
    """Fold the scaling that `name` applies to `operand` into the node that computes it.

    Return that node, the one before views, or the first view that others read too; and the refusal, None if done.
    """
    target, scaling, reason = _linear_source(graph, name, operand, scaling)
    if target.operator not in (*LINEAR, *VIEWS):
        return target, described(target)
    if reason is not None:
        return target, reason
    if "specification" in graph.parameters_of(target.name):
        return target, f"{target.name} carries a specification"
    channels = scaling.per_channel(target.operator)
    if channels is None:
        return target, uneven(target)
    reason = _take_in(graph, target, channels, _behind)
    if reason is None:
        _bypass(graph, name, operand)
    return target, reason


def fold_forward(graph: Graph, name: str, operand: str, scaling: Scaling) -> tuple[Node, str | None]:
    """Fold the scaling that `name` applies to `operand` into the node that reads it.

    Return that node, the one after views, or the last view if several nodes read it; and the refusal, None if done.
    """
    reader, scaling, others = _linear_reader(graph, name, scaling)
    if others:
        return reader, f"its value is read by {listed(others)}"
    if reader.operator not in LINEAR:
        return reader, described(reader)
    channels = scaling.per_channel(reader.operator)
    if channels is None:
        return reader, uneven(reader)
    if channels.shifts and _sees_borders(reader):
        return reader, f"it adds to the elements and not to the zeros that {reader.name} has at its borders"
    reason = _take_in(graph, reader, channels, _in_front)
    if reason is None:
        _bypass(graph, name, operand)
    return reader, reason


def source_before(graph: Graph, name: str, operand: str, scaling: Scaling) -> Node:
    """Return the node that computes the operand of `name`, before views; or the first view that others read too."""
    return _linear_source(graph, name, operand, scaling)[0]


def _bypass(graph: Graph, name: str, operand: str) -> None:
    graph.rewire(name, operand)
    graph.remove(name)


def _linear_source(graph: Graph, name: str, operand: str, scaling: Scaling) -> tuple[Node, Scaling, str | None]:
    """Follow the operand of node `name` back through views that nothing else reads, to the node before the first.

    Returns that node, the scaling in the shape of its result, and the refusal if others read its value.
    """
    while True:
        node, reason = graph.node(operand), also_read(graph, operand, name)
        if reason is not None or node.operator not in VIEWS:
            return node, scaling, reason
        name, operand = operand, graph.operands(operand)[0]
        scaling = scaling.reshaped(graph.node(operand).shape[1:])


def _linear_reader(graph: Graph, name: str, scaling: Scaling) -> tuple[Node, Scaling, list[str]]:
    """Follow the value of node `name` through views with one reader each, to the node after the last.

    Returns that node, the scaling in the shape of its operand, and the readers if there is not exactly one.
    """
    while True:
        uses = readers(graph, name)
        if len(uses) != 1 or uses[0] not in graph:
            return graph.node(name), scaling, uses
        reader = graph.node(uses[0])
        if reader.operator not in VIEWS:
            return reader, scaling, []
        name, scaling = reader.name, scaling.reshaped(reader.shape[1:])


def _sees_borders(node: Node) -> bool:
    """Whether the weights that an input meets differ by position: with zero padding, or in a ConvTranspose."""
    return node.operator == "ConvTranspose" or any(node.attributes.get("pads", ()))


@dataclass(frozen=True)
class _Linear:
    """Weight (groups, outputs, inputs, taps), bias and bias magnitude (channels) of a linear operator, binary64."""

    weight: Tensor
    bias: Tensor
    magnitude: Tensor


def _behind(linear: _Linear, scaling: Scaling) -> _Linear:
    """Return s (W x + b) + t."""
    groups, outputs, *_ = linear.weight.shape
    least = UNDERFLOW if scaling.roundings else 0.0
    return _Linear(
        linear.weight * scaling.scale.reshape(groups, outputs, 1, 1),
        linear.bias * scaling.scale + scaling.shift,
        (linear.magnitude + least) * scaling.scale.abs() + scaling.magnitude,
    )


def _in_front(linear: _Linear, scaling: Scaling) -> _Linear:
    """Return W (s x + t) + b."""
    groups, _, inputs, _ = linear.weight.shape
    least = UNDERFLOW if scaling.roundings else 0.0

    def through(weight: Tensor, x: Tensor) -> Tensor:
        return (weight.sum(-1) * x.reshape(groups, 1, inputs)).sum(-1).flatten()

    return _Linear(
        linear.weight * scaling.scale.reshape(groups, 1, inputs, 1),
        linear.bias + through(linear.weight, scaling.shift),
        linear.magnitude + through(linear.weight.abs(), scaling.magnitude + least),
    )


def _take_in(graph: Graph, node: Node, scaling: Scaling, compose: Callable[[_Linear, Scaling], _Linear]) -> str | None:
    """Replace the node's parameters by those of the composition. Return the refusal, None if done."""
    reason = next(_unchangeable(graph, node, scaling.roundings), None)
    if reason is not None:
        return reason
    parameters = graph.parameters_of(node.name)
    weight = torch.as_tensor(parameters["weight"])
    composed = compose(_linear_of(node, parameters), scaling)
    exact = {"weight": _ungrouped(node, composed.weight, weight.shape)}
    if "bias" in parameters or scaling.shifts:
        exact["bias"] = composed.bias
    if not _in_range([*exact.values(), composed.magnitude], [exact["weight"], scaling.scale], weight.dtype):
        return f"the weights of {node.name} would leave the normal range"
    rounded = {role: value.to(weight.dtype).contiguous() for role, value in exact.items()}
    if "bias_magnitude" in parameters or bool((composed.magnitude != composed.bias.abs()).any()):
        rounded["bias_magnitude"] = toward(composed.magnitude, torch.inf, weight.dtype)
    graph.state.update((f"{node.name}.{role}", value) for role, value in rounded.items())
    add_fused_roundings(graph, node.name, scaling.roundings)
    return None


def _unchangeable(graph: Graph, node: Node, more: int) -> Iterator[str]:
    """Yield the reasons why the parameters of a node cannot change."""
    keys = [f"{node.name}.{role}" for role in graph.parameters_of(node.name)]
    tied = [key for key in graph.ties if key in keys or graph.ties[key] in keys]
    if tied:
        others = [key if key not in keys else graph.ties[key] for key in tied]
        yield f"the weights of {node.name} are shared: {listed(others)}"
    if node.constraints:
        yield f"the weights of {node.name} are constrained to be {listed(node.constraints)}"
    present = fused_roundings(graph, node.name)
    if present + more > MOST_ROUNDINGS:
        yield (
            f"{node.name} has taken in {present} roundings a term and {more} more would be too many "
            f"for its float32 bound (at most {MOST_ROUNDINGS})"
        )


def _linear_of(node: Node, parameters: Mapping[str, Any]) -> _Linear:
    weight = _grouped(node, torch.as_tensor(parameters["weight"]).double())
    channels = weight.shape[0] * weight.shape[1]
    bias = torch.as_tensor(parameters.get("bias", torch.zeros(channels))).double()
    magnitude = torch.as_tensor(parameters["bias_magnitude"]).double() if "bias_magnitude" in parameters else bias.abs()
    return _Linear(weight, bias, magnitude)


def _grouped(node: Node, weight: Tensor) -> Tensor:
    """Return the weight as (groups, outputs, inputs, taps), with outputs and inputs per group."""
    if node.operator == "Gemm":
        return weight[None, :, :, None]
    group = int(node.attributes["group"])
    by_group = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1)
    return by_group.transpose(1, 2) if node.operator == "ConvTranspose" else by_group


def _ungrouped(node: Node, weight: Tensor, shape: torch.Size) -> Tensor:
    return (weight.transpose(1, 2) if node.operator == "ConvTranspose" else weight).reshape(shape)


def _in_range(values: Iterable[Tensor], factors: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Whether values stay finite in `dtype`, and nonzero factors stay normal numbers."""
    least = torch.finfo(dtype).tiny
    ends = [end for value in values if value.numel() for end in torch.aminmax(value)]
    is_finite = all(bool(end.to(dtype).isfinite()) for end in ends)
    return is_finite and all(bool(((factor == 0) | (factor.abs() >= least)).all()) for factor in factors)
