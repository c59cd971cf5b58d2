"""Operators that only move elements: every element of the output is a copy of one of the input.

The ONNX reference evaluator finds out which one: it runs the node once on the numbers 0, 1, 2, … in place of the data.
Copies are exact in any arithmetic.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.pulls import scatter
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Affine, Array, Box, Constant, Value

# The operands that hold data; the others say where it goes. All operands of Concat are data.
_DATA: Final[dict[str, tuple[int, ...]]] = {
    "Identity": (0,),
    "Reshape": (0,),
    "Flatten": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Transpose": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
    "Expand": (0,),
    "Tile": (0,),
    "DepthToSpace": (0,),
    "SpaceToDepth": (0,),
    "Compress": (0,),
    "ReverseSequence": (0,),
}

MOVES: Final = (*_DATA, "Concat")


@rule(*MOVES)
def move(step: Step) -> list[Box]:
    """Move the elements."""
    if step.attributes.get("reduction", b"none") != b"none":
        step.fail("it computes with what it scatters")
    data = _DATA.get(step.node.op_type, tuple(range(len(step.operands))))
    if "indices" not in step.memory:
        step.memory["indices"] = step.copies(_numbered(step, data))
    return [_moved(step, data, np.asarray(indices)) for indices in step.memory["indices"]]


def _numbered(step: Step, data: tuple[int, ...]) -> list[NDArray[Any] | None]:
    """Return the operands of the node with the data replaced by consecutive numbers from 0."""
    operands: list[NDArray[Any] | None] = []
    start = 0
    for slot, value in enumerate(step.operands):
        if slot in data and value is not None:
            size = int(np.prod(value.shape))
            operands.append(np.arange(start, start + size).reshape(value.shape))
            start += size
        else:
            operands.append(step.constant(slot).array if step.has(slot) else None)
    return operands


def _moved(step: Step, data: tuple[int, ...], indices: NDArray[np.int64]) -> Box:
    values = [step.value(slot) for slot in data]
    lower, upper = (np.concatenate([side.ravel() for side in sides]) for sides in _sides(values))
    return Box(
        lower[indices], upper[indices], _affine(step, data, indices.ravel(), np.maximum(np.abs(lower), np.abs(upper)))
    )


def _sides(values: list[Value]) -> tuple[list[Array], list[Array]]:
    return [value.lower for value in values], [value.upper for value in values]


def _affine(step: Step, data: tuple[int, ...], indices: NDArray[np.int64], magnitude: Array) -> Affine:
    """Return the copies as an affine function. The pull of an element that is copied more than once is a sum."""
    pulls, offset, start = [], np.zeros(len(indices)), 0
    for slot in data:
        value = step.value(slot)
        size = int(np.prod(value.shape))
        positions = np.flatnonzero((indices >= start) & (indices < start + size))
        sources = indices[positions] - start
        start += size
        if isinstance(value, Constant):
            offset[positions] = value.wide.ravel()[sources]
        elif len(positions):
            pulls.append((step.names[slot], scatter(sources, positions, size)))
    repeated = len(np.unique(indices)) < len(indices)
    error = magnitude[indices] * (2.0**-52 * len(indices)) if repeated else np.zeros(len(indices))
    return Affine(tuple(pulls), offset, error)


@rule("Dropout")
def dropout(step: Step) -> Box:
    """Return the operand: nothing is dropped in evaluation."""
    if len([name for name in step.node.output if name]) > 1:
        step.fail("it has an output of what it dropped")
    if step.has(2) and bool(step.constant(2).array):
        step.fail("it is in training mode")
    x = step.box(0)
    size = x.lower.size
    nothing = np.zeros(size)
    return Box(x.lower, x.upper, Affine(((step.names[0], lambda rows: rows),), nothing, nothing))


@rule("Pad")
def pad(step: Step) -> Box:
    """Pad with a constant or with copies of elements. Before version 11 padding and its value are attributes."""
    x, mode = step.box(0), step.attributes.get("mode", b"constant")
    widths = step.integers(1, "pads") or []
    axes = [int(axis) % len(x.shape) for axis in step.constant(3).array] if step.has(3) else range(len(x.shape))
    pairs = [(0, 0)] * len(x.shape)
    for axis, begin, end in zip(axes, widths[: len(widths) // 2], widths[len(widths) // 2 :], strict=True):
        pairs[axis] = (begin, end)
    if min(width for pair in pairs for width in pair) < 0:
        step.fail("its padding is negative")
    if mode == b"constant":
        number = float(step.constant(2).wide.ravel()[0]) if step.has(2) else float(step.attributes.get("value", 0.0))
        lower, upper = (np.pad(side, pairs, constant_values=number) for side in (x.lower, x.upper))
        return Box(lower, upper, _padded(step, np.pad(_counted(x), pairs, constant_values=-1), number))
    modes: dict[bytes, Literal["reflect", "edge", "wrap"]] = {b"reflect": "reflect", b"edge": "edge", b"wrap": "wrap"}
    if mode not in modes:
        step.fail(f"its mode {mode!r}")
    lower, upper = (np.pad(side, pairs, mode=modes[mode]) for side in (x.lower, x.upper))
    return Box(lower, upper, _padded(step, np.pad(_counted(x), pairs, mode=modes[mode]), 0.0))


def _counted(x: Box) -> NDArray[np.int64]:
    return np.arange(x.lower.size).reshape(x.shape)


def _padded(step: Step, sources: NDArray[np.int64], number: float) -> Affine:
    """Return padding as an affine function: each element is that of its source, or `number` where the source is −1."""
    x, flat = step.box(0), sources.ravel()
    positions = np.flatnonzero(flat >= 0)
    pull = scatter(flat[positions], positions, x.lower.size)
    repeated = len(positions) > x.lower.size
    magnitude = np.where(flat >= 0, x.magnitude.ravel()[flat], 0.0)
    error = magnitude * (2.0**-52 * len(flat) if repeated else 0.0)
    return Affine(((step.names[0], pull),), np.where(flat >= 0, 0.0, number), error)


@rule("Trilu")
def triangle(step: Step) -> Box:
    """Keep the upper or the lower triangle of each matrix, with 0 elsewhere."""
    x = step.box(0)
    if "sources" not in step.memory:
        diagonal = step.constant(1).array if step.has(1) else None
        step.memory["sources"] = np.asarray(step.copies([_counted(x) + 1, diagonal][: len(step.operands)])[0]) - 1
    sources: NDArray[np.int64] = step.memory["sources"]
    ends = [np.where(sources >= 0, side.ravel()[sources.ravel()].reshape(x.shape), 0.0) for side in (x.lower, x.upper)]
    return Box(ends[0], ends[1], _padded(step, sources, 0.0))


@rule("Shape")
def shape(step: Step) -> Constant:
    """Return the shape at batch 1, which is a constant."""
    first, last = step.attributes.get("start", 0), step.attributes.get("end")
    return Constant(np.asarray(step.value(0).shape[first:last], np.int64))


@rule("Size")
def size(step: Step) -> Constant:
    """Return the number of elements at batch 1."""
    return Constant(np.asarray(np.prod(step.value(0).shape), np.int64))
