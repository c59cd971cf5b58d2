"""Standardization, (x − mean) / √(variance + ε) over groups of elements: Layer-, Instance- and GroupNormalization.

**The greatest value over a box** of output i among n elements. The output rises in x_i while the others are fixed, so
x_i = u_i. With z_j the N = n − 1 others, p_j = u_i − z_j, P = Σ p_j / N, A = (Σ p_j² + n ε) / N and V = P / √A,

    output i = √N V / √(1 + N (1 − V²)),   which rises in V,   and for P ≠ 0   1 − V² = min_τ h(τ, p),
    h(τ, p) = (Σ (1 − τ p_j)² + n ε τ²) / N.

*Where P may be positive*, the greatest V² is 1 − min h over τ ≥ 0 and p. This problem is convex in τ and τ p, so its
stationary point is its solution: all z_j are as near to one level λ = u_i − 1/τ as their boxes allow. Between two
neighbouring bounds of the box the set of the z_j that cannot reach λ does not change, and λ follows from the sums over
that set: p_j = 1/τ = Σ p_j² + n ε over Σ p_j. A binary search over the sorted bounds finds the piece. Exact.

*Where P ≤ 0 throughout*, the least V² is wanted, 1 − max_p min_τ h, which a corner of the box attains. Up to
`MOST_ENUMERATED` elements all corners are tried: exact. Otherwise max and min are exchanged: for every τ

    V² ≥ 1 − (Σ max_{p_j} (1 − τ p_j)² + n ε τ²) / N,

which is sound for any τ and convex in τ. The best τ is found by a binary search over the sorted midpoints of the boxes,
because p_j lies at the end of its box farther from 1/τ. Its V² is at most
w² / (4 N² A) below the exact one, with w the greatest width: the two corners on either side of the best τ differ in one
element, and with the same value of 2 τ P − τ² A one of them has |P − τ A| ≤ w / 2N, where V² − (2 τ P − τ² A) is
(P − τ A)² / A.

Least values are the negated greatest values of the mirrored box. Cost: a few sorts and sums along the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ops._norms import prefixes, suffixes
from ibpc.ops._planes import midpoint
from ibpc.ops._scales import Line, Lines, factor_lines, scaled, weighted_lines
from ibpc.ops.combinators import nonlinear
from ibpc.ops.rules import Call, NominalRule, Plane, Planes, Rules
from ibpc.rounding import FLUSHED, UNIT, WIDE_UNIT, Arithmetic, down, gamma, up, vanishing

MOST_ENUMERATED: Final = 8
GREATEST: Final = 2.0**127

EPSILON: Final[Mapping[str, Any]] = {"type": "number", "exclusiveMinimum": 0, "default": 1e-5}


@dataclass(frozen=True)
class Layout:
    """How the elements of a sample are grouped.

    `outer` is the shape of the groups, `size` the number of elements in one. `spread` brings a parameter to a shape
    that broadcasts against (N, *outer, size).
    """

    outer: tuple[int, ...]
    size: int
    spread: Callable[[Tensor], Tensor]

    def grouped(self, x: Tensor) -> Tensor:
        """Return x (N, …) as (N, *outer, size)."""
        return x.reshape([-1, *self.outer, self.size])


def standardizing(nominal: NominalRule, layout: Callable[[Call], Layout]) -> Rules:
    """Return the rules of `nominal`, y = (x − mean) / √(variance + ε) · weight + bias over the groups of a layout."""

    def interval(call: Call, x: Interval, *, weight: Tensor | None = None, bias: Tensor | None = None) -> Interval:
        groups = layout(call)
        box = x.map(groups.grouped)
        scale = None if weight is None else groups.spread(weight)
        shift = None if bias is None else groups.spread(bias)
        bound = _in_binary32 if call.arithmetic is Arithmetic.FLOAT32 else _in_reals
        result = bound(box, groups.size, call["epsilon"], scale, shift)
        return result.map(lambda end: end.reshape([-1, *call.output[1:]]))

    def relaxation(call: Call, x: Interval, *, weight: Tensor | None = None, bias: Tensor | None = None) -> Planes:
        """Planes of d s with d = x_i − mean (affine) and s = 1 / √(variance + ε); see `_planes`."""
        groups = layout(call)
        box = x.map(groups.grouped)
        scale = None if weight is None else groups.spread(weight)
        shift = None if bias is None else groups.spread(bias)
        return _placed(call, groups, _planes(box, groups.size, call["epsilon"], scale, shift))

    return nonlinear(nominal, interval, relaxation)


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _in_reals(x: Interval, size: int, epsilon: float, weight: Tensor | None, bias: Tensor | None) -> Interval:
    """Return the bounds in real arithmetic; NaN for a group with an infinite or NaN bound."""
    box = scaled(_standardized(x, size, epsilon, 0.0), weight, bias)
    unknown = (0.0 * (x.lower + x.upper)).sum(-1, keepdim=True)
    return box.map(lambda end: end + unknown)


def _in_binary32(x: Interval, size: int, epsilon: float, weight: Tensor | None, bias: Tensor | None) -> Interval:
    """Return bounds that hold in binary32 too, computed in binary64 with its own rounding covered.

    The network's standardized value is off as `_errors` says, and its product with the weight and sum with the bias by
    a few u. Where it may overflow, or the variance may be lost to rounding, the bounds are infinite.
    """
    wide = x.map(lambda end: end.double())
    scale = torch.ones_like(wide.lower[..., :1]) if weight is None else weight.double()
    shift = torch.zeros_like(wide.lower[..., :1]) if bias is None else bias.double()
    box = _standardized(wide, size, epsilon, WIDE_UNIT)
    relative, absolute, safe = _errors(wide, size, epsilon, scale)
    lower = box.lower - box.lower.abs() * relative - absolute
    upper = box.upper + box.upper.abs() * relative + absolute
    weighted = scaled(Interval.bounds(lower, upper), scale, shift)
    most = torch.maximum(lower.abs(), upper.abs())
    slack = 16.0 * UNIT * (most * scale.abs() + shift.abs()) + FLUSHED * (2.0 + most + scale.abs())
    unknown = torch.full_like(x.lower, torch.inf)
    return Interval.bounds(
        torch.where(safe, down((weighted.lower - slack).float()), -unknown),
        torch.where(safe, up((weighted.upper + slack).float()), unknown),
    )


def _errors(x: Interval, size: int, epsilon: float, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the relative and the absolute error of a binary32 standardized value, and where the two hold.

    Let m₁ and m₂ be the means of |x| and x². The mean is off by γₙ₊₁ m₁, and x − mean, or x and mean scaled separately,
    by 3u (|x| + m₁) more. The variance is off by at most 3 γₙ₊₂ m₂ if computed as the mean of x² minus the square of
    the mean, and by less as the mean of (x − mean)². With κ this error relative to variance + ε, 1 / √ grows by at most
    1 / √(1 − κ), and by 16 ulps. Assumes a square root and a division within 8 ulps.
    """
    size_of = torch.maximum(x.lower.abs(), x.upper.abs())
    first, second = size_of.mean(-1, keepdim=True), (size_of * size_of).mean(-1, keepdim=True)
    least, _ = _variances(x, size)
    lost = (4.0 * gamma(size + 4) * second + vanishing(size)) / (least + epsilon) + 8.0 * UNIT
    growth = torch.rsqrt(1.0 - lost.clamp(max=0.5))
    relative = growth - 1.0 + growth * (64.0 * UNIT)
    steepest = torch.rsqrt(least + epsilon) * (1.0 + relative)
    absolute = gamma(size + 8) * (size_of + first) * steepest
    absolute = absolute + FLUSHED * (1.0 + steepest + size_of + first)
    magnitude = 8.0 * (1.0 + steepest) * (1.0 + weight.abs()) * (1.0 + size_of + first)
    safe = (lost < 0.5) & (4.0 * size * second < GREATEST) & (magnitude < GREATEST)
    return relative, absolute, safe


