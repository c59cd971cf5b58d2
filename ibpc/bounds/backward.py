"""Pulling linear forms back through a network: from a·(values at some nodes) to a linear form of the inputs.

An affine operator pulls a form back by the vjp of its nominal rule. A nonlinear one is replaced by its lower plane
where the form's coefficient is positive and by its upper plane where it is negative (Zhang et al. 2018, CROWN, arXiv
1811.00866, theorem 3.2; in this form Xu et al. 2020, arXiv 2002.12920, theorem 1). Everything is computed in binary64;
see `ibpc.bounds.values` for the cost of binary32 executions. Binary64's own rounding is paid for by `slack` times every
coefficient times the greatest modulus of its factor: far more than the few thousand additions into it can lose to
cancellation once E, which is 2²⁹ times larger, is widened (`ibpc.bounds.payments`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import ClassVar, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ibpc.bounds.coefficients import dotted, plane_size, pulled, reduced, summed, weighed
from ibpc.bounds.forms import Cost, Form, Units, add, worthwhile, zeros
from ibpc.bounds.patches import Patches, Window
from ibpc.bounds.payments import Payments
from ibpc.bounds.values import Step, Steps, Values, is_linear_here
from ibpc.interval import Interval
from ibpc.ops.rules import Factors, Kernel, Operand, Planes

PlanesOf: TypeAlias = Callable[[Step, tuple[Operand, ...]], Planes]
_Bend: TypeAlias = "tuple[_Mixture, ...]"

# From this many multiply-accumulates on, all forms of an affine operator are pulled back from a single point.
_WORTH_A_SINGLE_POINT: Final = 1e7


def plain_planes(step: Step, operands: tuple[Operand, ...]) -> Planes:
    """Return the planes of the operator's own relaxation."""
    assert step.operator.rules.relaxation is not None
    return step.operator.rules.relaxation(step.call, *operands, **step.parameters)


class _Mixture(NamedTuple):
    """Two factors p, q by their mean and half their difference: p max(a, 0) + q min(a, 0) = a · mean + |a| · half."""

    mean: Tensor
    half: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor) -> _Mixture:
        """Return the mixture of the factors of positive and of negative coefficients."""
        return cls(0.5 * lower + 0.5 * upper, 0.5 * lower - 0.5 * upper)


class _Bent(NamedTuple):
    """Both planes of a nonlinear operator that acts element by element."""

    bend: _Bend


