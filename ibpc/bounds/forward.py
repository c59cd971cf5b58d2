"""Forward linear bounds: two linear forms of the inputs around every value, pushed from node to node.

(Xu et al. 2020, arXiv 2002.12920, section 3.2: the forward mode.) An affine operator maps the pair of forms by its
interval rule, which is linear in the two ends taken together: W⁺L + W⁻U below, coefficient by coefficient. A nonlinear
one takes the form below through the lower plane where its slope is positive, and the form above elsewhere. Every
value's box is the intersection of what the forms give and the interval rule. Arithmetic as in `ibpc.bounds.backward`:
binary64, E for binary32, and for the rounding of binary64 `_SLACK` of all moduli that enter a value, pushed through |W|
with the forms. Where a form is not finite, or the forms of one sample would be too many numbers, the box stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Final, TypeAlias

import torch

from ibpc.bounds.backward import plain_planes
from ibpc.bounds.base import Bounder
from ibpc.bounds.crown import in_parts, intersected, walk_of
from ibpc.bounds.ibp import ibp
from ibpc.bounds.values import Step, Values, Walk, advance, start
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.ops.base import Operand, Plane
from ibpc.rounding import Arithmetic

Tensor: TypeAlias = torch.Tensor

_SLACK: Final = 2.0**-40
_WIDENED: Final = 1.0 + 2.0**-8
MOST_NUMBERS: Final = 2**26


@dataclass(frozen=True)
class Forms:
    """Coefficients (n + 1, B, *shape) below and above: one slice an input element, and last the constants."""

    lower: Tensor
    upper: Tensor


def forward(
    graph: Graph, matrix: Tensor, arithmetic: Arithmetic, device: torch.device, deadline: float = inf
) -> Bounder:
    """Return the bounder; see `Method`. Nothing waits for the deadline."""
    walk = walk_of(graph, device)
    (output,) = walk.graph.outputs
    rows = matrix.to(device, torch.float64)
    quick = ibp(graph, matrix, arithmetic, device)
    inputs = sum(prod(graph.node(name).shape[1:]) for name in graph.inputs)
    largest = max(prod(node.shape[1:]) for node in walk.graph.order())
    at_once = MOST_NUMBERS // ((inputs + 1) * largest)

    @torch.no_grad()
    def bound(*boxes: Interval) -> Interval:
        first = quick(*boxes)
        ends = _Ends(boxes)
        forms = _pushed_through(walk, boxes, ends, arithmetic)
        final = forms[output]
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        pair = Forms(
            final.lower @ positive.T + final.upper @ negative.T, final.upper @ positive.T + final.lower @ negative.T
        )
        slack = _SLACK * (ends.magnitude(final) @ rows.abs().T)
        lower, upper = ends.concretized(pair)
        return intersected(first, lower - slack, upper + slack)

    return in_parts(bound, at_once) if at_once else quick


class _Ends:
    """The inputs' boxes, flat: centers, radii and moduli, (n, B)."""

    def __init__(self, boxes: Sequence[Interval]) -> None:
        lower = torch.cat([box.lower.double().flatten(1) for box in boxes], 1).T
        upper = torch.cat([box.upper.double().flatten(1) for box in boxes], 1).T
        self._center, self._radius = 0.5 * lower + 0.5 * upper, 0.5 * upper - 0.5 * lower
        self._modulus = self._center.abs() + self._radius

    def magnitude(self, forms: Forms) -> Tensor:
        """Return for each value Σ |coefficient| |x| + |constant|, of the larger of the two forms."""
        size = torch.maximum(forms.lower.abs(), forms.upper.abs())
        return self._weighted(size, self._modulus) + size[-1]

    def concretized(self, forms: Forms) -> tuple[Tensor, Tensor]:
        """Return the least value of the form below and the greatest of the one above, slack taken off."""
        middles = [self._weighted(form, self._center) + form[-1] for form in (forms.lower, forms.upper)]
        spreads = [self._weighted(form.abs(), self._radius) for form in (forms.lower, forms.upper)]
        slack = 2.0 * _SLACK * self.magnitude(forms)
        return middles[0] - spreads[0] - slack, middles[1] + spreads[1] + slack

    def _weighted(self, form: Tensor, weight: Tensor) -> Tensor:
        """Return Σ weight · coefficient over the inputs."""
        return torch.einsum("nb...,nb->b...", form[:-1], weight)


def _pushed_through(walk: Walk, boxes: Sequence[Interval], ends: _Ends, arithmetic: Arithmetic) -> dict[str, Forms]:
    values = start(walk, tuple(boxes))
    forms = _of_inputs(walk, values)
    for name, step in walk.steps.items():
        advance(values, step, arithmetic)
        if not isinstance(values.known[name], Interval):
            continue
        operands = [values.known[operand] for operand in step.operands]
        known = [forms.get(operand) for operand in step.operands]
        found = (
            _affine(step, operands, known, ends) if step.operator.is_affine else _planar(step, operands, known, ends)
        )
        forms[name] = _paid(found, values, name)
        values.tighten(name, *ends.concretized(forms[name]))
    return forms


