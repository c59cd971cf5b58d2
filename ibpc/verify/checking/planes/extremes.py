"""Planes of the greatest or least of several values: of operands, of a window's elements, along axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.linear import reduced_axes
from ibpc.verify.checking.planes.base import Part, Sketch, planes
from ibpc.verify.checking.pulls import broadcast_pull, scatter
from ibpc.verify.checking.rules import Step
from ibpc.verify.checking.values import Array, Box, Pull
from ibpc.verify.checking.windows import Windows


@planes("Max", "Min")
def extreme(step: Step) -> Sketch:
    """Return planes of the greatest or least operand."""
    boxes = [step.box(slot) for slot in range(len(step.operands))]
    shape = np.broadcast_shapes(*(box.shape for box in boxes))
    lowers, uppers = (
        np.stack([np.broadcast_to(side, shape).ravel() for side in sides])
        for sides in ([box.lower for box in boxes], [box.upper for box in boxes])
    )
    spreads = [broadcast_pull(box.shape, shape) for box in boxes]
    copies = max(prod(shape) // max(1, box.lower.size) for box in boxes)
    slots = [slot if isinstance(step.value(slot), Box) else -1 for slot in range(len(boxes))]
    if step.node.op_type == "Min":
        return _mirrored(_greatest(-uppers, -lowers, slots, spreads, copies))
    return _greatest(lowers, uppers, slots, spreads, copies)


def _greatest(lowers: Array, uppers: Array, slots: Sequence[int], spreads: Sequence[Pull], copies: int) -> Sketch:
    """Return planes of the greatest of n boxes (n, K); −∞ stands for a missing one, slot −1 for a constant.

    Below: the box with the greatest middle, since the maximum is at least each value. Above, with c the greatest lower
    bound: c + Σ s_k (x_k − l_k), s_k = max(u_k − c, 0) / (u_k − l_k), as no term is negative, and each is at least
    x_k − c at both ends of its box. Where that is above the greatest upper bound at the middle, that bound is used.
    """
    there = np.isfinite(lowers) & np.isfinite(uppers)
    low, high = np.where(there, lowers, 0.0), np.where(there, uppers, 0.0)
    middles = np.where(there, 0.5 * low + 0.5 * high, -np.inf)
    floor, ceiling = lowers.max(0), uppers.max(0)
    width = high - low
    slopes = np.where(there & (width > 0), np.maximum(high - floor, 0.0) / np.where(width > 0, width, 1.0), 0.0)
    offset = floor - (slopes * low).sum(0)
    flat = offset + np.where(there, slopes * middles, 0.0).sum(0) > ceiling
    slopes, offset = np.where(flat, 0.0, slopes), np.where(flat, ceiling, offset)
    picked = np.arange(len(lowers))[:, None] == middles.argmax(0)[None]
    fixed = np.array([slot < 0 for slot in slots])[:, None]
    lower = np.where(picked & fixed, low, 0.0).sum(0)
    upper = offset + np.where(fixed, slopes * low, 0.0).sum(0)
    missing = (~there & (uppers > -np.inf)).any(0) | ~np.isfinite(floor) | ~np.isfinite(ceiling)
    parts = [
        Part(
            slot,
            spread,
            np.where(missing, np.nan, chosen.astype(np.float64)),
            slope,
            np.maximum(np.abs(least), np.abs(most)),
            copies,
        )
        for slot, spread, chosen, slope, least, most in zip(slots, spreads, picked, slopes, low, high, strict=True)
        if slot >= 0
    ]
    return Sketch(parts, lower, upper)


def _mirrored(sketch: Sketch) -> Sketch:
    """Return the planes of −f(−x), given those of f."""
    parts = [replace(part, below=part.above, above=part.below) for part in sketch.parts]
    return Sketch(parts, -sketch.upper, -sketch.lower)


@planes("MaxPool")
def max_pool(step: Step) -> Sketch:
    """Return planes of the greatest element of each window. Padding is not an element."""
    return _greatest_of_elements(step.box(0), _window_elements(step))


@planes("GlobalMaxPool")
def global_max_pool(step: Step) -> Sketch:
    """Return planes of the greatest element of each channel."""
    x = step.box(0)
    return _greatest_of_elements(x, _elements_along(x.shape, range(2, len(x.shape))))


@planes("ReduceMax", "ReduceMin")
def reduce_extreme(step: Step) -> Sketch:
    """Return planes of the greatest or least element along axes."""
    x, axes = step.box(0), reduced_axes(step)
    elements = _elements_along(x.shape, () if axes is None else axes)
    if step.node.op_type == "ReduceMax":
        return _greatest_of_elements(x, elements)
    return _mirrored(_greatest_of_elements(Box(-x.upper, -x.lower), elements))


def _greatest_of_elements(x: Box, elements: NDArray[np.int64]) -> Sketch:
    """Return planes of the greatest of the elements (n, K) of a box for each of K results; −1 is no element.

    Below: the element with the greatest lower bound. Above: the same one if no other reaches that bound, else the
    greatest upper bound.
    """
    lowers, uppers = (np.where(elements >= 0, side.ravel()[elements], -np.inf) for side in (x.lower, x.upper))
    sizes = np.where(elements >= 0, x.magnitude.ravel()[elements], 0.0)
    picked = np.arange(len(elements))[:, None] == lowers.argmax(0)[None]
    rivals = np.where(picked, -np.inf, uppers).max(0)
    alone = lowers.max(0) >= rivals
    missing = ((elements >= 0) & ~np.isfinite(lowers + uppers)).any(0)
    parts = [
        Part(0, _spread(place, x.lower.size), np.where(missing, np.nan, chosen), 1.0 * (chosen & alone), size)
        for place, chosen, size in zip(elements, picked, sizes, strict=True)
    ]
    return Sketch(parts, np.zeros(lowers.shape[1]), np.where(alone, 0.0, uppers.max(0)))


def _elements_along(shape: Sequence[int], axes: Iterable[int]) -> NDArray[np.int64]:
    """Return the flat element at each position along some axes, for each of the others, (positions, results)."""
    along = sorted(axis % len(shape) for axis in axes)
    others = [axis for axis in range(len(shape)) if axis not in along]
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape).transpose(*along, *others)
    return numbers.reshape(prod(shape[axis] for axis in along), -1)


def _window_elements(step: Step) -> NDArray[np.int64]:
    """Return the flat element of the operand at each position of each window, (positions, windows), −1 for padding."""
    shape = step.box(0).shape
    windows = Windows.of(step, step.attributes["kernel_shape"], shape[2:])
    numbers = windows.padded(np.arange(float(prod(shape))).reshape(shape), -1.0)
    views = windows.views(numbers)
    flat = views.reshape(*views.shape[: views.ndim - len(windows.kernel)], -1)
    return np.moveaxis(flat, -1, 0).reshape(flat.shape[-1], -1).astype(np.int64)


def _spread(sources: NDArray[np.int64], size: int) -> Pull:
    positions = np.flatnonzero(sources >= 0)
    return scatter(sources[positions], positions, size)
