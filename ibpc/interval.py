"""Boxes: all tensors between a lower and an upper one.

A box is kept as lower/upper or as center/radius, whichever its producer computed; the other form is derived on the
first request and kept. So a run of affine operators that only reads center and radius never pays for a conversion,
neither on tensors nor, when the same code runs on `torch.fx` proxies, in the emitted graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from ibpc.errors import UsageError, first_line

Range: TypeAlias = tuple[float | Tensor, float | Tensor]


class Interval:
    """A box of tensors of one shape and dtype. Make it with `bounds`, `around`, `point` or `ball`."""

    __slots__ = ("_center", "_is_centered", "_is_nonnegative", "_lower", "_radius", "_scaled", "_upper")

    def __init__(
        self,
        lower: Tensor | None,
        upper: Tensor | None,
        center: Tensor | None,
        radius: Tensor | None,
    ) -> None:
        self._lower = lower
        self._upper = upper
        self._center = center
        self._radius = radius
        self._is_centered = lower is None
        self._is_nonnegative = False
        self._scaled: tuple[Tensor, float] | None = None

    @classmethod
    def bounds(cls, lower: Tensor, upper: Tensor) -> Self:
        """Return the box [lower, upper]. Both have one shape; the caller guarantees lower ≤ upper."""
        return cls(lower, upper, None, None)

    @classmethod
    def nonnegative(cls, lower: Tensor, upper: Tensor) -> Self:
        """Return the box [lower, upper]; the caller guarantees 0 ≤ lower ≤ upper."""
        box = cls.bounds(lower, upper)
        box._is_nonnegative = True
        return box

    @classmethod
    def around(cls, center: Tensor, radius: Tensor) -> Self:
        """Return the box [center − radius, center + radius], radius ≥ 0."""
        return cls(None, None, center, radius)

    @classmethod
    def scaled(cls, center: Tensor, share: Tensor, scale: float) -> Self:
        """Return the box around `center` of radius scale · share ≥ 0, kept as a product to fuse with the addition."""
        box = cls(None, None, center, None)
        box._scaled = share, scale
        return box

    @classmethod
    def point(cls, x: Tensor) -> Self:
        """Return the box that holds only the tensor `x`."""
        return cls(x, x, x, torch.zeros_like(x))

    @classmethod
    def ball(cls, x: Tensor, eps: float | Tensor, clip: Range | None = None) -> Self:
        """Return the L∞ ball of radius `eps` around `x`, intersected with the range `clip`.

        The caller guarantees that x lies in `clip`; otherwise the result is not inside the ball. `eps` is in the units
        of `x` (pixels in [0, 1] for images). It and the ends of `clip` are numbers, or tensors that broadcast to `x`.
        Raises UsageError for what is none of these, a negative or NaN radius, and ends in the wrong order.
        """
        expect_ball(x, eps)
        lower, upper = x - eps, x + eps
        if clip is None:
            return cls.bounds(lower, upper)
        ends = _numbers_of(clip)
        if ends is not None:
            return cls.bounds(lower.clamp(*ends), upper.clamp(*ends))
        low, high = ends_of_range(x, clip)
        return cls.bounds(lower.clamp(low, high), upper.clamp(low, high))

    @property
    def lower(self) -> Tensor:
        """The lower bounds."""
        if self._lower is None:
            self._lower = self._end(-1.0)
        return self._lower

    @property
    def upper(self) -> Tensor:
        """The upper bounds."""
        if self._upper is None:
            self._upper = self._end(1.0)
        return self._upper

    def _end(self, sign: float) -> Tensor:
        """Return center ± radius, in one pass if the radius is kept as a product."""
        if self._scaled is None:
            return self.center + self.radius if sign > 0 else self.center - self.radius
        share, scale = self._scaled
        return torch.add(self.center, share, alpha=sign * scale)

    @property
    def center(self) -> Tensor:
        """The midpoints."""
        if self._center is None:
            assert self._lower is not None and self._upper is not None
            self._center = torch.lerp(self._lower, self._upper, 0.5)
        return self._center

    @property
    def modulus(self) -> Tensor:
        """The moduli of the midpoints; the midpoints themselves if the producer guaranteed that none is negative."""
        return self.center if self._is_nonnegative else self.center.abs()

    @property
    def radius(self) -> Tensor:
        """Half the widths."""
        if self._radius is None:
            self._radius = self.center - self.lower if self._scaled is None else self._scaled[0] * self._scaled[1]
        return self._radius

    @property
    def scaled_radius(self) -> tuple[Tensor, float]:
        """The radius as (tensor, factor), the form it was made in."""
        return (self.radius, 1.0) if self._scaled is None else self._scaled

    @property
    def is_nonnegative(self) -> bool:
        """Whether the producer guaranteed that no element is negative."""
        return self._is_nonnegative

    @property
    def is_centered(self) -> bool:
        """Whether the box was made as center/radius, not as lower/upper.

        Rules that work on either form use the one the box was made in: the derived form includes the rounding error of
        the conversion, which only affine rules account for (`ibpc.rounding.inflation`).
        """
        return self._is_centered

    @property
    def width(self) -> Tensor:
        """The widths, upper − lower."""
        return self.upper - self.lower

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return [function(lower), function(upper)] for a function that does not decrease in any element."""
        return self.bounds(function(self.lower), function(self.upper))

    def nearest(self, x: Tensor) -> Tensor:
        """Return the point of the box nearest to `x`, NaN where a bound or `x` is NaN."""
        return torch.clamp(x, self.lower, self.upper)

    def contains(self, x: Tensor) -> Tensor:
        """Return elementwise whether `x` lies inside; False where a bound or `x` is NaN."""
        return (self.lower <= x) & (x <= self.upper)

    def __repr__(self) -> str:
        form = "center/radius" if self._is_centered else "lower/upper"
        return f"Interval({tuple((self.center if self._is_centered else self.lower).shape)}, {form})"


