"""Products of coefficients (R, B, *shape) of linear forms with planes: 0 where the coefficient is 0, even times ∞."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops.rules import Operand, Plane, Planes

Finite: TypeAlias = Callable[[Tensor], bool]


def times(form: Tensor, factor: Tensor, finite: Finite) -> Tensor:
    """Return the product, 0 where the coefficient is 0 even if the factor is not finite."""
    if finite(factor):
        return form * factor
    return torch.where(form == 0, torch.zeros_like(form), form * factor)


def pulled(above: Tensor, below: Tensor, planes: Planes, slot: int, x: Operand, finite: Finite) -> Tensor:
    """Return the coefficients (R, B, *shape) of one operand."""
    shape = x.lower.shape if isinstance(x, Interval) else x.shape
    if not planes.lower.views:
        weighted = times(above, planes.lower.slopes[slot], finite) + times(below, planes.upper.slopes[slot], finite)
        return reduced(weighted, shape, isinstance(x, Interval))
    sides = ((above, planes.lower), (below, planes.upper))
    parts = [_through_view(side, plane, slot, x, finite) for side, plane in sides]
    return parts[0] + parts[1]


def reduced(weighted: Tensor, shape: torch.Size, batched: bool) -> Tensor:
    """Sum over the axes that the operand was broadcast along. A constant may have size 1 in place of the batch."""
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
        cotangent = _viewed(side, plane.slopes[slot], viewed.shape[1:], finite)
        (result,) = torch.autograd.grad(viewed, point, cotangent.flatten(0, 1), create_graph=through)
    pulled: Tensor = result.reshape(rows, batch, *result.shape[1:])
    return pulled


def _viewed(side: Tensor, slope: Tensor, shape: torch.Size, finite: Finite) -> Tensor:
    """Return coefficients times slopes in the shape of a view: summed over its broadcast axes, then expanded."""
    axes = (*side.shape, slope.shape[-1])
    along = [axis for axis, size in enumerate(shape, start=2) if size == 1 and axes[axis] > 1]
    if along and finite(slope):
        return _contracted(side, slope, along).expand(*axes[:2], *shape)
    weighted = times(side.unsqueeze(-1), slope, finite)
    summed = weighted.sum(along, keepdim=True) if along else weighted
    return summed.expand(*axes[:2], *shape)


def _contracted(side: Tensor, slope: Tensor, along: list[int]) -> Tensor:
    """Return Σ side · slope over the axes `along`, kept with size 1, without storing the products."""
    axes = range(side.dim() + 1)
    shared = axes[side.dim() + 1 - slope.dim() :]
    kept = [axis for axis, size in zip(shared, slope.shape, strict=True) if size > 1 or axis == axes[-1]]
    narrow = slope.reshape([size for axis, size in zip(shared, slope.shape, strict=True) if axis in kept])
    wanted = [axis for axis in axes if axis not in along]
    found = torch.einsum(side, list(axes[:-1]), narrow, kept, wanted)
    for axis in along:
        found = found.unsqueeze(axis)
    return found


def plane_size(plane: Plane, operands: tuple[Operand, ...]) -> Tensor:
    """Return the greatest sum of the moduli of a plane's terms over the box: |offset| + Σ |slope · operand|."""
    total = plane.offset.abs()
    for slot, x in enumerate(operands):
        size = torch.maximum(x.lower.abs(), x.upper.abs()) if isinstance(x, Interval) else x.abs()
        slope = plane.slopes[slot].abs()
        total = total + ((slope * plane.views[slot](size)).sum(-1) if plane.views else slope * size)
    return total


def weighed(form: Tensor, factor: Tensor, finite: Finite) -> Tensor:
    """Return the sum of `times` over all but rows and batch, (R, B), without expanding a factor that all rows share."""
    if form.dim() > 2 and factor.dim() == form.dim() - 1 and finite(factor):
        return dotted(form, factor)
    return summed(times(form, factor, finite))


def dotted(form: Tensor, factor: Tensor) -> Tensor:
    """Return Σ form · factor over all but rows and batch, (R, B), for a finite factor that all rows share."""
    if form.dim() == 2:
        return form * factor
    flat = form.flatten(2)
    if factor.dim() < form.dim() - 1 or len(factor) == 1:
        return flat @ factor.expand(1, *form.shape[2:]).flatten()
    return torch.bmm(flat.transpose(0, 1), factor.expand(form.shape[1:]).flatten(1).unsqueeze(2)).squeeze(2).T


def summed(form: Tensor) -> Tensor:
    """Return the sum over all but rows and batch, (R, B)."""
    return form.flatten(2).sum(2) if form.dim() > 2 else form
