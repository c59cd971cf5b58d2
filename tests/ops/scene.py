"""One row of the table with everything drawn: boxes, their points, values, bounds, and the size of rounding errors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import BATCH, Shape
from ibpc.ops.base import Operator
from ibpc.ops.rules import Call
from ibpc.rounding import Arithmetic
from tests.ops.cases import Box, Case, Uniform, Values

Drawn = Interval | Tensor
Bounds = tuple[Tensor, Tensor]

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


@dataclass(frozen=True)
class Scene:
    """A row with its operands and parameters drawn. Boxes are given by their lower and upper bounds."""

    case: Case
    operator: Operator
    call: Call
    operands: tuple[Drawn, ...]
    parameters: dict[str, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of everything."""
        return torch.float32 if self.call.arithmetic is Arithmetic.FLOAT32 else torch.float64

    @property
    def boxes(self) -> tuple[Interval, ...]:
        """The operands that are boxes."""
        return tuple(x for x in self.operands if isinstance(x, Interval))

    @property
    def centers(self) -> tuple[Tensor, ...]:
        """One point: the centers of the boxes."""
        return tuple(x.center if isinstance(x, Interval) else x for x in self.operands)

    def generator(self, salt: str = "") -> torch.Generator:
        """Return a generator that is always the same for this row."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.case}{salt}".encode()))

    def value(self, point: Sequence[Tensor]) -> Tensor:
        """Return the nominal value at a point."""
        result: Tensor = self.operator.rules.nominal(self.call, *point, **self.parameters)
        return result

    def bounds(self, operands: Sequence[Drawn] | None = None) -> Bounds:
        """Return the bounds of the interval rule over boxes, by default those of the scene."""
        found = self.operator.rules.interval(self.call, *(operands or self.operands), **self.parameters)
        return found.lower, found.upper

    def in_float32(self) -> Scene:
        """Return the same scene in binary32, under `Arithmetic.FLOAT32`."""
        return replace(
            self,
            call=replace(self.call, arithmetic=Arithmetic.FLOAT32),
            operands=tuple(cast(x, torch.float32) for x in self.operands),
            parameters={role: _cast(value, torch.float32) for role, value in self.parameters.items()},
        )

    def with_boxes(self, boxes: Sequence[Interval]) -> Scene:
        """Return the same scene over other boxes."""
        left = iter(boxes)
        return replace(self, operands=tuple(next(left) if isinstance(x, Interval) else x for x in self.operands))

    def repeated(self, times: int) -> Scene:
        """Return the scene with its batch repeated."""
        return self.with_boxes([box.map(lambda end: _repeat(end, times)) for box in self.boxes])

    def shrunk_to_points(self) -> Scene:
        """Return the scene with every box replaced by the zero-width box of one of its binary32 points."""
        points = [torch.where(box.lower.abs() < box.upper.abs(), box.lower, box.upper) for box in self.boxes]
        return self.with_boxes([Interval.bounds(point, point) for point in points])


# ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────
def draw(case: Case, operator: Operator, batch: int = 2) -> Scene:
    """Draw a row in float64; every number is a binary32 number."""
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    operands = tuple(_draw(description, batch, generator) for description in case.operands)
    parameters = {role: _draw_exact(description, generator) for role, description in case.parameters.items()}
    return Scene(case, operator, call_of(case, operator, parameters), operands, parameters)


def call_of(case: Case, operator: Operator, parameters: dict[str, Tensor]) -> Call:
    """Return the call of the row."""
    attributes = operator.complete(case.attributes)
    operands = tuple(_shape(description) for description in case.operands)
    shapes = {role: tuple(value.shape) for role, value in parameters.items()}
    return Call(attributes, operands, shapes, operator.infer_shape(attributes, operands, shapes))


def _shape(description: Box | Uniform | Values) -> Shape:
    if isinstance(description, Box):
        return (BATCH, *description.shape)
    return description.shape if isinstance(description, Uniform) else tuple(torch.tensor(description.values).shape)


def _draw(description: Box | Uniform | Values, batch: int, generator: torch.Generator) -> Drawn:
    if isinstance(description, Box):
        return _draw_box(description, batch, generator)
    return _draw_exact(description, generator)


def _draw_exact(description: Uniform | Values, generator: torch.Generator) -> Tensor:
    if isinstance(description, Values):
        return _cast(torch.tensor(description.values), torch.float64)
    low, high = description.low, description.high
    return (low + (high - low) * torch.rand(description.shape, generator=generator)).double()


def _draw_box(box: Box, batch: int, generator: torch.Generator) -> Interval:
    shape = (batch, *box.shape)
    reach = min(box.radius, (box.high - box.low) / 2)
    kind = torch.rand(shape, generator=generator, dtype=torch.float64)
    radius = torch.rand(shape, generator=generator, dtype=torch.float64) * reach
    radius = radius.where(kind > 0.1, torch.zeros(())).where((kind < 0.1) | (kind > 0.2), torch.tensor(reach))
    room = torch.rand(shape, generator=generator, dtype=torch.float64)
    center = box.low + radius + room * (box.high - box.low - 2 * radius)
    lower, upper = center - radius, center + radius
    for least, pair in _around_zero(box, reach):
        chosen = (kind > least) & (kind < least + 0.05)
        lower, upper = lower.where(~chosen, torch.tensor(pair[0])), upper.where(~chosen, torch.tensor(pair[1]))
    lower, upper = (bound.float().double().clamp(*_binary32(box.low, box.high)) for bound in (lower, upper))
    return Interval.bounds(lower, upper)


def _around_zero(box: Box, reach: float) -> list[tuple[float, tuple[float, float]]]:
    """Return boxes that straddle, touch or sit at zero, each with the start of its range of random numbers."""
    pairs = ((-reach, reach), (0.0, reach), (-reach, 0.0), (0.0, 0.0))
    inside = [pair for pair in pairs if box.low <= pair[0] and pair[1] <= box.high]
    return [(0.2 + 0.05 * index, pair) for index, pair in enumerate(inside)]


def _binary32(low: float, high: float) -> tuple[float, float]:
    """Return the least and the greatest binary32 number of [low, high]."""
    least, most = np.float32(low), np.float32(high)
    least = least if float(least) >= low else np.nextafter(least, np.float32(np.inf))
    most = most if float(most) <= high else np.nextafter(most, np.float32(-np.inf))
    return float(least), float(most)


def cast(value: Drawn, dtype: torch.dtype) -> Drawn:
    """Return an operand in another floating dtype."""
    if isinstance(value, Interval):
        return value.map(lambda end: end.to(dtype))
    return _cast(value, dtype)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _repeat(value: Tensor, times: int) -> Tensor:
    return value.repeat(times, *[1] * (value.dim() - 1))


# ── points of the boxes ─────────────────────────────────────────────────────────────────────────────────────────
def corners(scene: Scene) -> list[tuple[Tensor, ...]]:
    """Return the points where each operand is entirely at its lower or its upper bound."""
    sides = [(x.lower, x.upper) if isinstance(x, Interval) else (x,) for x in scene.operands]
    return list(product(*sides))


def nearest_to_zero(scene: Scene) -> tuple[Tensor, ...]:
    """Return the point of each box that is nearest to zero, where many functions have a kink."""
    return tuple(
        torch.zeros_like(x.lower).clamp(x.lower, x.upper) if isinstance(x, Interval) else x for x in scene.operands
    )


def sampled_points(scene: Scene, count: int) -> tuple[Scene, tuple[Tensor, ...]]:
    """Return a repeated scene and as many points: a third uniform, a third on faces, the rest random corners."""
    generator = scene.generator("points")
    many = scene.repeated(count)
    points = tuple(_sample(x, generator) if isinstance(x, Interval) else x for x in many.operands)
    return many, points


def _sample(box: Interval, generator: torch.Generator) -> Tensor:
    share = torch.rand(box.lower.shape, generator=generator, dtype=torch.float64).to(box.lower.dtype)
    share[1::3] = (share[1::3] * 1.5 - 0.25).clamp(0.0, 1.0)
    share[2::3] = share[2::3].round()
    between = box.lower + share * (box.upper - box.lower)
    between = torch.where(share == 1.0, box.upper, torch.where(share == 0.0, box.lower, between))
    return torch.minimum(torch.maximum(between, box.lower), box.upper)


def diagonal_points(scene: Scene, count: int) -> tuple[Scene, tuple[Tensor, ...]]:
    """Return a repeated scene and as many points, evenly spaced from the lower to the upper corner."""
    many = scene.repeated(count)
    share = torch.linspace(0.0, 1.0, count, dtype=scene.dtype).repeat_interleave(batch_of(scene))
    points = []
    for x in many.operands:
        if isinstance(x, Interval):
            weight = share.reshape([-1, *[1] * (x.lower.dim() - 1)])
            point = x.lower + weight * (x.upper - x.lower)
            points.append(torch.minimum(torch.maximum(point, x.lower), x.upper))
        else:
            points.append(x)
    return many, tuple(points)


def batch_of(scene: Scene) -> int:
    """Return the batch size."""
    return scene.boxes[0].lower.shape[0]


@dataclass(frozen=True)
class Attack:
    """Points that push the `chosen` outputs down and up, one at a time."""

    scene: Scene
    points: tuple[Tensor, ...]
    chosen: Tensor


def attacked_points(scene: Scene, most: int = 32, steps: int = 3) -> Attack:
    """Return the points that sign-gradient ascent finds for up to `most` single outputs, downward then upward.

    The first step goes to a corner of the box, the optimum for affine operators; later steps are halved.
    """
    features = scene.value(scene.centers)[0].numel()
    chosen = torch.randperm(features, generator=scene.generator("attack"))[:most]
    many = scene.repeated(2 * len(chosen))
    column = chosen.repeat(2).repeat_interleave(batch_of(scene))
    direction = torch.tensor([-1.0, 1.0], dtype=scene.dtype).repeat_interleave(len(chosen) * batch_of(scene))
    best = point = many.centers
    reached = torch.full_like(direction, -torch.inf)
    for step in range(steps + 1):
        goal, gradients = _ascend(many, point, column, direction)
        better = goal > reached
        reached = torch.where(better, goal, reached)
        best = tuple(_where(better, new, old) for new, old in zip(point, best, strict=True))
        if step < steps:
            point = _step(many, point, gradients, 2.0 / 2**step)
    return Attack(many, best, chosen)


def _ascend(
    scene: Scene, point: Sequence[Tensor], column: Tensor, direction: Tensor
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    boxed = [isinstance(x, Interval) for x in scene.operands]
    leaves = tuple(x.detach().clone().requires_grad_(is_box) for x, is_box in zip(point, boxed, strict=True))
    outputs = scene.value(leaves).flatten(1).gather(1, column[:, None])[:, 0]
    goal = outputs * direction
    wanted = [leaf for leaf, is_box in zip(leaves, boxed, strict=True) if is_box]
    found: Sequence[Tensor | None] = [None] * len(wanted)
    if goal.requires_grad:
        found = torch.autograd.grad(goal.sum(), wanted, allow_unused=True)
    left = iter(found)
    return goal.detach(), tuple(next(left) if is_box else None for is_box in boxed)


def _step(scene: Scene, point: Sequence[Tensor], gradients: Sequence[Tensor | None], size: float) -> tuple[Tensor, ...]:
    return tuple(
        _moved(x, value, size * x.width * gradient.sign().nan_to_num())
        if isinstance(x, Interval) and gradient is not None
        else value
        for x, value, gradient in zip(scene.operands, point, gradients, strict=True)
    )


def _moved(box: Interval, value: Tensor, step: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value + step, box.lower), box.upper)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if new is old or new.dim() == 0 or new.shape[0] != chosen.shape[0]:
        return new
    return torch.where(chosen.reshape([-1, *[1] * (new.dim() - 1)]), new, old)


# ── the size of rounding errors ─────────────────────────────────────────────────────────────────────────────────
def rounding(scene: Scene, dtype: torch.dtype) -> Tensor:
    """Return what rounding in `dtype` may cost per output: 32 γ(n + 32) · magnitude (see `tests.ops.cases`)."""
    magnitude, terms = _magnitude(scene)
    product_ = (terms + 32) * UNIT[dtype]
    smallest = torch.finfo(dtype).tiny
    return 32 * product_ / (1 - product_) * magnitude + 1024 * smallest * (1 + magnitude)


def _magnitude(scene: Scene) -> tuple[Tensor, int]:
    """Return Σ |∂y/∂x| max|x| with the offset or the bounds, and the greatest number of inputs of one output."""
    if not scene.boxes:
        return scene.value(scene.centers).abs(), 0
    features = scene.value(scene.centers)[0].numel()
    many = scene.repeated(features)
    column = torch.arange(features).repeat_interleave(batch_of(scene))
    _, gradients = _ascend(many, many.centers, column, torch.ones(len(column), dtype=scene.dtype))
    total = torch.zeros(len(column), dtype=scene.dtype)
    terms = 0
    for x, gradient in zip(many.operands, gradients, strict=True):
        if isinstance(x, Interval) and gradient is not None:
            slopes = gradient.abs().nan_to_num(0.0, 0.0, 0.0).flatten(1)
            total = total + (slopes * torch.maximum(x.lower.abs(), x.upper.abs()).flatten(1)).sum(1)
            terms += int((slopes > 0).sum(1).max())
    spread = total.reshape(features, batch_of(scene)).T.reshape(batch_of(scene), *scene.call.output[1:])
    return _with_offset(scene, spread), terms


def _with_offset(scene: Scene, spread: Tensor) -> Tensor:
    if scene.operator.is_affine:
        zeros = tuple(torch.zeros_like(x.lower) if isinstance(x, Interval) else x for x in scene.operands)
        return spread + scene.value(zeros).abs()
    lower, upper = scene.bounds()
    return torch.maximum(spread, torch.maximum(lower.abs(), upper.abs()).nan_to_num(0.0, 0.0, 0.0))
