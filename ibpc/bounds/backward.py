"""Pulling linear forms back through a network: from a·(values at some nodes) to a linear form of the inputs.

An affine operator pulls a form back by the vjp of its nominal rule. A nonlinear one is replaced by its lower plane
where the form's coefficient is positive and by its upper plane where it is negative (Zhang et al. 2018, CROWN, arXiv
1811.00866, theorem 3.2; in this form Xu et al. 2020, arXiv 2002.12920, theorem 1). Everything is computed in binary64;
see `ibpc.bounds.values` for what binary32 executions cost. The rounding of binary64 itself is paid for by `slack` of
every coefficient times the greatest modulus of what it multiplies, far above what the few thousand additions into it
can lose to cancellation once E, which is 2²⁹ times larger, is widened by `_WIDENED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import ClassVar, Final, NamedTuple, TypeAlias

import torch

from ibpc.bounds.values import Step, Steps, Values
from ibpc.interval import Interval
from ibpc.ops._products import BilinearRules
from ibpc.ops.base import Operand, Plane, Planes

Tensor: TypeAlias = torch.Tensor
Finite: TypeAlias = Callable[[torch.Tensor], bool]
PlanesOf: TypeAlias = Callable[[Step, tuple[Operand, ...]], Planes]
_Bend: TypeAlias = "tuple[_Mixture, ...]"

_WIDENED: Final = 1.0 + 2.0**-8
# Multiply-accumulates of all forms of an affine operator from which on they are pulled back from a single point.
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
        """Return that of what positive and what negative coefficients are multiplied by."""
        return cls(0.5 * lower + 0.5 * upper, 0.5 * lower - 0.5 * upper)


class Backward:
    """Lower bounds of linear forms over boxes whose values are known.

    Differentiable with respect to the planes where gradients are on. `forms` are the coefficients (R, B, *shape) that
    the last call had at the inputs and at the results of nonlinear operators. A kind of backward pass whose bounds
    prove nothing may set `slack`, the share of every product that pays for its rounding, to 0.
    """

    slack: ClassVar[float] = 2.0**-44

    def __init__(self, walk: Steps, values: Values, planes_of: PlanesOf = plain_planes) -> None:
        self._walk, self._values, self._planes_of = walk, values, planes_of
        self._planes: dict[str, Planes] = {}
        self._charges: dict[str, Tensor | None] = {}
        self._bends: dict[str, _Bend | None] = {}
        self.forms: dict[str, Tensor] = {}

    def lower(self, forms: Mapping[str, Tensor]) -> Tensor:
        """Return lower bounds (R, B) of Σ a·value for coefficients a (R, B, *shape) at some nodes.

        −∞ or NaN, which claim nothing, where a plane or a box on the way is not finite.
        """
        pending = dict(forms)
        first = next(iter(forms.values()))
        total = first.new_zeros(first.shape[:2])
        for name in reversed(list(self._walk.steps)):
            if name in pending:
                total = total + self._through(self._walk.steps[name], pending.pop(name), pending)
        for name in self._walk.inputs:
            self.forms[name] = pending[name] if name in pending else self._nothing(name, first)
            total = total + self._concretized(name, self.forms[name])
        return torch.where(total == torch.inf, torch.full_like(total, torch.nan), total)

    def is_finite(self, factor: Tensor) -> bool:
        """Return whether a factor is known to be finite, so that no product needs a second look."""
        return bool(factor.detach().sum().isfinite())

    def _nothing(self, name: str, like: Tensor) -> Tensor:
        box = self._values.box(name)
        return like.new_zeros(*like.shape[:2], *box.lower.shape[1:])

    def _through(self, step: Step, form: Tensor, pending: dict[str, Tensor]) -> Tensor:
        """Pull a form back through one node into `pending`; return what it contributes by itself, (R, B)."""
        name = step.node.name
        known = self._values.known[name]
        if not isinstance(known, Interval):
            return _summed(form * known)
        operands = tuple(self._values.known[operand] for operand in step.operands)
        if not step.operator.is_affine and not _is_linear_here(step, operands):
            return self._planar(step, operands, form, pending)
        constant, charge = self._affine(step, operands, form, pending), self._charge(name)
        return constant if charge is None else constant - _weighed(form.abs(), charge, self.is_finite)

    def _charge(self, name: str) -> Tensor | None:
        """Return what rounding at a node takes from a form for each unit of |a|, None for nothing."""
        if name not in self._charges:
            self._charges[name] = _charge_of(self._values.box(name), self._values.errors[name], self.slack)
        return self._charges[name]

    def _affine(self, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Tensor]) -> Tensor:
        """Pull back by the vjp of the nominal rule at zero; what the rule gives there is the constant part.

        An affine function has one vjp everywhere, so all forms may go back together from a single point. Preparing
        that takes time of its own: it pays where evaluating the rule at as many points as there are forms takes more.
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
            _add(pending, name, slope.reshape(rows, batch, *point.shape[1:]))
        if _is_trained(step, operands):
            return _summed(form * _at_zero(step, operands))
        size = prod(form.shape[2:])
        values, coefficients = result.detach().reshape(count, size), flat.reshape(len(flat), size)
        constant = coefficients @ values[0] if single else (coefficients * values).sum(1)
        return constant.reshape(rows, batch)

    def _planar(self, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Tensor]) -> Tensor:
        """Pull back through the planes, lower ones where the coefficient is positive."""
        name = step.node.name
        if name not in self._planes:
            self._planes[name] = self._planes_of(step, operands)
        planes = self._planes[name]
        self.forms[name] = form
        bend = self._bend(name, planes, operands, form.dim())
        if bend is not None:
            return self._bent(bend, step, operands, form, pending)
        return self._parted(planes, step, operands, form, pending)

    def _bend(self, name: str, planes: Planes, operands: tuple[Operand, ...], rank: int) -> _Bend | None:
        """Return both planes in one where all rows share them and they are finite, None elsewhere."""
        if name not in self._bends:
            factors = [factor for plane in (planes.lower, planes.upper) for factor in (plane.offset, *plane.slopes)]
            is_shared = not planes.lower.views and all(factor.dim() < rank for factor in factors)
            bend = self._bend_of(name, planes, operands) if is_shared else None
            is_finite = bend is not None and all(self.is_finite(part) for pair in bend for part in pair)
            self._bends[name] = bend if is_finite else None
        return self._bends[name]

    def _bend_of(self, name: str, planes: Planes, operands: tuple[Operand, ...]) -> _Bend:
        """Return the mixtures of slopes and, last, of offsets, which pay for all that rounding takes at this node."""
        slopes = map(_Mixture.of, planes.lower.slopes, planes.upper.slopes)
        offset, charge = _Mixture.of(planes.lower.offset, planes.upper.offset), self._charge(name)
        half = offset.half if charge is None else offset.half - charge
        if self.slack:
            half = half - self.slack * (_plane_size(planes.lower, operands) + _plane_size(planes.upper, operands))
        return (*slopes, _Mixture(offset.mean, half))

    def _bent(
        self, bend: _Bend, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Tensor]
    ) -> Tensor:
        """Pull back through both planes at once."""
        modulus, (*slopes, offset) = form.abs(), bend
        constant = _dotted(form, offset.mean) + _dotted(modulus, offset.half)
        for operand, x, slope in zip(step.operands, operands, slopes, strict=True):
            weighted = torch.addcmul(form * slope.mean, modulus, slope.half)
            if isinstance(x, Interval):
                _add(pending, operand, _reduced(weighted, x.lower.shape, True))
            else:
                constant = constant + _summed(_reduced(weighted, x.shape, False) * x)
        return constant

    def _parted(
        self, planes: Planes, step: Step, operands: tuple[Operand, ...], form: Tensor, pending: dict[str, Tensor]
    ) -> Tensor:
        """Pull what is above zero back through the lower plane, and what is below through the upper one."""
        above, below = form.clamp(min=0.0), form.clamp(max=0.0)
        constant = _weighed(above, planes.lower.offset, self.is_finite)
        constant = constant + _weighed(below, planes.upper.offset, self.is_finite)
        for slot, (operand, x) in enumerate(zip(step.operands, operands, strict=True)):
            slope = _pulled(above, below, planes, slot, x, self.is_finite)
            if isinstance(x, Interval):
                _add(pending, operand, slope)
            else:
                constant = constant + _summed(slope * x)
        charge = self._charge(step.node.name)
        if charge is not None:
            constant = constant - _weighed(form.abs(), charge, self.is_finite)
        return constant - self._planes_loss(above, below, planes, operands) if self.slack else constant

    def _planes_loss(self, above: Tensor, below: Tensor, planes: Planes, operands: tuple[Operand, ...]) -> Tensor:
        """Return what the rounding of the products with both planes can take from a form, (R, B)."""
        lower, upper = (_plane_size(plane, operands) for plane in (planes.lower, planes.upper))
        return self.slack * (_weighed(above, lower, self.is_finite) - _weighed(below, upper, self.is_finite))

    def _concretized(self, name: str, form: Tensor) -> Tensor:
        """Return the least value of a form over the box of an input."""
        box = self._values.box(name)
        center, radius = 0.5 * box.lower + 0.5 * box.upper, 0.5 * box.upper - 0.5 * box.lower
        least = _summed(form * center) - _summed(form.abs() * radius)
        return least - self.slack * _summed(form.abs() * (center.abs() + radius)) if self.slack else least


