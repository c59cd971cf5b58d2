"""Relu: max(x, 0)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import wrap_torch_function

from ibpc.interval import Interval, Paired
from ibpc.ops._elementwise import elementwise
from ibpc.ops.base import register
from ibpc.ops.combinators import kink_at_zero, nonlinear
from ibpc.ops.rules import Call, PairedOperand, Plane, Planes


def nominal(call: Call, x: Tensor) -> Tensor:
    """y = max(x, 0)."""
    return torch.relu(x)


def relaxation(call: Call, x: Interval) -> Planes:
    """Lower plane a·x with a = 1 where u > −l, else 0; upper plane the chord u (x − l) / (u − l).

    (Zhang et al. 2018, CROWN, arXiv 1811.00866, table 2, with the adaptive lower slope.) Where l ≥ 0 both are x, where
    u ≤ 0 both are 0.
    """
    lower, upper = x.lower, x.upper
    above, below = upper.clamp(min=0.0), lower.clamp(max=0.0)
    chord = torch.where(lower >= 0, 1.0, above / (above - below))
    offset = torch.where(upper <= 0, 0.0, -chord * below)
    slope = (lower + upper > 0).to(lower.dtype)
    return Planes(Plane((slope,), torch.zeros_like(lower)), Plane((chord,), offset))


def tuned(call: Call, slope: Tensor, plain: Planes, x: Interval) -> Planes:
    """Any lower slope in [0, 1] where the box straddles 0 (Xu et al. 2021, α-CROWN, arXiv 2011.13824, section 3.1)."""
    is_unstable = (x.lower < 0) & (x.upper > 0)
    return Planes(Plane((torch.where(is_unstable, slope, plain.lower.slopes[0]),), plain.lower.offset), plain.upper)


def start(call: Call, x: Interval) -> Tensor:
    """Return the slopes of the relaxation."""
    return relaxation(call, x).lower.slopes[0]


class _StackedRelu(torch.autograd.Function):
    """Relu of a stack [nominal; center] with its radius, in as few passes over memory as the formula allows."""

    @staticmethod
    def forward(ctx: Any, stack: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        nominal, center = torch.chunk(stack, 2)
        result = torch.empty_like(stack)
        torch.clamp_min(nominal, 0.0, out=result[: len(nominal)])
        lower = torch.sub(center, radius).clamp_min_(0.0)
        upper = torch.add(center, radius).clamp_min_(0.0)
        middle = torch.lerp(lower, upper, 0.5, out=result[len(nominal) :])
        ctx.save_for_backward(result, lower, upper)
        return result, torch.sub(middle, lower)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        on_stack, on_radius = gradients
        result, lower, upper = ctx.saved_tensors
        on_nominal, on_center = torch.chunk(on_stack, 2)
        size = len(on_nominal)
        back = torch.ops.aten.threshold_backward
        total = torch.empty_like(on_stack)
        back.grad_input(on_nominal, result[:size], 0.0, grad_input=total[:size])
        on_lower = back(torch.sub(on_center, on_radius), lower, 0.0)
        on_upper = back(torch.add(on_center, on_radius), upper, 0.0)
        middle = torch.lerp(on_lower, on_upper, 0.5, out=total[size:])
        return total, torch.sub(middle, on_lower)


@wrap_torch_function(lambda stack, radius: (stack, radius))
def stacked_relu(stack: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return [relu(x); c′] and r′ for a stack [x; c] (2B, …) and a radius r (B, …).

    c′ ± r′ are relu(c ± r): c′ = (relu(c − r) + relu(c + r)) / 2 and r′ = c′ − relu(c − r).
    """
    result, half_width = _StackedRelu.apply(stack, radius)
    return result, half_width


def interval(call: Call, x: Interval) -> Interval:
    """[max(l, 0), max(u, 0)], exact in any arithmetic."""
    return Interval.nonnegative(torch.relu(x.lower), torch.relu(x.upper))


_RULES = nonlinear(nominal, interval, relaxation)


def paired(call: Call, x: PairedOperand) -> Paired:
    """Return stack and radius if the operand is stacked; otherwise run both rules side by side."""
    if not isinstance(x, Paired) or not x.is_stacked:
        return _RULES.paired(call, x)
    result = stacked_relu(x.stack, x.radius)
    return Paired.stacked(result[0], result[1])


OPERATOR = register(
    elementwise(
        "Relu",
        "max(x, 0)",
        replace(_RULES, paired=paired, tuned=tuned, start=start, kinks=kink_at_zero),
        (1, 6, 13, 14),
        layer="ReLU",
    )
)
