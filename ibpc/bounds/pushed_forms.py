"""Pushing linear forms forward: two linear forms of the inputs around every value, from node to node.

(Xu et al. 2020, arXiv 2002.12920, section 3.2: the forward mode.) An affine operator maps the pair of forms by its
interval rule, which is linear in the pair of ends: W⁺L + W⁻U below, coefficient by coefficient. In a nonlinear one the
lower plane takes the form below where its slope is positive and the form above elsewhere; the upper plane vice versa.
Arithmetic as in `ibpc.bounds.backward`: binary64, E for binary32, and for binary64's own rounding `SLACK` times all
moduli that enter a value, pushed through |W| with the forms. A form that is not finite is replaced by the box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import SLACK, WIDENED, Step, Values, Walk, flat
from ibpc.interval import Interval
from ibpc.ops.rules import Operand, Plane

# Most numbers of all forms of one value, 8 bytes each.
MOST_NUMBERS: Final = 2**26


@dataclass(frozen=True, eq=False)
class Forms:
    """Coefficients (2, n + 1, B, *shape) below and above: one slice per varying input element, then the constants.

    `ends` are those of the varying elements.
    """

    coefficients: Tensor
    ends: _Ends

    @property
    def lower(self) -> Tensor:
        """The forms below, (n + 1, B, *shape)."""
        return self.coefficients[0]

    @property
    def upper(self) -> Tensor:
        """The forms above, (n + 1, B, *shape)."""
        return self.coefficients[1]

    @property
    def magnitude(self) -> Tensor:
        """Σ |coefficient| |x| + |constant| of the larger of the two forms of each value, (B, *shape)."""
        return self._sizes[0]

    def concretized(self) -> tuple[Tensor, Tensor]:
        """Return the least value of the form below and the greatest of the one above, widened by the slack."""
        magnitude, spreads = self._sizes
        middles = _weighted(self.coefficients, self.ends.center) + self.coefficients[:, -1]
        slack = 2.0 * SLACK * magnitude
        return middles[0] - spreads[0] - slack, middles[1] + spreads[1] + slack

    @cached_property
    def _sizes(self) -> tuple[Tensor, Tensor]:
        """The magnitudes, and Σ |coefficient| radius of both forms, (2, B, *shape)."""
        moduli = self.coefficients.abs()
        larger = moduli.amax(0, keepdim=True)
        return (_weighted(larger, self.ends.modulus) + larger[:, -1])[0], _weighted(moduli, self.ends.radius)


class Forward:
    """Forms of the values of a network over boxes, as far as they have been pushed.

    They are dropped once all nodes that read them have been reached.
    """

    def __init__(self, walk: Walk, values: Values) -> None:
        """Begin at the inputs, whose boxes `values` must hold."""
        self._walk, self._values = walk, values
        boxes = [values.box(name) for name in walk.inputs]
        varying = [(box.lower < box.upper).any(0).flatten() for box in boxes]
        self._ends = _Ends(boxes, varying)
        self._forms = dict(zip(walk.inputs, _of_inputs(boxes, varying, self._ends), strict=True))
        self._readers = Counter(operand for step in walk.steps.values() for operand in step.operands)
        self._readers.update(walk.graph.outputs)

    def push(self, step: Step) -> None:
        """Push the forms through the next step, whose box is in the values, and tighten that box by them."""
        name, operands = step.node.name, [self._values.known[operand] for operand in step.operands]
        if isinstance(self._values.known[name], Interval):
            known = [self._forms.get(operand) for operand in step.operands]
            through = _affine if step.operator.is_affine else _planar
            forms = _paid(through(step, operands, known), self._values, name)
            self._forms[name] = forms
            self._values.tighten(name, *forms.concretized())
        self._forget(step)

    def bounds(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds (B, R) of `rows` (R, K) · a value (B, K)."""
        forms = self._forms[name]
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        pair = Forms(forms.coefficients @ positive.T + forms.coefficients.flip(0) @ negative.T, self._ends)
        slack = SLACK * (forms.magnitude @ rows.abs().T)
        lower, upper = pair.concretized()
        return lower - slack, upper + slack

    def _forget(self, step: Step) -> None:
        for operand in step.operands:
            self._readers[operand] -= 1
            if not self._readers[operand]:
                self._forms.pop(operand, None)


def varying(boxes: Sequence[Interval]) -> int:
    """Return how many elements of all inputs vary in some sample: forms have a number for each."""
    return sum(int((box.lower < box.upper).any(0).sum()) for box in boxes)


def numbers(walk: Walk, varying: int) -> int:
    """Return how many numbers one form of the largest value takes per sample."""
    return (varying + 1) * walk.largest


class _Ends:
    """The varying elements of the inputs' boxes, flat: centers, radii and moduli, (n, B)."""

    def __init__(self, boxes: Sequence[Interval], varying: Sequence[Tensor]) -> None:
        chosen = list(zip(boxes, varying, strict=True))
        lower = torch.cat([flat(box.lower)[:, elements] for box, elements in chosen], 1).T
        upper = torch.cat([flat(box.upper)[:, elements] for box, elements in chosen], 1).T
        self.center, self.radius = 0.5 * lower + 0.5 * upper, 0.5 * upper - 0.5 * lower
        self.modulus = self.center.abs() + self.radius