def _is_linear_here(step: Step, operands: tuple[Operand, ...]) -> bool:
    """Return whether the operator is linear in each operand and only one of them is not exact."""
    boxes = sum(isinstance(x, Interval) for x in operands)
    return isinstance(step.operator.rules, BilinearRules) and boxes == 1


def _is_trained(step: Step, operands: tuple[Operand, ...]) -> bool:
    """Return whether the step's value at zero has a gradient that somebody wants."""
    tensors = (*step.parameters.values(), *(x for x in operands if isinstance(x, Tensor)))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _at_zero(step: Step, operands: tuple[Operand, ...]) -> Tensor:
    """Return the value (1, …) of an affine operator where what is not exact is zero."""
    zeros = [x.lower.new_zeros(1, *x.lower.shape[1:]) if isinstance(x, Interval) else x for x in operands]
    return step.operator.rules.nominal(step.call, *zeros, **step.parameters)


def _charge_of(box: Interval, error: Tensor | None, slack: float) -> Tensor | None:
    """Return E and the slack of binary64, None where there is neither."""
    if error is None and not slack:
        return None
    size = torch.maximum(box.lower.abs(), box.upper.abs()) * slack
    return size if error is None else size + error * _WIDENED


def _times(form: Tensor, factor: Tensor, finite: Finite) -> Tensor:
    """Return the product, 0 where the coefficient is 0 although the factor is not finite."""
    if finite(factor):
        return form * factor
    return torch.where(form == 0, torch.zeros_like(form), form * factor)


