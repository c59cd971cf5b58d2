"""Choosing among sound planes by gradient ascent on the bound itself (Xu et al. 2021, α-CROWN, arXiv 2011.13824).

Every choice of slopes is sound, so the best bound seen at any step counts, rounding included. Constraints v ≥ a or
v ≤ b that hold on a part of the box enter with multipliers β ≥ 0 (Wang et al. 2021, β-CROWN, arXiv 2103.06624, theorem
3.1): where v ≥ a, a form is at least itself minus β (v − a).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from operator import is_
from typing import Final, TypeAlias

import torch

from ibpc.bounds.adam import Adam, paced
from ibpc.bounds.backward import Backward, plain_planes
from ibpc.bounds.coefficients import summed
from ibpc.bounds.values import Step, Values, Walk
from ibpc.interval import Interval
from ibpc.ops.rules import Operand, Plane, Planes

Tensor: TypeAlias = torch.Tensor

# Choices are multiples of 1/LEVELS, so that a proof can say them exactly; the checker, which takes nothing from here,
# has a number of its own, and a test compares the two.
LEVELS: Final = 2**16 - 1
_SLOPE_RATE: Final = 0.1
_MULTIPLIER_RATE: Final = 0.05


@dataclass(frozen=True)
class Ascent:
    """What an ascent found: the best lower bounds (R, B), and with them the choices of planes and the multipliers.

    `forms` are the last coefficients at nonlinear operators' results. All are by node.
    """

    lower: Tensor
    forms: Mapping[str, Tensor]
    choices: Mapping[str, Tensor]
    multipliers: Mapping[str, Tensor]


Chosen: TypeAlias = Callable[[Planes], bool]
# The planes of a node with the operands that they are of.
Plain: TypeAlias = dict[str, tuple[tuple[Operand, ...], Planes]]


def all_planes(planes: Planes) -> bool:
    """Choose among the planes of every operator that has any to choose among."""
    return True


def elementwise_planes(planes: Planes) -> bool:
    """Choose among elementwise planes only: those of products and of Softmax cost a search more than they bring."""
    return not planes.lower.views


class _Choices:
    """Parameters in [0, 1] for each form, sample and element of each nonlinear operator that is `chosen`.

    Those that `given` names are taken from there, the others begin as the plain planes. `plain` are those that are
    known; more are added.
    """

    def __init__(self, rows: int, given: Mapping[str, Tensor], chosen: Chosen, plain: Plain | None = None) -> None:
        self._rows, self._given, self._chosen = rows, given, chosen
        self._plain: Plain = {} if plain is None else plain
        self.parameters: dict[str, Tensor] = {}

    def planes(self, step: Step, operands: tuple[Operand, ...]) -> Planes:
        """Return the planes of a step at the present choice, made at the first request."""
        name, rules = step.node.name, step.operator.rules
        if name not in self._plain or not all(map(is_, self._plain[name][0], operands)):
            self._plain[name] = operands, plain_planes(step, operands)
        plain = self._plain[name][1]
        if not self._chosen(plain) or not all(isinstance(x, Interval) for x in operands):
            return plain
        if rules.tuned is not None and rules.start is not None:
            if name not in self.parameters:
                self._parameter(step, rules.start(step.call, *operands))
            return rules.tuned(step.call, self.parameters[name], plain, *operands)
        return plain if plain.lower.views else self._mixed(step, operands, plain)

    def _mixed(self, step: Step, operands: tuple[Operand, ...], plain: Planes) -> Planes:
        """Return planes between the plain ones and the constant bounds, below and above by choices of their own."""
        box = step.operator.rules.interval(step.call, *operands, **step.parameters)
        start = torch.ones_like(plain.lower.offset)
        below, above = self._parameter(step, torch.stack([start, start], 1)).unbind(2)
        return Planes(_between(plain.lower, below, box.lower), _between(plain.upper, above, box.upper))

    def _parameter(self, step: Step, start: Tensor) -> Tensor:
        name = step.node.name
        if name not in self.parameters:
            first = self._given.get(name, _said(start.detach()).expand(self._rows, *start.shape))
            self.parameters[name] = first.to(start.dtype, copy=True).contiguous().requires_grad_()
        return self.parameters[name]


def _said(choices: Tensor) -> Tensor:
    """Return the choices that a proof can say, in binary64."""
    return (choices.double() * LEVELS).round() / LEVELS


def _between(plane: Plane, share: Tensor, constant: Tensor) -> Plane:
    slopes = tuple(slope * share for slope in plane.slopes)
    return Plane(slopes, plane.offset * share + constant * (1.0 - share))


@dataclass(frozen=True)
class Ends:
    """Ends of values that are known on the parts of a box, of single elements mostly: infinite where nothing is.

    `known[node]` is low and high, (B, *shape) each. A multiplier β serves both: above 0 it takes off β (v − low), below
    0 |β| (high − v), neither of which is negative. (Only one of two ends can be of use to a form.)
    """

    known: Mapping[str, tuple[Tensor, Tensor]]

    def applied(self, forms: Mapping[str, Tensor], multipliers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the forms less β v for each value v."""
        result = dict(forms)
        for name in self.known:
            term = -multipliers[name]
            result[name] = result[name] + term if name in result else term
        return result

    def constant(self, multipliers: Mapping[str, Tensor], slack: float) -> Tensor | float:
        """Return what is left of the terms, β low or β high, (R, B), less the share `slack` of their moduli.

        −∞ where a multiplier has no end to stand for. At β = 0 the gradient is that of the middle, which leads to the
        end that a form violates.
        """
        total: Tensor | float = 0.0
        for name, (low, high) in self.known.items():
            multiplier = multipliers[name]
            middle = torch.where(low.isinf(), high, torch.where(high.isinf(), low, 0.5 * low + 0.5 * high))
            end = torch.where(multiplier > 0, low, torch.where(multiplier < 0, high, middle)).to(multiplier.dtype)
            term = multiplier * torch.where(end.isinf(), torch.zeros_like(end), end)
            term = torch.where(end.isinf() & (multiplier != 0), torch.full_like(term, -inf), term)
            total = total + summed(term - slack * term.abs() if slack else term)
        return total

    def multipliers(self, rows: int, given: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return multipliers (R, B, *shape), those given or 0."""
        return {
            name: given.get(name, low.new_zeros(rows, *low.shape)).to(dtype, copy=True).requires_grad_()
            for name, (low, _) in self.known.items()
        }

    def clamp(self, multipliers: Mapping[str, Tensor]) -> None:
        """Take the parts of multipliers away, in place, that no end stands for."""
        for name, (low, high) in self.known.items():
            least, most = torch.zeros_like(high), torch.zeros_like(low)
            least[high.isfinite()], most[low.isfinite()] = -inf, inf
            multipliers[name].clamp_(least.to(multipliers[name].dtype), most.to(multipliers[name].dtype))


_NO_ENDS: Final = Ends({})


class _Climbing(Backward):
    """Backward bounds to compare choices by: they prove nothing."""

    slack = 0.0


@dataclass(frozen=True)
class Start:
    """Where an ascent begins: choices and multipliers by node, as an `Ascent` has them; empty: the plain planes."""

    choices: Mapping[str, Tensor] = field(default_factory=dict)
    multipliers: Mapping[str, Tensor] = field(default_factory=dict)


_PLAIN: Final = Start()


def ascend(
    walk: Walk,
    values: Values,
    forms: Mapping[str, Tensor],
    steps: int,
    ends: Ends = _NO_ENDS,
    start: Start = _PLAIN,
    deadline: float = inf,
    chosen: Chosen = all_planes,
) -> Ascent:
    """Return lower bounds of forms a (R, B, *shape) over the boxes, after `steps` steps or at the deadline.

    The steps run in binary32, several times faster than binary64 where there are convolutions: any choice is sound.
    What the best of them gives is then computed in binary64, and this alone is what is returned.
    """
    found = start if steps == 0 else _climbed(walk, values, forms, steps, ends, start, deadline, chosen)
    rows = next(iter(forms.values())).shape[0]
    choices = _Choices(rows, {name: _said(choice) for name, choice in found.choices.items()}, chosen)
    multipliers = ends.multipliers(rows, found.multipliers, torch.float64)
    with torch.no_grad():
        backward = Backward(walk, values, choices.planes)
        lower = backward.lower(ends.applied(forms, multipliers)) + ends.constant(multipliers, Backward.slack)
    return Ascent(lower, dict(backward.forms), _detached(choices.parameters), _detached(multipliers))


@torch.no_grad()
def estimated(
    walk: Walk, values: Values, forms: Mapping[str, Tensor], ends: Ends, start: Start, plain: Plain
) -> Tensor:
    """Return bounds (R, B) at given choices of elementwise planes.

    In binary32, as walk and values may be: to compare by, not for proof. `plain` keeps planes for calls with values of
    which most are the same.
    """
    like = next(iter(forms.values()))
    choices = _Choices(like.shape[0], start.choices, elementwise_planes, plain)
    multipliers = ends.multipliers(like.shape[0], start.multipliers, like.dtype)
    found = _Climbing(walk, values, choices.planes).lower(ends.applied(forms, multipliers))
    return found + ends.constant(multipliers, 0.0)


def _climbed(
    walk: Walk,
    values: Values,
    forms: Mapping[str, Tensor],
    steps: int,
    ends: Ends,
    start: Start,
    deadline: float,
    chosen: Chosen,
) -> Start:
    """Return the choices and multipliers that gave each form and sample its best bound, all in binary32."""
    rough_walk, rough_values = walk.rough, values.rough()
    rough_forms = {name: form.float() for name, form in forms.items()}
    rows, batch = next(iter(forms.values())).shape[:2]
    choices = _Choices(rows, start.choices, chosen)
    multipliers = ends.multipliers(rows, start.multipliers, torch.float32)
    best = next(iter(rough_forms.values())).new_full((rows, batch), -inf)
    pace = torch.ones_like(best)
    slopes, lengths = Adam(_SLOPE_RATE), Adam(_MULTIPLIER_RATE)
    for number in range(1, steps + 2):
        with torch.enable_grad():
            backward = _Climbing(rough_walk, rough_values, choices.planes)
            lower = backward.lower(ends.applied(rough_forms, multipliers)) + ends.constant(multipliers, 0.0)
        better = lower.detach() > best
        slopes.keep(choices.parameters, better)
        lengths.keep(multipliers, better)
        best = torch.fmax(best, lower.detach())
        pace = paced(pace, better)
        if number > steps or time.monotonic() > deadline or not (choices.parameters or multipliers):
            break
        _differentiate(lower, (choices.parameters, multipliers))
        slopes.step(choices.parameters, number, pace)
        lengths.step(multipliers, number, pace)
        _allow(choices, multipliers, ends)
    return Start(slopes.best, lengths.best)


def _detached(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in parameters.items()}


def _differentiate(lower: Tensor, groups: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the gradients of the parameters. A bound that is not finite, or that none of them moves, pulls nowhere."""
    for parameters in groups:
        for parameter in parameters.values():
            parameter.grad = None
    if not lower.requires_grad:
        return
    with torch.enable_grad():
        torch.autograd.backward(torch.where(lower.isfinite(), lower, torch.zeros_like(lower)).sum())


@torch.no_grad()
def _allow(choices: _Choices, multipliers: Mapping[str, Tensor], ends: Ends) -> None:
    """Go back, in place, to choices and multipliers that are allowed."""
    for choice in choices.parameters.values():
        choice.clamp_(0.0, 1.0)
    ends.clamp(multipliers)
