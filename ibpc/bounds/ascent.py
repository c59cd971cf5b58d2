"""Choosing among sound planes by gradient ascent on the bound itself (Xu et al. 2021, α-CROWN, arXiv 2011.13824).

Every choice of slopes is sound, so the best bound seen at any step counts, rounding included. Constraints v ≥ 0 or
v ≤ 0 that hold on a part of the box enter with multipliers β ≥ 0 (Wang et al. 2021, β-CROWN, arXiv 2103.06624, theorem
3.1): where s·v ≥ 0, a form is at least itself minus β s·v.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

import torch

from ibpc.bounds.backward import Backward, plain_planes
from ibpc.bounds.values import Step, Values, Walk
from ibpc.interval import Interval
from ibpc.ops.base import Operand, Plane, Planes

Tensor: TypeAlias = torch.Tensor

_SLOPE_RATE: Final = 0.1
_MULTIPLIER_RATE: Final = 0.05
_DECAY: Final = 0.98


@dataclass(frozen=True)
class Ascent:
    """What an ascent found: the best lower bounds (R, B), and with them the choices of planes and the multipliers.

    `forms` are the last coefficients at nonlinear operators' results. All are by node.
    """

    lower: Tensor
    forms: Mapping[str, Tensor]
    choices: Mapping[str, Tensor]
    multipliers: Mapping[str, Tensor]


class _Choices:
    """A parameter in [0, 1] for each form, sample and element of each nonlinear operator that can be tuned."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.parameters: dict[str, Tensor] = {}

    def planes(self, step: Step, operands: tuple[Operand, ...]) -> Planes:
        """Return the planes of a step at the present choice, made at the first request as the plain ones."""
        plain = plain_planes(step, operands)
        if plain.lower.views or not all(isinstance(x, Interval) for x in operands):
            return plain
        if step.operator.rules.tuned is None:
            return self._mixed(step, operands, plain)
        start = plain.lower.slopes[0].clamp(0.0, 1.0)
        return step.operator.rules.tuned(step.call, self._parameter(step, start), *operands)

    def _mixed(self, step: Step, operands: tuple[Operand, ...], plain: Planes) -> Planes:
        """Return planes between the plain ones and the constant bounds, below and above by choices of their own."""
        box = step.operator.rules.interval(step.call, *operands, **step.parameters)
        start = torch.ones_like(plain.lower.offset)
        below, above = self._parameter(step, torch.stack([start, start], 1)).unbind(2)
        return Planes(_between(plain.lower, below, box.lower), _between(plain.upper, above, box.upper))

    def _parameter(self, step: Step, start: Tensor) -> Tensor:
        name = step.node.name
        if name not in self.parameters:
            self.parameters[name] = start.detach().expand(self._rows, *start.shape).clone().requires_grad_()
        return self.parameters[name]


def _between(plane: Plane, share: Tensor, constant: Tensor) -> Plane:
    slopes = tuple(slope * share for slope in plane.slopes)
    return Plane(slopes, plane.offset * share + constant * (1.0 - share))


def ascend(
    walk: Walk,
    values: Values,
    forms: Mapping[str, Tensor],
    steps: int,
    signs: Mapping[str, Tensor] | None = None,
    deadline: float = inf,
) -> Ascent:
    """Return the best lower bounds of forms a (R, B, *shape) over the boxes, after `steps` steps or at the deadline.

    `signs` (B, *shape) are 1 where a node's value is known to be at least 0, −1 where at most 0, and 0 elsewhere.
    """
    first = next(iter(forms.values()))
    choices = _Choices(first.shape[0])
    known = dict(signs or {})
    multipliers = {name: sign.new_zeros(first.shape[0], *sign.shape).requires_grad_() for name, sign in known.items()}
    best = torch.full(first.shape[:2], -torch.inf, dtype=first.dtype, device=first.device)
    optimizer: torch.optim.Optimizer | None = None
    last: dict[str, Tensor] = {}
    best_choices: dict[str, Tensor] = {}
    best_multipliers: dict[str, Tensor] = {}
    for number in range(steps + 1):
        with torch.enable_grad():
            backward = Backward(walk, values, choices.planes)
            lower = backward.lower(_with_multipliers(forms, known, multipliers))
        better = lower.detach() > best
        for kept, found in ((best_choices, choices.parameters), (best_multipliers, multipliers)):
            _keep(kept, found, better)
        best = torch.fmax(best, lower.detach())
        last = {name: form.detach() for name, form in backward.forms.items()}
        if number == steps or time.monotonic() > deadline or not (choices.parameters or multipliers):
            break
        if optimizer is None:
            optimizer = _optimizer(choices, multipliers)
        _step(optimizer, lower, choices, multipliers)
    return Ascent(best, last, best_choices, best_multipliers)


def _keep(kept: dict[str, Tensor], found: Mapping[str, Tensor], better: Tensor) -> None:
    """Take over the parameters (R, B, …) of the forms and parts whose bounds are better now."""
    for name, parameter in found.items():
        value = parameter.detach()
        if name not in kept or bool(better.all()):
            kept[name] = value.clone()
        else:
            torch.where(better.reshape(*better.shape, *[1] * (value.dim() - 2)), value, kept[name], out=kept[name])


def _with_multipliers(
    forms: Mapping[str, Tensor], signs: Mapping[str, Tensor], multipliers: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    result = dict(forms)
    for name, sign in signs.items():
        term = -multipliers[name] * sign
        result[name] = result[name] + term if name in result else term
    return result


def _optimizer(choices: _Choices, multipliers: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    groups = [
        {"params": list(parameters), "lr": rate}
        for parameters, rate in ((choices.parameters.values(), _SLOPE_RATE), (multipliers.values(), _MULTIPLIER_RATE))
        if parameters
    ]
    return torch.optim.Adam(groups)


def _step(
    optimizer: torch.optim.Optimizer, lower: Tensor, choices: _Choices, multipliers: Mapping[str, Tensor]
) -> None:
    """Take one step up and go back into [0, 1] and [0, ∞). A bound that is not finite pulls nowhere."""
    optimizer.zero_grad(set_to_none=True)
    with torch.enable_grad():
        torch.autograd.backward(-torch.where(lower.isfinite(), lower, torch.zeros_like(lower)).sum())
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, 0.0, 0.0, 0.0)
        group["lr"] *= _DECAY
    optimizer.step()
    with torch.no_grad():
        for choice in choices.parameters.values():
            choice.clamp_(0.0, 1.0)
        for multiplier in multipliers.values():
            multiplier.clamp_(min=0.0)
