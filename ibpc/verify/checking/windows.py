"""Convolutions and pools: linear functions and maxima over windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ibpc.verify.checking.linear import largest, split_product, stacked
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, Constant, Pull, unknown, unless


@dataclass(frozen=True)
class Windows:
    """The geometry of windows along the spatial axes: sizes, strides, dilations, and padding before and after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, step: Step, kernel: Sequence[int], spatial: Sequence[int]) -> Windows:
        """Read the attributes of a node. `ceil_mode` becomes more padding after."""
        rank = len(kernel)
        strides, dilations = (tuple(step.attributes.get(name) or [1] * rank) for name in ("strides", "dilations"))
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        same = step.attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
        if same and max(dilations) > 1 and step.node.op_type != "Conv":
            step.fail("its automatic padding of a dilated window", "pads, for runtimes differ in these")
        before, after = _padding(step, spatial, spans, strides)
        if min((*before, *after), default=0) < 0:
            step.fail("its padding is negative")
        if step.attributes.get("ceil_mode", 0):
            after = [
                end + _ceiling(size, begin, end, span, stride)
                for size, begin, end, span, stride in zip(spatial, before, after, spans, strides, strict=True)
            ]
        return cls(tuple(kernel), strides, dilations, tuple(before), tuple(after))

    def padded(self, x: Array, value: float) -> Array:
        """Return x (…, *spatial) padded with a value."""
        lead = x.ndim - len(self.kernel)
        widths = [(0, 0)] * lead + list(zip(self.before, self.after, strict=True))
        return np.pad(x, widths, constant_values=value)

    def views(self, x: Array) -> Array:
        """Return all windows of the padded x (…, *spatial): (…, *positions, *kernel), a view."""
        rank = len(self.kernel)
        axes = tuple(range(x.ndim - rank, x.ndim))
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(self.kernel, self.dilations, strict=True)]
        found = sliding_window_view(x, spans, axis=axes)
        steps = (*self.strides, *self.dilations)
        index: tuple[Any, ...] = (..., *(slice(None, None, step) for step in steps))
        return np.asarray(found[index])