def expect_ball(x: Tensor, eps: float | Tensor) -> None:
    """Raise UsageError unless `x` is a floating-point tensor and `eps` at least 0, of a shape that broadcasts to it."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise UsageError.at("x", found, "a tensor of floating-point numbers", "images of uint8 are divided by 255")
    if not isinstance(eps, Real | Tensor):
        raise UsageError.at("eps", f"found {eps!r}", "a number such as 2/255, or a tensor")
    if isinstance(eps, Tensor) and not _spreads(eps, x):
        raise UsageError.at("eps", f"shape {tuple(eps.shape)}", f"a shape that broadcasts to {tuple(x.shape)}")
    is_radius = bool((eps >= 0).all()) if isinstance(eps, Tensor) else eps >= 0
    if not is_radius:
        raise UsageError.at("eps", f"found {eps}", "numbers of at least 0")


def ends_of_range(x: Tensor, clip: Any, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return the ends of a range, numbers or arrays that broadcast to `x`, as tensors of its shape and device.

    Their type is by default that of `x`. Raises UsageError for other ends, and for ends in the wrong order.
    """
    kind = x.dtype if dtype is None else dtype
    try:
        low, high = (torch.as_tensor(end, dtype=kind, device=x.device).expand(x.shape) for end in clip)
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "a lower and an upper end, numbers or tensors that broadcast to x"
        raise UsageError.at("clip", f"found {type(clip).__name__}: {first_line(error)}", expected) from error
    if not bool((low <= high).all()):
        raise UsageError.at("clip", f"found {clip}", "the lower end first")
    return low, high


def _numbers_of(clip: Any) -> tuple[float, float] | None:
    """Return the ends of a range if they are numbers in order: a step of training waits for no look at a tensor."""
    if not isinstance(clip, tuple | list) or len(clip) != 2 or not all(isinstance(end, Real) for end in clip):
        return None
    low, high = map(float, clip)
    return (low, high) if low <= high else None


def _spreads(given: Tensor, x: Tensor) -> bool:
    """Return whether a tensor broadcasts to the shape of `x`."""
    missing = x.dim() - given.dim()
    return missing >= 0 and all(
        size in (1, wanted) for size, wanted in zip(given.shape, x.shape[missing:], strict=True)
    )


def ends_of(boxes: Iterable[Interval]) -> list[Tensor]:
    """Return lower and upper bounds of each box in turn: the order in which lowered graphs take and return them."""
    return [end for box in boxes for end in (box.lower, box.upper)]


def boxes_of(ends: Sequence[Tensor]) -> tuple[Interval, ...]:
    """Return the boxes with these ends, in the order of `ends_of`."""
    return tuple(map(Interval.bounds, ends[::2], ends[1::2]))


class Paired:
    """The nominal value and the box of one node, carried together through training.

    An affine operator runs nominal value and center through its weight in one call, concatenated along the batch: the
    `stack`. Like an `Interval`, a `Paired` keeps the form its producer computed and derives the other on request.
    """

    __slots__ = ("_interval", "_nominal", "_radius", "_stack")

    def __init__(
        self,
        nominal: Tensor | None,
        interval: Interval | None,
        stack: Tensor | None,
        radius: Tensor | None,
    ) -> None:
        self._nominal = nominal
        self._interval = interval
        self._stack = stack
        self._radius = radius

    @classmethod
    def separate(cls, nominal: Tensor, interval: Interval) -> Self:
        """Return the pair of a nominal value and a box of the same shape."""
        return cls(nominal, interval, None, None)

    @classmethod
    def stacked(cls, stack: Tensor, radius: Tensor) -> Self:
        """Return the pair whose nominal value and center are the halves of `stack` (2B, …), with `radius` (B, …)."""
        return cls(None, None, stack, radius)

    @property
    def is_stacked(self) -> bool:
        """Whether the stack is available without a copy."""
        return self._stack is not None

    @property
    def stack(self) -> Tensor:
        """Nominal value and center, concatenated along the batch: (2B, …)."""
        if self._stack is None:
            self._stack = torch.cat([self.nominal, self.interval.center])
        return self._stack

    @property
    def radius(self) -> Tensor:
        """The radius of the box, (B, …)."""
        return self.interval.radius if self._radius is None else self._radius

    @property
    def nominal(self) -> Tensor:
        """The nominal value, (B, …)."""
        if self._nominal is None:
            self._split()
        assert self._nominal is not None
        return self._nominal

    @property
    def interval(self) -> Interval:
        """The box, (B, …)."""
        if self._interval is None:
            self._split()
        assert self._interval is not None
        return self._interval

    def _split(self) -> None:
        assert self._stack is not None and self._radius is not None
        halves = torch.chunk(self._stack, 2)
        self._nominal = halves[0]
        self._interval = Interval.around(halves[1], self._radius)
