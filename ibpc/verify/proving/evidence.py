"""The contents of evidence, packed from tensors: choices of planes, lower lines of rectifiers, and multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import Step, Values, Walk, is_linear_here
from ibpc.interval import Interval
from ibpc.ops.rules import Operand
from ibpc.verify.checking.backward import most_tightened
from ibpc.verify.checking.planes import PLANES
from ibpc.verify.checking.proofs import encoded

_RECTIFIERS: Final = ("Relu", "LeakyRelu")


def packed(choices: Mapping[str, Tensor], form: int, part: int) -> dict[str, str]:
    """Return the choices (R, B, …) of one form and part, encoded."""
    return {name: encoded(value[form, part].flatten().cpu().numpy()) for name, value in choices.items()}


@dataclass(frozen=True)
class Half:
    """One side of a cut: side · (element of value − at) ≥ 0, with side 1 or −1."""

    value: str
    element: int
    at: float
    side: int


def multipliers_of(halves: Sequence[Half], found: Mapping[str, Tensor], form: int, part: int) -> tuple[float, ...]:
    """Return the multiplier of each cut, for one form and part of multipliers (R, B, *shape).

    Of several cuts of an element on the same side only the last, which is the tightest, gets one.
    """
    last = {(half.value, half.element, half.side): number for number, half in enumerate(halves)}
    result = [0.0] * len(halves)
    for (name, element, side), number in last.items():
        result[number] = max(0.0, side * float(found[name][form, part].flatten()[element]))
    return tuple(result)


def is_replayed(walk: Walk, values: Values) -> bool:
    """Return whether the checker's planes and boxes are those of a proof by tightened boxes, given interval bounds.

    In larger networks it tightens only the widest elements, which may not be enough to confirm the proof.
    """
    return has_planes(walk, values) and _is_tightened(walk, values)


def has_planes(walk: Walk, values: Values) -> bool:
    """Return whether the checker has planes where those of an operator are more than constant bounds."""
    return not any(
        name in walk.perturbed and _lacks_planes(step, tuple(values.known[operand] for operand in step.operands))
        for name, step in walk.steps.items()
    )


def _lacks_planes(step: Step, operands: tuple[Operand, ...]) -> bool:
    """Return whether the checker has only constant bounds for an operator that has better planes here."""
    if step.operator.is_affine or is_linear_here(step, operands):
        return False
    if all(reading.type in PLANES for reading in step.operator.reads):
        return False
    found = plain_planes(step, operands)
    return any(bool((slope != 0).any()) for plane in (found.lower, found.upper) for slope in plane.slopes)


def _is_tightened(walk: Walk, values: Values) -> bool:
    """Return whether the checker tightens all the elements that tightening does."""
    before = sum(values.box(name).lower[0].numel() for name in walk.inputs)
    for name, step in walk.steps.items():
        if name not in walk.perturbed:
            continue
        computed = set() if step.operator.is_affine else set(step.operands) & walk.steps.keys() & walk.perturbed
        if any(_loose(values.box(operand), step) > most_tightened(before) for operand in computed):
            return False
        before += values.box(name).lower[0].numel()
    return True


def _loose(box: Interval, step: Step) -> int:
    """Return how many elements of an operand the checker would tighten."""
    loose = (box.lower < 0) & (box.upper > 0) if step.node.operator in _RECTIFIERS else box.lower < box.upper
    return int(loose[0].sum())


def lines_of(walk: Walk, values: Values) -> dict[str, Tensor]:
    """Return for each rectifier whether its lower plane has slope 1, (B, *shape).

    The choice depends on the box: a smaller box may get the other line, and a looser bound.
    """
    result = {}
    for name, step in walk.steps.items():
        operands = tuple(values.known[operand] for operand in step.operands)
        if step.node.operator in _RECTIFIERS and isinstance(operands[0], Interval):
            result[name] = (plain_planes(step, operands).lower.slopes[0] == 1.0).double()
    return result


def packed_lines(lines: Mapping[str, Tensor], part: int) -> dict[str, str]:
    """Return the lines (B, …) of one part, encoded."""
    return packed({name: line[None] for name, line in lines.items()}, 0, part)