def _variances(x: Interval, size: int) -> tuple[Tensor, Tensor]:
    """Return bounds of the variance of the group.

    Let e be the deviation of the box's center from its mean and r the radius. Because Σ e = 0, the Cauchy–Schwarz
    inequality gives √(n v) ≥ ⟨e, x⟩ / ‖e‖ ≥ ‖e‖ − Σ |e| r / ‖e‖. And v is at most the mean of (|e| + r)², because the
    mean square deviation is least about the mean.
    """
    center = midpoint(x.lower, x.upper)
    deviation = (center - center.mean(-1, keepdim=True)).abs()
    radius = 0.5 * x.upper - 0.5 * x.lower
    squares = (deviation * deviation).sum(-1, keepdim=True)
    length = torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt()
    least = torch.relu(squares - (deviation * radius).sum(-1, keepdim=True)) / length
    return least * least * ((1.0 - 2.0**-40) / size), (deviation + radius).square().mean(-1, keepdim=True)


# ── the greatest value over a box ───────────────────────────────────────────────────────────────────────────────
def _standardized(x: Interval, size: int, epsilon: float, unit: float) -> Interval:
    """Return the bounds of (x − mean) / √(variance + ε) along the last dimension, with roundings of `unit` covered."""
    if size == 1:
        zero = torch.zeros_like(x.lower)
        return Interval.bounds(zero, zero)
    center = midpoint(x.lower, x.upper).mean(-1, keepdim=True)
    lower, upper = x.lower - center, x.upper - center
    return Interval.bounds(
        -_greatest(-upper, -lower, size, epsilon, unit), _greatest(lower, upper, size, epsilon, unit)
    )


