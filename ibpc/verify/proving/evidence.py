"""What evidence is made of: choices of planes, lines of rectifiers and multipliers, taken from tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch

from ibpc.bounds.backward import plain_planes
from ibpc.bounds.values import Step, Values, Walk
from ibpc.interval import Interval
from ibpc.verify.checking.backward import most_tightened
from ibpc.verify.checking.proofs import encoded

Tensor: TypeAlias = torch.Tensor

_RECTIFIERS: Final = ("Relu", "LeakyRelu")


def packed(choices: Mapping[str, Tensor], form: int, part: int) -> dict[str, str]:
    """Return the choices (R, B, …) of one form and part, encoded."""
    return {name: encoded(value[form, part].flatten().cpu().numpy()) for name, value in choices.items()}


@dataclass(frozen=True)
class Half:
    """What a cut says on one of its sides: side · (element of value − at) ≥ 0, with side 1 or −1."""

    value: str
    element: int
    at: float
    side: int


def multipliers_of(halves: Sequence[Half], found: Mapping[str, Tensor], form: int, part: int) -> tuple[float, ...]:
    """Return the multipliers (R, B, *shape) of one form and part by the cuts that they stand for.

    Of several cuts of an element on the same side the last is the nearest end.
    """
    last = {(half.value, half.element, half.side): number for number, half in enumerate(halves)}
    result = [0.0] * len(halves)
    for (name, element, side), number in last.items():
        result[number] = max(0.0, side * float(found[name][form, part].flatten()[element]))
    return tuple(result)


def is_replayed(walk: Walk, values: Values) -> bool:
    """Return whether the checker bounds all that tightening bounds by planes, over a box with these interval bounds.

    In larger networks it bounds the widest elements alone, which may not be enough: a proof would be no proof.
    """
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
    """Return how many elements of an operand the checker would bound."""
    loose = (box.lower < 0) & (box.upper > 0) if step.node.operator in _RECTIFIERS else box.lower < box.upper
    return int(loose[0].sum())


def lines_of(walk: Walk, values: Values) -> dict[str, Tensor]:
    """Return for rectifiers whether their lower planes are those of slope 1, (B, *shape).

    Which of the two a box gets depends on the box: a smaller one may get the other, and a looser bound.
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