def _of_inputs(walk: Walk, values: Values) -> dict[str, Forms]:
    """Return the forms of the inputs: themselves."""
    shapes = [values.box(name).lower.shape for name in walk.inputs]
    total, first, forms = sum(prod(shape[1:]) for shape in shapes), 0, {}
    for name, shape in zip(walk.inputs, shapes, strict=True):
        size = prod(shape[1:])
        unit = values.box(name).lower.new_zeros(total + 1, size)
        unit[first : first + size] = torch.eye(size, dtype=unit.dtype, device=unit.device)
        form = unit.reshape(total + 1, 1, *shape[1:]).expand(-1, shape[0], *shape[1:])
        forms[name] = Forms(form, form)
        first += size
    return forms


def _affine(step: Step, operands: Sequence[Operand], known: Sequence[Forms | None], ends: _Ends) -> Forms:
    """Push all coefficients through the interval rule as so many samples, and once more what rounding may cost."""
    boxed = [forms for forms in known if forms is not None]
    count, batch = boxed[0].lower.shape[:2]

    def applied(pairs: Sequence[tuple[Tensor, Tensor] | None]) -> Interval:
        given = [x if pair is None else Interval.bounds(*pair) for x, pair in zip(operands, pairs, strict=True)]
        result: Interval = step.operator.rules.interval(step.call, *given, **step.parameters)
        return result

    nothing = applied([None if f is None else (torch.zeros_like(f.lower[0]),) * 2 for f in known])
    sizes = [None if f is None else ends.magnitude(f) for f in known]
    around = applied([None if size is None else (-size, size) for size in sizes])
    pushed = applied([None if f is None else (f.lower.flatten(0, 1), f.upper.flatten(0, 1)) for f in known])
    lower, upper = (end.reshape(count, batch, *end.shape[1:]) for end in (pushed.lower, pushed.upper))
    offset = nothing.center
    slack = _SLACK * torch.maximum(around.lower.abs(), around.upper.abs())
    below, above = lower - offset, upper - offset
    below[-1], above[-1] = lower[-1] - slack, upper[-1] + slack
    return Forms(below, above)


def _planar(step: Step, operands: Sequence[Operand], known: Sequence[Forms | None], ends: _Ends) -> Forms:
    """Push the forms through the operator's planes."""
    planes = plain_planes(step, tuple(operands))
    below = _through(planes.lower, operands, known, ends, 1.0)
    above = _through(planes.upper, operands, known, ends, -1.0)
    return Forms(below, above)


def _through(
    plane: Plane, operands: Sequence[Operand], known: Sequence[Forms | None], ends: _Ends, side: float
) -> Tensor:
    """Return the coefficients of a plane of forms; `side` is 1 for a lower plane and −1 for an upper one."""
    total: Tensor | None = None
    constant, size = plane.offset, plane.offset.abs()
    for slot, (x, forms) in enumerate(zip(operands, known, strict=True)):
        slope = plane.slopes[slot]
        if forms is None:
            assert not isinstance(x, Interval)
            value = slope * plane.views[slot](x) if plane.views else slope * x
            constant = constant + (value.sum(-1) if plane.views else value)
            size = size + (value.abs().sum(-1) if plane.views else value.abs())
            continue
        near, far = (forms.lower, forms.upper) if side > 0 else (forms.upper, forms.lower)
        part = _weighed(plane, slot, slope.clamp(min=0.0), near) + _weighed(plane, slot, slope.clamp(max=0.0), far)
        modulus = ends.magnitude(forms)
        share = slope.abs() * (plane.views[slot](modulus) if plane.views else modulus)
        size = size + (share.sum(-1) if plane.views else share)
        total = part if total is None else total + part
    assert total is not None
    last = total[-1:] + (constant - side * _SLACK * size)
    return torch.cat([total[:-1].expand(-1, *last.shape[1:]), last])


def _weighed(plane: Plane, slot: int, slope: Tensor, form: Tensor) -> Tensor:
    """Return slope · form for every coefficient, summed over a view's last dimension."""
    if not plane.views:
        return torch.stack([slope * part for part in form])
    return torch.stack([(slope * plane.views[slot](part)).sum(-1) for part in form])


def _paid(forms: Forms, values: Values, name: str) -> Forms:
    """Return forms that hold for binary32 too; those that are not finite give way to the box."""
    box, error = values.box(name), values.errors[name]
    below, above = forms.lower.clone(), forms.upper.clone()
    if error is not None:
        below[-1] -= error * _WIDENED
        above[-1] += error * _WIDENED
    return Forms(_or_constant(below, box.lower), _or_constant(above, box.upper))


def _or_constant(form: Tensor, constant: Tensor) -> Tensor:
    """Return the form where it is finite, and a constant elsewhere."""
    finite = form.isfinite().all(0)
    form = torch.where(finite, form, torch.zeros_like(form))
    form[-1] = torch.where(finite, form[-1], constant)
    return form
