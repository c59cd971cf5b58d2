"""Sums of products over labelled dimensions: each product of each output once, by its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.linear import largest
from ibpc.verify.checking.products import corners
from ibpc.verify.checking.rules import Step, rule
from ibpc.verify.checking.values import Array, Box, Pull

_MOST_PRODUCTS: Final = 2**24
# Labels for the dimensions of an ellipsis: characters that no equation can contain.
_HIDDEN: Final = "".join(chr(0x2460 + place) for place in range(16))


@dataclass(frozen=True, eq=False)
class _Space:
    """All products: outputs of `shape`, each of `terms` products, and the flat elements of each operand in them."""

    shape: tuple[int, ...]
    terms: int
    elements: Sequence[NDArray[np.int64]]


@rule("Einsum")
def einsum(step: Step) -> Box:
    """Bound a sum of elements or of products of two: an affine function if one operand is constant."""
    if len(step.operands) > 2:
        step.fail(f"{len(step.operands)} operands", "one or two")
    if "space" not in step.memory:
        step.memory["space"] = _space(step)
    space: _Space = step.memory["space"]
    boxes = [step.box(slot) for slot in range(len(step.operands))]
    taken = [
        Box(box.lower.ravel()[places], box.upper.ravel()[places])
        for box, places in zip(boxes, space.elements, strict=True)
    ]
    found = taken[0] if len(taken) == 1 else Box(*corners(np.multiply, *taken))
    lower, upper, moduli = (side.sum(-1).reshape(space.shape) for side in (found.lower, found.upper, found.magnitude))
    error = step.machine.sum_error(space.terms + 2, moduli, max(largest(box) for box in boxes))
    free = [slot for slot in range(len(boxes)) if isinstance(step.value(slot), Box)]
    pulls = []
    if len(free) == 1:
        factor = 1.0 if len(boxes) == 1 else taken[1 - free[0]].lower
        pulls = [(step.names[free[0]], _pull(space.elements[free[0]], factor, boxes[free[0]].lower.size))]
    if len(boxes) == 1 and space.terms == 1:  # moving elements is exact
        error = moduli = np.zeros(space.shape)
    return step.affine_box((lower, upper), error, moduli, pulls)


def _pull(places: NDArray[np.int64], factor: Array | float, size: int) -> Pull:
    """Return the pull of y_k = Σ_t factor_kt x[places_kt]."""

    def pull(rows: Array) -> Array:
        result = np.empty((len(rows), size))
        for number, row in enumerate(rows):
            weights = np.broadcast_to(row[:, None] * factor, places.shape)
            result[number] = np.bincount(places.ravel(), weights.ravel(), size)
        return result

    return pull


def _space(step: Step) -> _Space:
    """Read the equation. An ellipsis stands for the remaining dimensions, which broadcast as in numpy."""
    equation = step.attributes["equation"].decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    given = left.split(",")
    shapes = [step.value(slot).shape for slot in range(len(step.operands))]
    if len(given) != len(shapes):
        step.fail(f"{len(given)} terms for {len(shapes)} operands")
    counts = [len(shape) - len(term.replace("...", "")) for term, shape in zip(given, shapes, strict=True)]
    if any(count < 0 or (count and "..." not in term) for term, count in zip(given, counts, strict=True)):
        step.fail(f"the equation {equation} for shapes {shapes}", "a label for each dimension")
    labels = [term.replace("...", _HIDDEN[:count][::-1]) for term, count in zip(given, counts, strict=True)]
    ellipsis = _HIDDEN[: max(counts)][::-1]
    if arrow:
        result = right.replace("...", ellipsis)
    else:
        letters = "".join(labels)
        result = ellipsis + "".join(sorted(x for x in set(letters) - set(ellipsis) if letters.count(x) == 1))
    sizes: dict[str, int] = {}
    for term, shape in zip(labels, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1)) if size else 0
    if len(set(result)) < len(result) or not set(result) <= set(sizes):
        step.fail(f"the equation {equation}", "labels of the operands in the result, none twice")
    order = result + "".join(label for label in sizes if label not in result)
    if prod(sizes.values()) > _MOST_PRODUCTS:
        step.fail(f"it is made of {prod(sizes.values()):,} products", f"at most {_MOST_PRODUCTS:,}")
    shape = tuple(sizes[label] for label in result)
    terms = prod(sizes[label] for label in order[len(result) :])
    elements = [
        _elements(step, term, held, order, sizes).reshape(prod(shape), terms)
        for term, held in zip(labels, shapes, strict=True)
    ]
    return _Space(shape, terms, elements)


def _elements(step: Step, term: str, shape: Sequence[int], order: str, sizes: dict[str, int]) -> NDArray[np.int64]:
    """Return the flat element of an operand for each value of all labels; a dimension of 1 is repeated."""
    grids = np.indices([sizes[label] for label in order], dtype=np.int64, sparse=True)
    position = np.zeros((), np.int64)
    for label, size in zip(term, shape, strict=True):
        if size not in (1, sizes[label]):
            step.fail(f"sizes {size} and {sizes[label]} of {label}", "one size for each label, or 1")
        position = position * size + (grids[order.index(label)] if size > 1 else 0)
    return np.broadcast_to(position, [sizes[label] for label in order])
