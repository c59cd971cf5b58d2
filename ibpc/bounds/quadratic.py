"""Quadratic forms of a few inputs around every value, which recover what linear bounds lose in products of boxes.

Over a box x = c + r δ, δ ∈ [−1, 1]ⁿ, every value is a quadratic form of δ plus or minus a radius. Affine operators map
the coefficients by their interval rule; forms are multiplied as polynomials, with terms of degree 3 and more going into
the radius; any other operator is replaced by the mean of its two planes, with the distance of the planes from it going
into the radius. So xᵀ M x is exact, where planes of its products lose Σ |Mᵢⱼ| rᵢ rⱼ (Makino and Berz 2003: Taylor
models, here of order 2). Each box is the intersection of the bounds by the form and by the interval rule.

Arithmetic as in `ibpc.bounds.pushed_forms`: binary64, E for binary32, and for binary64's own rounding `SLACK` times all
moduli.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import SLACK, WIDENED, Step, Walk, advance, flat, is_linear_here, start
from ibpc.interval import Interval
from ibpc.ops.rules import BilinearRules, Operand
from ibpc.rounding import Arithmetic

# How far the true eigenvalues may lie below the computed ones, relative to the largest.
_EIGEN: Final = 2.0**-30
_DESCENT: Final = 12


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Rows that are at least constant + slope · δ + δᵀ square δ: (R, B), (R, B, n), (R, B, n, n).

    The constant is that of the form less `radius` (R, B), the greatest error of the form.
    """

    constant: Tensor
    slope: Tensor
    square: Tensor
    radius: Tensor

    def weighted(self, weights: Tensor) -> Quadratics:
        """Return sums of the rows, weights ≥ 0 of shape (S, R, B)."""
        slack = SLACK * torch.einsum("srb,rb->sb", weights, self.size())
        return Quadratics(
            torch.einsum("srb,rb->sb", weights, self.constant) - slack,
            torch.einsum("srb,rbn->sbn", weights, self.slope),
            torch.einsum("srb,rbnm->sbnm", weights, self.square),
            torch.einsum("srb,rb->sb", weights, self.radius),
        )

    def size(self) -> Tensor:
        """Return the sum of the moduli of all coefficients, (R, B)."""
        return self.constant.abs() + self.slope.abs().sum(2) + self.square.abs().flatten(2).sum(2)

    def least(self) -> tuple[Tensor, Tensor]:
        """Return a number (R, B) and a slope (R, B, n) with row ≥ number + slope · δ + Σ |slope| over the whole box.

        With α at least minus the least eigenvalue, δᵀ Q δ ≥ δᵀ (Q + α) δ − n α, which is convex, so it lies above its
        tangent at any point; the point is found by projected descent.
        """
        count = self.slope.shape[-1]
        finite = self.size().isfinite()
        square = torch.where(finite[..., None, None], self.square, torch.zeros_like(self.square))
        slope = torch.where(finite[..., None], self.slope, torch.zeros_like(self.slope))
        eigen = torch.linalg.eigvalsh(square)
        shift = (_EIGEN * eigen.abs().amax(-1) - eigen[..., 0]).clamp(min=0.0)
        convex = square + torch.diag_embed(shift[..., None].expand(*shift.shape, count))
        rate = 1.0 / (2.0 * (eigen[..., -1] + shift)).clamp(min=1e-200)[..., None]
        point = torch.zeros_like(slope)
        for _ in range(_DESCENT):
            point = (point - rate * (slope + 2.0 * _applied(convex, point))).clamp(-1.0, 1.0)
        tangent = slope + 2.0 * _applied(convex, point)
        at_zero = self.constant - count * shift - (_applied(convex, point) * point).sum(-1)
        slack = SLACK * (self.size() + 2.0 * count * shift)
        return torch.where(finite, at_zero - tangent.abs().sum(-1) - slack, -torch.inf), tangent


def quadratics(
    walk: Walk, boxes: tuple[Interval, ...], axes: Sequence[int], arithmetic: Arithmetic, rows: Tensor
) -> Quadratics:
    """Return rows (R, K) of the output as forms of the flat inputs `axes`; other inputs enter by their boxes only.

    Differentiable with respect to the boxes where gradients are on.
    """
    pushed = _Pushed(walk, boxes, axes, arithmetic)
    (output,) = walk.graph.outputs
    form = pushed.forms[output]
    weighed, radius = form.coefficients @ rows.T, (form.radius + SLACK * form.size) @ rows.abs().T
    count = len(axes)
    first, second = pushed.pairs
    half = torch.where(pushed.is_square, 1.0, 0.5).to(weighed)
    mixed = weighed[count + 1 :].permute(2, 1, 0) * half
    square = mixed.new_zeros(*mixed.shape[:2], count, count)
    square[..., first, second] = mixed
    square[..., second, first] = mixed
    return Quadratics(weighed[0].T - radius.T, weighed[1 : count + 1].permute(2, 1, 0), square, radius.T)