def _pulled(above: Tensor, below: Tensor, planes: Planes, slot: int, x: Operand, finite: Finite) -> Tensor:
    """Return the coefficients (R, B, *shape) of one operand."""
    shape = x.lower.shape if isinstance(x, Interval) else x.shape
    if not planes.lower.views:
        weighted = _times(above, planes.lower.slopes[slot], finite) + _times(below, planes.upper.slopes[slot], finite)
        return _reduced(weighted, shape, isinstance(x, Interval))
    sides = ((above, planes.lower), (below, planes.upper))
    parts = [_through_view(side, plane, slot, x, finite) for side, plane in sides]
    return parts[0] + parts[1]


def _reduced(weighted: Tensor, shape: torch.Size, batched: bool) -> Tensor:
    """Sum over what the operand was broadcast along. A constant may have a dimension of 1 in place of the batch."""
    rows, batch = weighted.shape[:2]
    inner = shape[1:] if batched or len(shape) == weighted.dim() - 1 else shape
    wanted = (rows, batch, *[1] * (weighted.dim() - 2 - len(inner)), *inner)
    return weighted.sum_to_size(wanted).reshape(rows, batch, *inner)


def _through_view(side: Tensor, plane: Plane, slot: int, x: Operand, finite: Finite) -> Tensor:
    """Pull coefficients of a plane with views back through the view, which is linear."""
    assert isinstance(x, Interval)
    rows, batch = side.shape[:2]
    point = x.lower.new_zeros(rows * batch, *x.lower.shape[1:]).requires_grad_()
    through = torch.is_grad_enabled()
    with torch.enable_grad():
        viewed = plane.views[slot](point)
        slope = plane.slopes[slot]
        cotangent = _viewed(_times(side.unsqueeze(-1), slope, finite), viewed.shape[1:])
        (result,) = torch.autograd.grad(viewed, point, cotangent.flatten(0, 1), create_graph=through)
    pulled: Tensor = result.reshape(rows, batch, *result.shape[1:])
    return pulled


def _viewed(weighted: Tensor, shape: torch.Size) -> Tensor:
    """Return coefficients in the shape of a view: summed over what it was broadcast along, spread over the rest."""
    rows, batch = weighted.shape[:2]
    along = [axis + 2 for axis, size in enumerate(shape) if size == 1 and weighted.shape[axis + 2] > 1]
    summed = weighted.sum(along, keepdim=True) if along else weighted
    return summed.expand(rows, batch, *shape)


def _plane_size(plane: Plane, operands: tuple[Operand, ...]) -> Tensor:
    """Return the greatest sum of moduli that make a plane: of its offset and of slope · operand."""
    total = plane.offset.abs()
    for slot, x in enumerate(operands):
        size = torch.maximum(x.lower.abs(), x.upper.abs()) if isinstance(x, Interval) else x.abs()
        slope = plane.slopes[slot].abs()
        total = total + ((slope * plane.views[slot](size)).sum(-1) if plane.views else slope * size)
    return total


def _weighed(form: Tensor, factor: Tensor, finite: Finite) -> Tensor:
    """Return the sum of `_times` over all but rows and batch, (R, B); a factor that all rows share is not spread."""
    if form.dim() > 2 and factor.dim() == form.dim() - 1 and finite(factor):
        return _dotted(form, factor)
    return _summed(_times(form, factor, finite))


def _dotted(form: Tensor, factor: Tensor) -> Tensor:
    """Return the sum of products with a finite factor that all rows share over all but rows and batch, (R, B)."""
    if form.dim() == 2:
        return form * factor
    return torch.einsum("rbn,bn->rb", form.flatten(2), factor.expand(form.shape[1:]).flatten(1))


def _summed(form: Tensor) -> Tensor:
    """Return the sum over all but rows and batch, (R, B)."""
    return form.flatten(2).sum(2) if form.dim() > 2 else form


def _add(pending: dict[str, Tensor], name: str, slope: Tensor) -> None:
    pending[name] = pending[name] + slope if name in pending else slope
