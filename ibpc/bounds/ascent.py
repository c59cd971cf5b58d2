"""Choosing among sound planes by gradient ascent on the bound itself (Xu et al. 2021, α-CROWN, arXiv 2011.13824).

Every choice of slopes is sound, so the best bound seen at any step counts, rounding included. Constraints v ≥ a or
v ≤ b that hold on a part of the box enter with multipliers β ≥ 0 (Wang et al. 2021, β-CROWN, arXiv 2103.06624, theorem
3.1): where v ≥ a, a form is at least the form minus β (v − a).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from operator import is_
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ibpc.bounds.adam import Adam, paced
from ibpc.bounds.backward import Backward, PlanesOf, plain_planes
from ibpc.bounds.coefficients import reduced, summed
from ibpc.bounds.forms import Form, add
from ibpc.bounds.values import Step, Values, Walk
from ibpc.interval import Interval
from ibpc.ops.rules import Operand, Plane, Planes

# Choices are multiples of 1/LEVELS, so that a proof states them exactly; the checker, which imports nothing from here,
# has its own copy, and a test compares the two.
LEVELS: Final = 2**16 - 1
_SLOPE_RATE: Final = 0.1
_MULTIPLIER_RATE: Final = 0.05


@dataclass(frozen=True)
class Ascent:
    """The best lower bounds (R, B) of an ascent, with the choices of planes and the multipliers that gave them.

    `forms` are the last coefficients at inputs and at results of nonlinear operators. All are by node.
    """

    lower: Tensor
    forms: Mapping[str, Tensor]
    choices: Mapping[str, Tensor]
    multipliers: Mapping[str, Tensor]


Chosen: TypeAlias = Callable[[Planes], bool]
# The planes of a node, with the operands that they were made for.
Plain: TypeAlias = dict[str, tuple[tuple[Operand, ...], Planes]]


def all_planes(planes: Planes) -> bool:
    """Tune the planes of every operator that can be tuned."""
    return True


def elementwise_planes(planes: Planes) -> bool:
    """Tune elementwise planes only: in a search, those of products and Softmax cost more than they gain."""
    return not planes.lower.views


class _Choices:
    """Parameters in [0, 1] for each form, sample and element of each nonlinear operator that is `chosen`.

    Nodes in `given` start from those choices, the others from the plain planes. `plain` caches plain planes; new ones
    are added to it.
    """

    def __init__(self, rows: int, given: Mapping[str, Tensor], chosen: Chosen, plain: Plain | None = None) -> None:
        self._rows, self._given, self._chosen = rows, given, chosen
        self._plain: Plain = {} if plain is None else plain
        self.parameters: dict[str, Tensor] = {}

    def planes(self, step: Step, operands: tuple[Operand, ...]) -> Planes:
        """Return the planes of a step at the present choice, which the first call creates."""
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
        """Return planes between the plain ones and the constant bounds, with separate choices below and above."""
        box = step.operator.rules.interval(step.call, *operands, **step.parameters)
        start = torch.ones_like(plain.lower.offset)
        below, above = self._parameter(step, torch.stack([start, start], 1)).unbind(2)
        return Planes(_between(plain.lower, below, box.lower), _between(plain.upper, above, box.upper))

    def _parameter(self, step: Step, start: Tensor) -> Tensor:
        name = step.node.name
        if name not in self.parameters:
            first = self._given.get(name, _rounded_to_levels(start.detach()).expand(self._rows, *start.shape))
            self.parameters[name] = first.to(start.dtype, copy=True).contiguous().requires_grad_()
        return self.parameters[name]


def _rounded_to_levels(choices: Tensor) -> Tensor:
    """Return the choices rounded to those that a proof can state, in binary64."""
    return (choices.double() * LEVELS).round() / LEVELS


def _between(plane: Plane, share: Tensor, constant: Tensor) -> Plane:
    slopes = tuple(slope * share for slope in plane.slopes)
    return Plane(slopes, plane.offset * share + constant * (1.0 - share))


@dataclass(frozen=True)
class Ends:
    """Constraints low ≤ v ≤ high that hold on parts of a box, mostly of single elements; infinite where there is none.

    `known[node]` is low and high, (B, *shape) each. One multiplier β serves both: β > 0 subtracts β (v − low), β < 0
    subtracts |β| (high − v), neither of which is negative. (Only one of the two ends can help a form.)
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
        """Return the constant part of the terms, Σ β low or β high, (R, B), less `slack` times their moduli.

        −∞ where the end that a multiplier needs is infinite. At β = 0 the gradient is taken at the middle of both
        ends, which leads to the end that a form violates.
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
        """Return multipliers (R, B, *shape): the given ones, else 0."""
        return {
            name: given.get(name, low.new_zeros(rows, *low.shape)).to(dtype, copy=True).requires_grad_()
            for name, (low, _) in self.known.items()
        }

    def clamp(self, multipliers: Mapping[str, Tensor]) -> None:
        """Set multipliers to 0, in place, where the end that their sign needs is infinite."""
        for name, (low, high) in self.known.items():
            least, most = torch.zeros_like(high), torch.zeros_like(low)
            least[high.isfinite()], most[low.isfinite()] = -inf, inf
            multipliers[name].clamp_(least.to(multipliers[name].dtype), most.to(multipliers[name].dtype))


_NO_ENDS: Final = Ends({})


class _Climbing(Backward):
    """Backward bounds for comparing choices only: they prove nothing."""

    slack = 0.0

    def __init__(self, walk: Walk, values: Values, planes_of: PlanesOf) -> None:
        super().__init__(walk, values, planes_of)
        self._is_plain: dict[str, bool] = {}

    def restart(self) -> None:
        """Forget the planes: they have changed."""
        self._planes.clear()
        self._bends.clear()

    def _parted(
        self, planes: Planes, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Form]
    ) -> Tensor:
        """Pull back through the plane that suits each coefficient, in one pass where all numbers are finite."""
        name = step.node.name
        if name not in self._is_plain:
            self._is_plain[name] = not planes.lower.views and _are_finite(planes)
        if not self._is_plain[name]:
            return super()._parted(planes, step, operands, form, pending)
        is_above = form > 0
        constant = summed(form * torch.where(is_above, planes.lower.offset, planes.upper.offset))
        for operand, x, low, high in zip(
            step.operands, operands, planes.lower.slopes, planes.upper.slopes, strict=True
        ):
            weighted = form * torch.where(is_above, low, high)
            if isinstance(x, Interval):
                add(pending, operand, reduced(weighted, x.lower.shape, True))
            else:
                constant = constant + summed(reduced(weighted, x.shape, False) * x)
        return constant


def _are_finite(planes: Planes) -> bool:
    factors = [factor for plane in (planes.lower, planes.upper) for factor in (plane.offset, *plane.slopes)]
    return all(bool(factor.detach().sum().isfinite()) for factor in factors)


@dataclass(frozen=True)
class Start:
    """Where an ascent begins: choices and multipliers by node, as in an `Ascent`; empty means the plain planes."""

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
    """Return lower bounds of forms (R, B, *shape) over the boxes, after `steps` steps or at the deadline.

    The steps run in binary32, which with convolutions is several times faster than binary64: any choice is sound. The
    bound at the best choice is then computed in binary64, and only that is returned.
    """
    found = start if steps == 0 else _climbed(walk, values, forms, steps, ends, start, deadline, chosen)
    rows = next(iter(forms.values())).shape[0]
    choices = _Choices(rows, {name: _rounded_to_levels(choice) for name, choice in found.choices.items()}, chosen)
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

    Walk and values may be in binary32: the bounds are for comparison, not for proof. `plain` caches planes between
    calls whose values are mostly the same.
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
    """Return the choices and multipliers that gave each form and sample its best bound, computed in binary32."""
    rough_walk, rough_values = walk.rough, values.rough()
    rough_forms = {name: form.float() for name, form in forms.items()}
    rows, batch = next(iter(forms.values())).shape[:2]
    choices = _Choices(rows, start.choices, chosen)
    multipliers = ends.multipliers(rows, start.multipliers, torch.float32)
    best = next(iter(rough_forms.values())).new_full((rows, batch), -inf)
    pace = torch.ones_like(best)
    slopes, lengths = Adam(_SLOPE_RATE), Adam(_MULTIPLIER_RATE)
    backward = _Climbing(rough_walk, rough_values, choices.planes)
    for number in range(1, steps + 2):
        with torch.enable_grad():
            backward.restart()
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
    """Set the gradients of the parameters. Bounds that are not finite, or that no parameter moves, contribute none."""
    for parameters in groups:
        for parameter in parameters.values():
            parameter.grad = None
    if not lower.requires_grad:
        return
    with torch.enable_grad():
        torch.autograd.backward(torch.where(lower.isfinite(), lower, torch.zeros_like(lower)).sum())


@torch.no_grad()
def _allow(choices: _Choices, multipliers: Mapping[str, Tensor], ends: Ends) -> None:
    """Clamp choices and multipliers, in place, to the allowed ones."""
    for choice in choices.parameters.values():
        choice.clamp_(0.0, 1.0)
    ends.clamp(multipliers)