def _padding(
    step: Step, spatial: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    mode = step.attributes.get("auto_pad", b"NOTSET").decode()
    rank = len(spans)
    if mode == "NOTSET":
        pads = list(step.attributes.get("pads") or [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return [0] * rank, [0] * rank
    totals = [
        (-(-size // stride) - 1) * stride + span - size
        for size, span, stride in zip(spatial, spans, strides, strict=True)
    ]
    if min(totals, default=0) < 0 and step.node.op_type != "Conv":
        step.fail("its automatic padding of windows that are smaller than a step", "pads, for runtimes differ in these")
    totals = [max(total, 0) for total in totals]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (large, small) if mode == "SAME_LOWER" else (small, large)


def _ceiling(size: int, before: int, after: int, span: int, stride: int) -> int:
    """Return how much padding a last, partial window needs; 0 if it would start in the padding after."""
    room = size + before + after - span
    count = -(-room // stride)
    return count * stride - room if count * stride < size + before else 0


# ── convolutions ────────────────────────────────────────────────────────────────────────────────────────────────
@rule("Conv")
def conv(step: Step) -> Box:
    """Bound a convolution: the weight of each group as a matrix, times the windows as columns."""
    x, weight = step.box(0), step.constant(1)
    groups, kernel = int(step.attributes.get("group", 1)), weight.shape[2:]
    windows = Windows.of(step, kernel, x.shape[2:])
    columns, positions = _columns(windows, stacked(x), groups)
    matrix = _grouped(step, weight, groups)
    lower, upper, magnitude = split_product(lambda ends, w: w @ ends, columns, matrix)
    shape = (x.shape[0], weight.shape[0], *positions)
    ends = lower.reshape(shape), upper.reshape(shape)
    pull = _conv_pull(windows, matrix, x.shape, positions)
    return _with_bias(step, ends, magnitude.reshape(shape), columns.shape[-2], pull)


def _conv_pull(windows: Windows, matrix: Constant, shape: tuple[int, ...], positions: tuple[int, ...]) -> Pull:
    """Return the pull of a convolution of x (B, C, *spatial): each row adds scaled kernels where its windows were.

    Rows are the last axis in between, so that sums run over contiguous memory.
    """
    transposed = np.swapaxes(matrix.wide, -1, -2)

    def pull(rows: Array) -> Array:
        outputs = np.moveaxis(rows.reshape(len(rows) * shape[0], len(matrix.wide), -1, prod(positions)), 0, -1)
        products = transposed @ outputs.reshape(*outputs.shape[:2], -1)
        columns = products.reshape(shape[1], *windows.kernel, *positions, -1)
        placed = _placed(columns, 1, windows.strides, windows.dilations, windows.before, shape[2:])
        return np.moveaxis(placed, -1, 0).reshape(len(rows), -1)

    return pull


def _columns(windows: Windows, ends: Array, groups: int) -> tuple[Array, tuple[int, ...]]:
    """Return the windows of ends (3, B, C, *spatial) as columns (3, B, groups, C/groups · kernel, positions)."""
    rank = len(windows.kernel)
    views = windows.views(windows.padded(ends, 0.0))
    positions = views.shape[3 : 3 + rank]
    ordered = views.transpose(0, 1, 2, *range(3 + rank, 3 + 2 * rank), *range(3, 3 + rank))
    terms = ends.shape[2] // groups * prod(windows.kernel)
    return ordered.reshape(*ends.shape[:2], groups, terms, prod(positions)), positions


def _grouped(step: Step, weight: Constant, groups: int) -> Constant:
    """Return the weight as one matrix per group: (groups, rows / groups, the rest)."""
    shape = groups, weight.shape[0] // groups, prod(weight.shape[1:])
    kept: Constant = step.memory.setdefault("matrix", Constant(weight.array.reshape(shape)))
    return kept


def _with_bias(step: Step, ends: tuple[Array, Array], magnitude: Array, terms: int, pull: Pull) -> Box:
    x, shape = step.box(0), (-1, *[1] * (magnitude.ndim - 2))
    bias = Constant(step.constant(2).wide.reshape(shape) if step.has(2) else np.zeros(()))
    moduli = magnitude + bias.magnitude
    error = step.machine.sum_error(terms + 2, moduli, largest(x))
    exact = step.machine.whole_ends(x, step.constant(1), bias, moduli)
    ends, pulls = (ends[0] + bias.wide, ends[1] + bias.wide), [(step.names[0], pull)]
    return step.affine_box(ends, error, moduli, pulls, bias.wide, exact)


@rule("ConvTranspose")
def conv_transpose(step: Step) -> Box:
    """Bound a transposed convolution: every input element adds a scaled kernel to the output."""
    x, weight = step.box(0), step.constant(1)
    groups, kernel = int(step.attributes.get("group", 1)), weight.shape[2:]
    rank = len(kernel)
    strides, dilations = (tuple(step.attributes.get(name) or [1] * rank) for name in ("strides", "dilations"))
    crop, output = _transposed_geometry(step, x.shape[2:], kernel, strides, dilations)
    matrix = _grouped(step, weight, groups)
    ends = stacked(x).reshape(3, x.shape[0], groups, x.shape[1] // groups, -1)

    def spread(values: Array, w: Array) -> Array:
        columns = (np.swapaxes(w, -1, -2) @ values).reshape(*values.shape[:2], -1, *kernel, *x.shape[2:])
        return _placed(columns, 3, strides, dilations, crop, output)

    lower, upper, magnitude = split_product(spread, ends, matrix)
    windows = Windows(tuple(kernel), strides, dilations, tuple(crop), (0,) * rank)
    pull = _transposed_pull(windows, matrix, x.shape, tuple(output))
    return _with_bias(step, (lower, upper), magnitude, x.shape[1] // groups * prod(kernel), pull)


def _transposed_pull(windows: Windows, matrix: Constant, shape: tuple[int, ...], output: tuple[int, ...]) -> Pull:
    """Return the pull of a transposed convolution of x (B, C, *spatial): a convolution of the rows."""
    spatial, groups = shape[2:], len(matrix.wide)
    full = [
        max((size - 1) * stride + (k - 1) * dilation + 1, begin + size_out)
        for size, stride, k, dilation, begin, size_out in zip(
            spatial, windows.strides, windows.kernel, windows.dilations, windows.before, output, strict=True
        )
    ]
    after = [size - begin - inner for size, begin, inner in zip(full, windows.before, output, strict=True)]
    around = replace(windows, after=tuple(after))
    kept: tuple[Any, ...] = (..., *(slice(size) for size in spatial), *(slice(None) for _ in spatial))

    def pull(rows: Array) -> Array:
        outputs = rows.reshape(len(rows) * shape[0], -1, *output)
        views = around.views(around.padded(outputs, 0.0))[kept]
        rank = len(spatial)
        ordered = views.transpose(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        columns = ordered.reshape(len(outputs), groups, -1, prod(spatial))
        return np.asarray(matrix.wide @ columns).reshape(len(rows), -1)

    return pull


def _transposed_geometry(
    step: Step, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return how much is cropped at the start of each axis, and the sizes of the output."""
    rank = len(kernel)
    mode = step.attributes.get("auto_pad", b"NOTSET")
    pads = list(step.attributes.get("pads") or [0] * 2 * rank)
    extra = list(step.attributes.get("output_padding") or [0] * rank)
    full = [
        (size - 1) * stride + (k - 1) * dilation + 1 + more
        for size, stride, k, dilation, more in zip(spatial, strides, kernel, dilations, extra, strict=True)
    ]
    wanted = list(step.attributes.get("output_shape") or [])[-rank:]
    if mode in (b"SAME_UPPER", b"SAME_LOWER") and not wanted:
        wanted = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    if not wanted:
        return pads[:rank], [
            size - begin - end for size, begin, end in zip(full, pads[:rank], pads[rank:], strict=True)
        ]
    if any(want > size for size, want in zip(full, wanted, strict=True)):
        step.fail(f"an output of {wanted} where {full} are made", "no more than that, for runtimes differ beyond")
    cut = [size - want for size, want in zip(full, wanted, strict=True)]
    return [total // 2 if mode == b"SAME_UPPER" else total - total // 2 for total in cut], wanted


def _placed(
    columns: Array,
    lead: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    crop: Sequence[int],
    output: Sequence[int],
) -> Array:
    """Return the sum of kernels (…, *kernel, *spatial, …) at their positions in the output (…, *output, …).

    There are `lead` dimensions before those of the kernel.
    """
    rank = len(output)
    kernel, spatial = columns.shape[lead : lead + rank], columns.shape[lead + rank : lead + 2 * rank]
    before: tuple[Any, ...] = (slice(None),) * lead
    full = [
        max((size - 1) * stride + (k - 1) * dilation + 1, begin + size_out)
        for size, stride, k, dilation, begin, size_out in zip(
            spatial, strides, kernel, dilations, crop, output, strict=True
        )
    ]
    total = np.zeros((*columns.shape[:lead], *full, *columns.shape[lead + 2 * rank :]))
    for place in product(*(range(k) for k in kernel)):
        where: tuple[Any, ...] = tuple(
            slice(p * dilation, p * dilation + (size - 1) * stride + 1, stride)
            for p, dilation, size, stride in zip(place, dilations, spatial, strides, strict=True)
        )
        total[before + where] += columns[before + place]
    kept: tuple[Any, ...] = tuple(slice(begin, begin + size) for begin, size in zip(crop, output, strict=True))
    placed: Array = total[before + kept]
    return placed


# ── pools ───────────────────────────────────────────────────────────────────────────────────────────────────────
@rule("MaxPool")
def max_pool(step: Step) -> Box:
    """Bound the greatest element of each window, exactly; padding is −∞."""
    if len([name for name in step.node.output if name]) > 1:
        step.fail("it has an output of indices")
    x = step.box(0)
    windows = Windows.of(step, step.attributes["kernel_shape"], x.shape[2:])
    axes = tuple(range(-len(windows.kernel), 0))
    lower, upper = (windows.views(windows.padded(side, -np.inf)).max(axis=axes) for side in (x.lower, x.upper))
    lost = windows.views(windows.padded(unknown(x).astype(np.float64), 0.0)).max(axis=axes) > 0
    return unless(lost, Box(lower, upper))


@rule("GlobalMaxPool")
def global_max_pool(step: Step) -> Box:
    """Bound the greatest element of each channel, exactly."""
    lower, upper = (np.max(side, axis=axes, keepdims=True) for side, axes in _planes(step))
    lost = unknown(step.box(0)).any(tuple(range(2, lower.ndim)), keepdims=True)
    return unless(lost, Box(lower, upper))


@rule("GlobalAveragePool")
def global_average_pool(step: Step) -> Box:
    """Bound the mean of each channel."""
    x = step.box(0)
    lower, upper = (np.mean(side, axis=axes, keepdims=True) for side, axes in _planes(step))
    magnitude = np.mean(x.magnitude, axis=tuple(range(2, x.magnitude.ndim)), keepdims=True)
    error = step.machine.sum_error(prod(x.shape[2:]) + 2, magnitude, before=magnitude * prod(x.shape[2:]))

    def pull(rows: Array) -> Array:
        share = rows.reshape(len(rows), *magnitude.shape) / prod(x.shape[2:])
        return np.broadcast_to(share, (len(rows), *x.shape)).reshape(len(rows), -1)

    return step.affine_box((lower, upper), error, magnitude, [(step.names[0], pull)])


def _planes(step: Step) -> Iterator[tuple[Array, tuple[int, ...]]]:
    x = step.box(0)
    axes = tuple(range(2, len(x.shape)))
    yield x.lower, axes
    yield x.upper, axes


@rule("AveragePool")
def average_pool(step: Step) -> Box:
    """Bound the mean of each window; padding counts if the attribute says so, that added by ceil_mode never does."""
    x = step.box(0)
    windows = Windows.of(step, step.attributes["kernel_shape"], x.shape[2:])
    axes = tuple(range(-len(windows.kernel), 0))
    counts = windows.views(_counted(step, windows, x.shape[2:])).sum(axis=axes)
    lower, upper, magnitude = (
        windows.views(windows.padded(side, 0.0)).sum(axis=axes) / counts for side in (x.lower, x.upper, x.magnitude)
    )

    def pull(rows: Array) -> Array:
        share = rows.reshape(len(rows) * x.shape[0], x.shape[1], *[1] * len(axes), *counts.shape) / counts
        columns = np.broadcast_to(share, (*share.shape[:2], *windows.kernel, *counts.shape))
        placed = _placed(columns[None], 3, windows.strides, windows.dilations, windows.before, x.shape[2:])
        return placed.reshape(len(rows), -1)

    error = step.machine.sum_error(prod(windows.kernel) + 2, magnitude, before=magnitude * counts)
    return step.affine_box((lower, upper), error, magnitude, [(step.names[0], pull)])


def _counted(step: Step, windows: Windows, spatial: Sequence[int]) -> Array:
    """Return the padded plane with 1 at elements that count and 0 at others."""
    if not step.attributes.get("count_include_pad", 0):
        return windows.padded(np.ones(tuple(spatial)), 0.0)
    pads = list(step.attributes.get("pads") or [0] * 2 * len(spatial))
    mode = step.attributes.get("auto_pad", b"NOTSET")
    given = pads[len(spatial) :] if mode == b"NOTSET" else [0] * len(spatial)
    after = windows.after if mode in (b"SAME_UPPER", b"SAME_LOWER") else given
    plane = np.ones([b + size + a for b, size, a in zip(windows.before, spatial, after, strict=True)])
    return np.pad(plane, [(0, max(full - a, 0)) for full, a in zip(windows.after, after, strict=True)])