class Backward:
    """Lower bounds of linear forms over boxes whose values are known.

    Differentiable with respect to the planes where gradients are on. `forms` are the last call's coefficients (R, B,
    *shape) at the inputs and at the results of nonlinear operators, except patches. A subclass whose bounds prove
    nothing may set `slack`, the allowance for rounding relative to every product, to 0. One that must not wait for the
    device sets `may_synchronize` to False: then it never looks at the contents of a tensor.
    """

    slack: ClassVar[float] = 2.0**-44
    may_synchronize: ClassVar[bool] = True

    def __init__(self, walk: Steps, values: Values, planes_of: PlanesOf = plain_planes) -> None:
        self._walk, self._values, self._planes_of = walk, values, planes_of
        self._payments = Payments(walk, values, self.slack, self.may_synchronize)
        self._planes: dict[str, Planes] = {}
        self._bends: dict[str, _Bend | None] = {}
        self.forms: dict[str, Tensor] = {}

    def lower(self, forms: Mapping[str, Form]) -> Tensor:
        """Return lower bounds (R, B) of Σ a·value for coefficients a (R, B, *shape) at some nodes.

        −∞ or NaN, which claim nothing, where a plane or box on the way is not finite.
        """
        pending = dict(forms)
        total = zeros(next(iter(forms.values())))
        for name, form in forms.items():
            if name in self._payments.ahead and isinstance(self._values.known[name], Interval):
                total = total + self._payments.paid(self._walk.steps[name], form)
        for name in reversed(list(self._walk.steps)):
            if name in pending:
                total = total + self._through(self._walk.steps[name], pending.pop(name), pending)
        for name in self._walk.inputs:
            total = total + self._at_input(name, pending.get(name), total)
        return torch.where(total == torch.inf, torch.full_like(total, torch.nan), total)

    def cost(self, name: str) -> Cost:
        """Return the cost of pulling back the form of one element of a node, per sample."""
        is_image = self._values.box(name).lower.dim() == 4
        windows: dict[str, Window | None] = {name: Window() if is_image else None}
        costs = [
            self._cost_through(self._walk.steps[node], windows.pop(node), windows)
            for node in reversed(list(self._walk.steps))
            if node in windows
        ]
        return Cost(sum(cost.work for cost in costs), max((cost.size for cost in costs), default=1))

    def _cost_through(self, step: Step, window: Window | None, windows: dict[str, Window | None]) -> Cost:
        """Return the cost of one node, and add the windows seen of its operands to `windows` (None: everything)."""
        operands = tuple(self._values.known[operand] for operand in step.operands)
        boxes = {name: x for name, x in zip(step.operands, operands, strict=True) if isinstance(x, Interval)}
        seen = None if window is None else self._seen(step, operands)
        work = step.operator.macs(step.call)
        if window is None or seen is None:
            windows.update(dict.fromkeys(boxes))
            return Cost(work, max(prod(x.lower.shape[1:]) for x in boxes.values()))
        channels, height, width = step.call.output[1:]
        moved = window.through(seen) if isinstance(seen, Kernel) else window
        for name, x in boxes.items():
            met = windows.get(name, moved)
            joined = None if met is None else moved.joined(met)
            windows[name] = joined if joined is not None and joined.is_small(_image(x)) else None
        return Cost(work * window.area / (height * width), channels * window.area)

    def _at_input(self, name: str, form: Form | None, like: Tensor) -> Tensor:
        """Return what a form contributes at an input, (R, B)."""
        box = self._values.box(name)
        if form is None:
            form = like.new_zeros(*like.shape, *box.lower.shape[1:])
        if isinstance(form, Units):
            form = form.dense()
        if not isinstance(form, Patches):
            self.forms[name] = form
        return self._concretized(box, form)

    def _through(self, step: Step, form: Form, pending: dict[str, Form]) -> Tensor | float:
        """Pull a form back through one node into `pending`; return the constant that it leaves there, (R, B)."""
        name = step.node.name
        operands = tuple(self._values.known[operand] for operand in step.operands)
        if not isinstance(form, Tensor):
            if isinstance(form, Patches):
                constant = self._locally(step, operands, form, pending)
            else:
                constant = self._picked(step, form, pending)
            if constant is not None:
                return constant
            form = form.dense()
        known = self._values.known[name]
        if not isinstance(known, Interval):
            return summed(form * known)
        if not step.operator.is_affine and not is_linear_here(step, operands):
            return self._planar(step, operands, form, pending)
        self._affine(step, operands, form, pending)
        return self._payments.due(step, form)

    def _affine(self, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Form]) -> None:
        """Pull back by the operator's own rule, or by the vjp of its nominal rule at zero."""
        if step.operator.rules.pull is None:
            self._by_vjp(step, operands, form, pending)
            return
        (name,) = step.operands
        slope = step.operator.rules.pull(step.call, form.flatten(0, 1), **step.parameters)
        add(pending, name, slope.reshape(*form.shape[:2], *slope.shape[1:]))

    def _by_vjp(self, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Form]) -> None:
        """Pull back by the vjp of the nominal rule.

        An affine function has the same vjp everywhere, so all forms may go back together from a single point (vmap).
        That has a fixed cost: it pays where evaluating the rule at as many points as there are forms takes longer.
        """
        rows, batch = form.shape[:2]
        flat = form.flatten(0, 1)
        single = step.operator.macs(step.call) * rows * batch >= _WORTH_A_SINGLE_POINT
        count = 1 if single else rows * batch
        points = [
            x.lower.new_zeros(count, *x.lower.shape[1:]).requires_grad_() if isinstance(x, Interval) else x
            for x in operands
        ]
        through = torch.is_grad_enabled()
        with torch.enable_grad():
            result = step.operator.rules.nominal(step.call, *points, **step.parameters)
            boxes = [point for point, x in zip(points, operands, strict=True) if isinstance(x, Interval)]
            pull = partial(torch.autograd.grad, result, boxes, create_graph=through)
            slopes = torch.func.vmap(pull)(flat.unsqueeze(1)) if single else pull(flat)
        names = [name for name, x in zip(step.operands, operands, strict=True) if isinstance(x, Interval)]
        for name, slope, point in zip(names, slopes, boxes, strict=True):
            add(pending, name, slope.reshape(rows, batch, *point.shape[1:]))

    def _locally(
        self, step: Step, operands: tuple[Operand, ...], form: Patches, pending: dict[str, Form]
    ) -> Tensor | float | None:
        """Pull patches back through one node as patches, None where that is not possible."""
        seen = self._seen(step, operands)
        if seen is None:
            return None
        if isinstance(seen, _Bent):
            return self._bent_patches(seen.bend, step, form, pending)
        if isinstance(seen, Kernel):
            (operand,) = step.operands
            add(pending, operand, worthwhile(form.through(seen, _image(operands[0]))))
        else:
            for operand, factor in zip(step.operands, seen, strict=True):
                add(pending, operand, form.scaled(factor))
        return self._payments.due(step, form)

    def _picked(self, step: Step, form: Units, pending: dict[str, Form]) -> Tensor | float | None:
        """Pull back forms that pick single elements, None where the operator has no shortcut for them."""
        rows, name = step.operator.rules.rows, step.node.name
        if rows is None or not isinstance(self._values.known[name], Interval):
            return None
        slope = rows(step.call, form.elements, **step.parameters)
        slope = slope * form.signs.reshape(-1, *[1] * (slope.dim() - 1))
        (operand,) = step.operands
        add(pending, operand, slope.unsqueeze(1).expand(-1, form.batch, *slope.shape[1:]))
        return self._payments.due(step, form)

    def _seen(self, step: Step, operands: tuple[Operand, ...]) -> Kernel | Factors | _Bent | None:
        """Return the few elements of its operands that each result of a node depends on, None where that is unknown."""
        local, shape = step.operator.rules.local, step.call.output
        if len(shape) != 4 or not all(isinstance(x, Interval) and x.lower.dim() == 4 for x in operands):
            return None
        found: Kernel | Factors | None = None if local is None else local(step.call, **step.parameters)
        if isinstance(found, Kernel):
            return found
        if not all(_image(x) == tuple(shape[1:]) for x in operands):
            return None
        if step.operator.is_affine:
            return found
        bend = self._bend(step.node.name, self._planes_at(step, operands), operands, 5)
        return None if bend is None else _Bent(bend)

    def _bent_patches(self, bend: _Bend, step: Step, form: Patches, pending: dict[str, Form]) -> Tensor:
        """Pull patches back through both planes at once."""
        *slopes, offset = (form.windows_of(*pair) for pair in bend)
        for operand, slope in zip(step.operands, slopes, strict=True):
            add(pending, operand, form.bent(*slope))
        return form.total(*offset)

    def _planes_at(self, step: Step, operands: tuple[Operand, ...]) -> Planes:
        name = step.node.name
        if name not in self._planes:
            self._planes[name] = self._planes_of(step, operands)
        return self._planes[name]

    def _planar(self, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Form]) -> Tensor:
        """Pull back through the planes: the lower one where the coefficient is positive, else the upper one."""
        name = step.node.name
        planes = self._planes_at(step, operands)
        self.forms[name] = form
        bend = self._bend(name, planes, operands, form.dim())
        if bend is not None:
            return self._bent(bend, step, operands, form, pending)
        return self._parted(planes, step, operands, form, pending)

    def _bend(self, name: str, planes: Planes, operands: tuple[Operand, ...], rank: int) -> _Bend | None:
        """Return both planes as mixtures if all rows share them and they are finite, else None."""
        if name not in self._bends:
            factors = [factor for plane in (planes.lower, planes.upper) for factor in (plane.offset, *plane.slopes)]
            is_shared = not planes.lower.views and all(factor.dim() < rank for factor in factors)
            bend = self._bend_of(name, planes, operands) if is_shared else None
            is_finite = bend is not None and all(self._payments.is_finite(part) for pair in bend for part in pair)
            self._bends[name] = bend if is_finite else None
        return self._bends[name]

    def _bend_of(self, name: str, planes: Planes, operands: tuple[Operand, ...]) -> _Bend:
        """Return the mixtures of slopes and, last, of offsets, which include the cost of rounding at this node.

        They also include the payments of the operands that are paid for ahead.
        """
        slopes = tuple(map(_Mixture.of, planes.lower.slopes, planes.upper.slopes))
        offset, charge = _Mixture.of(planes.lower.offset, planes.upper.offset), self._payments.charge(name)
        mean, half = offset.mean, offset.half if charge is None else offset.half - charge
        if self.slack:
            half = half - self.slack * (plane_size(planes.lower, operands) + plane_size(planes.upper, operands))
        for slot, operand in enumerate(self._walk.steps[name].operands):
            if self._payments.is_folded(name, operand):
                sizes = _Mixture.of(planes.lower.slopes[slot].abs(), -planes.upper.slopes[slot].abs())
                constant, cost = self._payments.paid_ahead(operand)
                mean = mean + slopes[slot].mean * constant - sizes.mean * cost
                half = half + slopes[slot].half * constant - sizes.half * cost
        return (*slopes, _Mixture(mean, half))

    def _bent(
        self, bend: _Bend, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Form]
    ) -> Tensor:
        """Pull back through both planes at once."""
        modulus, (*slopes, offset) = form.abs(), bend
        constant = dotted(form, offset.mean) + dotted(modulus, offset.half)
        for operand, x, slope in zip(step.operands, operands, slopes, strict=True):
            weighted = torch.addcmul(form * slope.mean, modulus, slope.half)
            if isinstance(x, Interval):
                pulled_back = reduced(weighted, x.lower.shape, True)
                add(pending, operand, pulled_back)
                if operand in self._payments.ahead and not self._payments.is_folded(step.node.name, operand):
                    constant = constant + self._payments.paid(self._walk.steps[operand], pulled_back)
            else:
                constant = constant + summed(reduced(weighted, x.shape, False) * x)
        return constant

    def _parted(
        self, planes: Planes, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Form]
    ) -> Tensor:
        """Pull positive coefficients back through the lower plane and negative ones through the upper plane."""
        above, below, is_finite = form.clamp(min=0.0), form.clamp(max=0.0), self._payments.is_finite
        constant = weighed(above, planes.lower.offset, is_finite)
        constant = constant + weighed(below, planes.upper.offset, is_finite)
        for slot, (operand, x) in enumerate(zip(step.operands, operands, strict=True)):
            slope = pulled(above, below, planes, slot, x, is_finite)
            if isinstance(x, Interval):
                add(pending, operand, slope)
                if operand in self._payments.ahead:
                    constant = constant + self._payments.paid(self._walk.steps[operand], slope)
            else:
                constant = constant + summed(slope * x)
        charge = self._payments.charge(step.node.name)
        if charge is not None:
            constant = constant - weighed(form.abs(), charge, is_finite)
        return constant - self._planes_loss(above, below, planes, operands) if self.slack else constant

    def _planes_loss(self, above: Tensor, below: Tensor, planes: Planes, operands: tuple[Operand, ...]) -> Tensor:
        """Return how much rounding in the products with both planes can cost a form, (R, B)."""
        lower, upper = (plane_size(plane, operands) for plane in (planes.lower, planes.upper))
        is_finite = self._payments.is_finite
        return self.slack * (weighed(above, lower, is_finite) - weighed(below, upper, is_finite))

    def _concretized(self, box: Interval, form: Tensor | Patches) -> Tensor:
        """Return the least value of a form over the box of an input."""
        center, radius = 0.5 * box.lower + 0.5 * box.upper, 0.5 * box.upper - 0.5 * box.lower
        spread = radius + self.slack * (center.abs() + radius) if self.slack else radius
        if isinstance(form, Patches):
            return form.total(*form.windows_of(center, -spread))
        return dotted(form, center) - dotted(form.abs(), spread)


def _image(x: Operand) -> tuple[int, int, int]:
    """Return channels, height and width of a batch of images."""
    assert isinstance(x, Interval)
    channels, height, width = x.lower.shape[1:]
    return channels, height, width