def monomials(count: int) -> int:
    """Return how many coefficients a form of `count` inputs has."""
    return 1 + count + count * (count + 1) // 2


@dataclass(frozen=True, eq=False)
class _Form:
    """A value: coefficients (1 + n + n (n + 1) / 2, B, *shape) of 1, δᵢ and δᵢ δⱼ, i ≤ j, plus or minus a radius."""

    coefficients: Tensor
    radius: Tensor

    @cached_property
    def size(self) -> Tensor:
        """The greatest modulus that the form allows."""
        return self.coefficients.abs().sum(0) + self.radius


class _Pushed:
    """The forms of all values, pushed from node to node."""

    def __init__(self, walk: Walk, boxes: tuple[Interval, ...], axes: Sequence[int], arithmetic: Arithmetic) -> None:
        self._count = len(axes)
        self.pairs = torch.triu_indices(self._count, self._count, device=boxes[0].lower.device).unbind(0)
        self.is_square = self.pairs[0] == self.pairs[1]
        self._values = start(walk, boxes)
        self.forms = self._of_inputs(walk, axes)
        for name, step in walk.steps.items():
            advance(self._values, step, arithmetic)
            if isinstance(self._values.known[name], Interval):
                self.forms[name] = self._paid(self._through(step), name)
                self._values.tighten(name, *self._range(self.forms[name]))

    def _of_inputs(self, walk: Walk, axes: Sequence[int]) -> dict[str, _Form]:
        first, forms = 0, {}
        for name in walk.inputs:
            box = self._values.box(name)
            center, radius = 0.5 * box.lower + 0.5 * box.upper, 0.5 * box.upper - 0.5 * box.lower
            radii = flat(radius)
            slopes, rest = [], torch.ones_like(radii)
            for axis in axes:
                unit = torch.zeros_like(radii)
                if 0 <= axis - first < radii.shape[1]:
                    unit[:, axis - first] = 1.0
                    rest[:, axis - first] = 0.0
                slopes.append((unit * radii).reshape(radius.shape))
            nothing = torch.zeros_like(center)
            parts = [center, *slopes, *[nothing] * len(self.pairs[0])]
            slack = SLACK * (center.abs() + radius)
            forms[name] = _Form(torch.stack(parts), radius * rest.reshape(radius.shape) + slack)
            first += radii.shape[1]
        return forms

    def _through(self, step: Step) -> _Form:
        operands = tuple(self._values.known[operand] for operand in step.operands)
        known = [self.forms.get(operand) for operand in step.operands]
        if step.operator.is_affine or is_linear_here(step, operands):
            return _affine(step, operands, known)
        if isinstance(step.operator.rules, BilinearRules):
            left, right = known
            assert left is not None
            assert right is not None
            return self._product(step, left, right)
        return _planar(step, operands, known)

    def _product(self, step: Step, left: _Form, right: _Form) -> _Form:
        """Multiply (p ± ρ)(q ± σ) = p q ± (|p| σ + ρ |q| + ρ σ); terms of p q of degree 3 and more are bounded."""

        def times(x: Tensor, y: Tensor) -> Tensor:
            result: Tensor = step.operator.rules.nominal(step.call, x, y, **step.parameters)
            return result

        (one, linear, mixed), (other, slopes, crossed) = self._parts(left), self._parts(right)
        count, pairs = self._count, len(self.is_square)
        grid = _each(times, linear.repeat_interleave(count, 0), slopes.repeat(count, *_ones(slopes)))
        first, second = self.pairs
        there, back = grid[first * count + second], grid[second * count + first]
        back = torch.where(self.is_square.reshape(-1, *_ones(back)), torch.zeros_like(back), back)
        square = there + back + _each(times, mixed, _copies(other, pairs)) + _each(times, _copies(one, pairs), crossed)
        slope = _each(times, linear, _copies(other, count)) + _each(times, _copies(one, count), slopes)
        spread, width = linear.abs().sum(0), slopes.abs().sum(0)
        bend, curve = mixed.abs().sum(0), crossed.abs().sum(0)
        size, length = one.abs() + spread + bend, other.abs() + width + curve
        higher = times(spread, curve) + times(bend, width) + times(bend, curve)
        off = times(left.radius, length) + times(size, right.radius) + times(left.radius, right.radius)
        slack = SLACK * times(left.size, right.size)
        return _Form(torch.cat([times(one, other)[None], slope, square]), higher + off + slack)

    def _parts(self, form: _Form) -> tuple[Tensor, Tensor, Tensor]:
        coefficients = form.coefficients
        return coefficients[0], coefficients[1 : self._count + 1], coefficients[self._count + 1 :]

    def _range(self, form: _Form) -> tuple[Tensor, Tensor]:
        """Return bounds of a form over the box: δᵢ² lies in [0, 1], all other products in [−1, 1]."""
        constant, linear, mixed = self._parts(form)
        alone = self.is_square.reshape(-1, *_ones(mixed))
        below = torch.where(alone, mixed.clamp(max=0.0), -mixed.abs()).sum(0)
        above = torch.where(alone, mixed.clamp(min=0.0), mixed.abs()).sum(0)
        spread = linear.abs().sum(0) + form.radius + SLACK * form.size
        return constant - spread + below, constant + spread + above

    def _paid(self, form: _Form, name: str) -> _Form:
        """Return a form that holds for binary32 too; where it is not finite, the box replaces it."""
        error, box = self._values.errors[name], self._values.box(name)
        radius = form.radius if error is None else form.radius + error * WIDENED
        finite = form.size.isfinite() & radius.isfinite()
        if bool(finite.all()):
            return _Form(form.coefficients, radius)
        known = box.lower.isfinite() & box.upper.isfinite()
        lower, upper = (torch.where(known, end, torch.zeros_like(end)) for end in (box.lower, box.upper))
        spread = 0.5 * upper - 0.5 * lower + SLACK * (lower.abs() + upper.abs())
        constant = torch.where(finite, form.coefficients[:1], 0.5 * lower + 0.5 * upper)
        rest = torch.where(finite, form.coefficients[1:], torch.zeros_like(form.coefficients[1:]))
        given = torch.where(known, spread, torch.full_like(spread, torch.inf))
        return _Form(torch.cat([constant, rest]), torch.where(finite, radius, given))