def _weighted(forms: Tensor, weight: Tensor) -> Tensor:
    """Return Σ weight · coefficient over the inputs for forms (K, n + 1, B, *shape), (K, B, *shape)."""
    count, batch = weight.shape
    kinds, shape = len(forms), forms.shape[3:]
    terms = forms[:, :-1].reshape(kinds, count, batch, prod(shape))
    if batch == 1:
        return (weight[:, 0] @ terms[:, :, 0]).reshape(kinds, 1, *shape)
    by_sample = terms.permute(2, 1, 0, 3).reshape(batch, count, kinds * prod(shape))
    found = torch.bmm(weight.T.unsqueeze(1), by_sample)
    return found.reshape(batch, kinds, *shape).transpose(0, 1)


def _of_inputs(boxes: Sequence[Interval], varying: Sequence[Tensor], ends: _Ends) -> list[Forms]:
    """Return the forms of the inputs: a varying element is its own form, the others are constants."""
    total, first, found = sum(int(elements.sum()) for elements in varying), 0, []
    for box, elements in zip(boxes, varying, strict=True):
        batch, count = len(box.lower), int(elements.sum())
        form = box.lower.new_zeros(total + 1, batch, elements.numel())
        form[-1] = torch.where(elements, 0.0, flat(box.lower))
        form[first : first + count, :, elements] = torch.eye(count, dtype=form.dtype, device=form.device)[:, None]
        form = form.reshape(total + 1, *box.lower.shape)
        found.append(Forms(form.expand(2, *form.shape), ends))
        first += count
    return found


def _affine(step: Step, operands: Sequence[Operand], known: Sequence[Forms | None]) -> Forms:
    """Push the forms through the interval rule of an affine operator.

    Applied to 0 the rule gives the constant b that the operator adds, applied to the magnitudes the cost of rounding.
    The new coefficients are the rule's results less b: each may be off by the rounding of b, times its input's modulus.
    """
    pushed, ends = _pushed(step, operands, known), next(forms.ends for forms in known if forms is not None)
    offset = pushed[:, -2].mean(0)
    reach = ends.modulus.sum(0).reshape(-1, *[1] * (offset.dim() - 1))
    slack = SLACK * (pushed[:, -1].abs().amax(0) + reach * offset.abs())
    found = pushed[:, :-2] - offset
    found[0, -1], found[1, -1] = pushed[0, -3] - slack, pushed[1, -3] + slack
    return Forms(found, ends)


def _pushed(step: Step, operands: Sequence[Operand], known: Sequence[Forms | None]) -> Tensor:
    """Return the interval rule applied to all `_samples` at once, (2, n + 3, B, *shape)."""
    samples = [None if forms is None else Interval.bounds(*_samples(forms)) for forms in known]
    given = [x if sample is None else sample for x, sample in zip(operands, samples, strict=True)]
    box: Interval = step.operator.rules.interval(step.call, *given, **step.parameters)
    sizes = next(forms.coefficients.shape for forms in known if forms is not None)
    return torch.stack([box.lower, box.upper]).reshape(2, sizes[1] + 2, sizes[2], *box.lower.shape[1:])


def _samples(forms: Forms) -> tuple[Tensor, Tensor]:
    """Return all coefficients, then 0, then the magnitudes, as boxes ((n + 3) · B, *shape)."""
    size = forms.magnitude.expand(2, 1, *forms.magnitude.shape)
    around = torch.stack([-size[0], size[1]])
    lower, upper = torch.cat([forms.coefficients, torch.zeros_like(size), around], 1).flatten(1, 2)
    return lower, upper


def _planar(step: Step, operands: Sequence[Operand], known: Sequence[Forms | None]) -> Forms:
    """Push the forms through the operator's planes."""
    planes = plain_planes(step, tuple(operands))
    sides = _through(planes.lower, operands, known, 1.0), _through(planes.upper, operands, known, -1.0)
    return Forms(torch.stack(sides), next(forms.ends for forms in known if forms is not None))


def _through(plane: Plane, operands: Sequence[Operand], known: Sequence[Forms | None], side: float) -> Tensor:
    """Return the coefficients of a plane applied to forms; `side` is 1 for a lower plane, −1 for an upper one."""
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
        modulus = plane.views[slot](forms.magnitude) if plane.views else forms.magnitude
        share = slope.abs() * modulus
        size = size + (share.sum(-1) if plane.views else share)
        total = part if total is None else total + part
    assert total is not None
    last = total[-1:] + (constant - side * SLACK * size)
    return torch.cat([total[:-1].expand(-1, *last.shape[1:]), last])


def _weighed(plane: Plane, slot: int, slope: Tensor, form: Tensor) -> Tensor:
    """Return slope · form for every coefficient, summed over a view's last dimension."""
    if not plane.views:
        return slope * form.reshape(len(form), *[1] * (slope.dim() + 1 - form.dim()), *form.shape[1:])
    return torch.stack([(slope * plane.views[slot](part)).sum(-1) for part in form])


def _paid(forms: Forms, values: Values, name: str) -> Forms:
    """Return forms that hold for binary32 too, changed in place; the box replaces those that are not finite."""
    box, error, found = values.box(name), values.errors[name], forms.coefficients
    if error is not None:
        loss = error * WIDENED
        found[0, -1] -= loss
        found[1, -1] += loss
    if not bool(found.sum().isfinite()):
        finite = found.isfinite().all(1, keepdim=True)
        found = torch.where(finite, found, torch.zeros_like(found))
        found[:, -1] = torch.where(finite[:, 0], found[:, -1], torch.stack([box.lower, box.upper]))
    return Forms(found, forms.ends)