def _greatest(lower: Tensor, upper: Tensor, size: int, epsilon: float, unit: float) -> Tensor:
    """Return the greatest standardized value of each element over the box; see the module's docstring."""
    others, added = size - 1, size * epsilon
    reach = others * upper - (lower.sum(-1, keepdim=True) - lower)
    above = _positive(lower, upper, size, added, unit)
    below = (_at_corners if size <= MOST_ENUMERATED else _negative)(lower, upper, size, added, unit)
    ratio = torch.where(reach > 0, above, below).clamp(-1.0, 1.0)
    return sqrt(others) * ratio * torch.rsqrt(1.0 + others * (1.0 - ratio * ratio))


def _rounding(lower: Tensor, upper: Tensor, square: Tensor, size: int, unit: float) -> Tensor:
    """Return how much roundings of `unit` may change V = P / √A, where both are sums of n terms of the box's size."""
    reach = torch.maximum(-lower, upper).amax(-1, keepdim=True) * torch.rsqrt(square)
    return 64.0 * size * unit * (reach + reach * reach)


def _positive(lower: Tensor, upper: Tensor, size: int, added: float, unit: float) -> Tensor:
    """Return the greatest V of each element, where it may be positive; `added` is n ε.

    `sums[k]` are the sums over the z_j clamped to a level between the sorted bounds k − 1 and k: l_j for bounds from k
    on, u_j for those before. The element's own lower bound is subtracted. The level lies below the first bound k with
    Σ p² + n ε ≥ Σ p (x − λ), where h no longer falls.

    Soundness in rounded arithmetic does not depend on the search. Let τ = P / A at the p found and t the distance of
    its level. For all p′, √A(p′) ≥ (Σ p p′ + n ε) / N √A, so V(p′) is at most V + |1 − τ t| Σ width / N √ε.
    """
    others, x = size - 1, upper
    bounds, order = torch.sort(torch.cat([lower, upper], -1), -1)
    rank = torch.argsort(order, -1)
    rank_lower, rank_upper = rank.narrow(-1, 0, size), rank.narrow(-1, size, size)
    from_below = (order >= size).type_as(bounds)
    sums = [
        suffixes(power * (1.0 - from_below)) + prefixes(power * from_below)
        for power in (torch.ones_like(bounds), bounds, bounds * bounds)
    ]

    def clamped(tables: list[Tensor], own: Tensor, point: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        held = (rank_lower >= place).type_as(own)
        number, total, squares = (
            table.gather(-1, place) - held * power
            for table, power in zip(tables, (torch.ones_like(own), own, own * own), strict=True)
        )
        return number, number * point - total, number * point * point - 2.0 * point * total + squares

    tables, own, point, sorted_bounds = [t.detach() for t in sums], lower.detach(), x.detach(), bounds.detach()

    def is_past(place: Tensor) -> Tensor:
        level = sorted_bounds.gather(-1, place)
        _, total, squares = clamped(tables, own, point, place)
        return (level >= point) | (squares + added >= total * (point - level))

    place = _first(is_past, torch.zeros_like(rank_upper), rank_upper, 2 * size)
    number, total, squares = clamped(sums, lower, x, place)
    least = x - bounds.gather(-1, place)
    most = x - bounds.gather(-1, (place - 1).clamp(min=0))
    distance = (squares + added) / torch.where(total > 0, total, torch.ones_like(total))
    distance = torch.where(place > 0, torch.minimum(distance, most), distance)
    distance = torch.maximum(distance, least)
    mean = (total + (others - number) * distance) / others
    square = ((squares + (others - number) * distance * distance + added) / others).clamp(min=added / others)
    ratio = mean * torch.rsqrt(square)
    if unit == 0.0:
        return ratio
    missed = (1.0 - mean * distance / square).abs() * (upper - lower).sum(-1, keepdim=True) / sqrt(others * added)
    return ratio + missed + _rounding(lower, upper, square, size, unit)


def _negative(lower: Tensor, upper: Tensor, size: int, added: float, unit: float) -> Tensor:
    """Return a bound of V where no P is positive; see the module's docstring.

    Here g_j = z_j − x = −p_j. `sums[k]` are the sums for λ = x + 1/τ between the sorted midpoints k − 1 and k: of the
    lower bounds l_j before midpoint k and the upper ones from it on. The element's own lower bound is subtracted.
    """
    others, x = size - 1, upper
    middles, order = torch.sort(midpoint(lower, upper), -1)
    low, high = lower.gather(-1, order), upper.gather(-1, order)
    sums = [prefixes(first) + suffixes(second) for first, second in ((low, high), (low * low, high * high))]

    def far(tables: list[Tensor], own: Tensor, point: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        total, squares = tables[0].gather(-1, place) - own, tables[1].gather(-1, place) - own * own
        return total - others * point, squares - 2.0 * point * total + others * point * point

    tables, own, point, sorted_middles = [t.detach() for t in sums], lower.detach(), x.detach(), middles.detach()

    def is_past(place: Tensor) -> Tensor:
        level = sorted_middles.gather(-1, place.clamp(max=size - 1))
        total, squares = far(tables, own, point, (place + 1).clamp(max=size))
        return (place >= size) | ((level > point) & (squares + added <= total * (level - point)))

    start = torch.zeros_like(order)
    place = _first(is_past, start, start + size, size + 1)
    total, squares = far(sums, lower, x, place)
    least = middles.gather(-1, (place - 1).clamp(min=0)) - x
    most = middles.gather(-1, place.clamp(max=size - 1)) - x
    distance = (squares + added) / torch.where(total > 0, total, torch.ones_like(total))
    distance = torch.where(place < size, torch.minimum(distance, most), distance)
    distance = torch.where(place > 0, torch.maximum(distance, least), distance)
    distance = torch.where((total > 0) & (distance > 0), distance, torch.full_like(distance, torch.inf))
    share = (2.0 * total - (squares + added) / distance) / (others * distance)
    present = share > 0
    root = torch.where(present, share, torch.ones_like(share)).sqrt()
    ratio = torch.where(present, -root, torch.zeros_like(root))
    if unit == 0.0:
        return ratio
    square = ((squares + added) / others).clamp(min=added / others)
    return torch.clamp(ratio + _rounding(lower, upper, square, size, unit), max=0.0)


def _at_corners(lower: Tensor, upper: Tensor, size: int, added: float, unit: float) -> Tensor:
    """Return the greatest V of each element over the 2ⁿ corners of the box, the element itself at its upper bound."""
    sides = torch.tensor(list(product((False, True), repeat=size)), device=lower.device)
    corners = torch.where(sides, upper.unsqueeze(-2), lower.unsqueeze(-2)).unsqueeze(-2)
    apart = upper.unsqueeze(-2).unsqueeze(-1) - corners
    own = torch.eye(size, dtype=torch.bool, device=lower.device)
    apart = torch.where(own, torch.zeros_like(apart), apart)
    square = (apart.square().sum(-1) + added) / (size - 1)
    ratio = apart.sum(-1) / (size - 1) * torch.rsqrt(square)
    if unit == 0.0:
        return ratio.amax(-2)
    return (ratio + _rounding(lower.unsqueeze(-2), upper.unsqueeze(-2), square, size, unit)).amax(-2)


def _first(holds: Callable[[Tensor], Tensor], least: Tensor, most: Tensor, count: int) -> Tensor:
    """Return the first of `count` places where a condition holds, given that it holds from some place ≤ `most` on."""
    for _ in range(count.bit_length()):
        middle = torch.div(least + most, 2, rounding_mode="floor")
        found = holds(middle)
        least, most = torch.where(found | (least >= most), least, middle + 1), torch.where(found, middle, most)
    return most


# ── planes ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _planes(x: Interval, size: int, epsilon: float, weight: Tensor | None, bias: Tensor | None) -> Lines:
    """Return slopes in d = x_i − mean and offsets of a lower and an upper plane of weight · d s + bias.

    s is 1 / √(variance + ε); see `factor_lines`.
    """
    least, most = _variances(x, size)
    slow, fast = torch.rsqrt(most + epsilon), torch.rsqrt(least + epsilon)
    lowest, highest = x.lower.sum(-1, keepdim=True), x.upper.sum(-1, keepdim=True)
    low = (size * x.lower - x.lower - (highest - x.upper)) / size
    high = (size * x.upper - x.upper - (lowest - x.lower)) / size
    center = midpoint(x.lower, x.upper)
    middle = center - center.mean(-1, keepdim=True)
    bounds = _standardized(x, size, epsilon, 0.0)

    lines = factor_lines(Interval.bounds(low, high), Interval.bounds(slow, fast), middle, bounds)
    return weighted_lines(lines, weight, bias)


def _placed(call: Call, groups: Layout, lines: Lines) -> Planes:
    """Return lines in x_i − mean as planes over all elements of the group."""
    size = groups.size

    def view(value: Tensor) -> Tensor:
        repeated = groups.grouped(value).unsqueeze(-2).expand([-1, *groups.outer, size, size])
        return repeated.reshape([-1, *call.output[1:], size])

    def plane(line: Line) -> Plane:
        slope, offset = line
        own = torch.eye(size, dtype=slope.dtype, device=slope.device) - 1.0 / size
        slopes = (slope.unsqueeze(-1) * own).reshape([-1, *call.output[1:], size])
        return Plane((slopes,), offset.reshape([-1, *call.output[1:]]), (view,))

    return Planes(plane(lines[0]), plane(lines[1]))