def _affine(step: Step, operands: Sequence[Operand], known: Sequence[_Form | None]) -> _Form:
    """Push coefficients through the interval rule as if they were samples, and radii and moduli through |W|."""

    def applied(centers: Sequence[Tensor | None], radii: Sequence[Tensor | None]) -> Interval:
        given = [
            x if center is None or radius is None else Interval.around(center, radius)
            for x, center, radius in zip(operands, centers, radii, strict=True)
        ]
        result: Interval = step.operator.rules.interval(step.call, *given, **step.parameters)
        return result

    flat = [None if form is None else form.coefficients.flatten(0, 1) for form in known]
    sizes = [None if form is None else torch.cat([form.radius, form.size]) for form in known]
    count, batch = next(form for form in known if form is not None).coefficients.shape[:2]
    mapped = applied(flat, [None if x is None else torch.zeros_like(x) for x in flat]).center
    spread = applied([None if x is None else torch.zeros_like(x) for x in sizes], sizes)
    offset = spread.center[:batch]
    mapped = mapped.reshape(count, batch, *mapped.shape[1:])
    coefficients = torch.cat([mapped[:1], mapped[1:] - offset])
    return _Form(coefficients, spread.radius[:batch] + SLACK * (spread.radius[batch:] + count * offset.abs()))


def _planar(step: Step, operands: Sequence[Operand], known: Sequence[_Form | None]) -> _Form:
    """Push the forms through the mean slope of both planes; the planes' distance from it goes into the radius."""
    planes = plain_planes(step, tuple(operands))
    lower, upper = planes.lower.offset, planes.upper.offset
    boxed = next(form for form in known if form is not None)
    if planes.lower.views:
        lacking = torch.full_like(lower, torch.nan)
        return _Form(lacking.expand(boxed.coefficients.shape[0], *lower.shape), lacking)
    total: Tensor | None = None
    radius, size = torch.zeros_like(lower), lower.abs() + upper.abs()
    for slot, (x, form) in enumerate(zip(operands, known, strict=True)):
        below, above = planes.lower.slopes[slot], planes.upper.slopes[slot]
        if not isinstance(x, Interval) or form is None:
            assert isinstance(x, Tensor)
            lower, upper, size = lower + below * x, upper + above * x, size + (below.abs() + above.abs()) * x.abs()
            continue
        mean = 0.5 * below + 0.5 * above
        under, over = below - mean, above - mean
        lower = lower + torch.minimum(under * x.lower, under * x.upper)
        upper = upper + torch.maximum(over * x.lower, over * x.upper)
        total = mean * form.coefficients if total is None else total + mean * form.coefficients
        radius = radius + mean.abs() * form.radius
        size = size + (below.abs() + above.abs()) * form.size
    assert total is not None
    coefficients = torch.cat([total[:1] + (0.5 * lower + 0.5 * upper), total[1:]])
    return _Form(coefficients, radius + (0.5 * upper - 0.5 * lower).clamp(min=0.0) + SLACK * size)


def _each(times: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Multiply two stacks (k, B, …) as if they were batches of k · B samples."""
    result = times(left.flatten(0, 1), right.flatten(0, 1))
    return result.reshape(*left.shape[:2], *result.shape[1:])


def _copies(value: Tensor, count: int) -> Tensor:
    return value.expand(count, *value.shape)


def _ones(stack: Tensor) -> list[int]:
    return [1] * (stack.dim() - 1)


def _applied(square: Tensor, point: Tensor) -> Tensor:
    return (square @ point.unsqueeze(-1)).squeeze(-1)
