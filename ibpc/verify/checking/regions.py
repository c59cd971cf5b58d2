"""Parts of a box of inputs, with everything else that is known of values there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ibpc.errors import IbpcError, ModelError
from ibpc.verify.checking.arithmetic import Machine
from ibpc.verify.checking.values import Array, Box, unknown, unless


class EmptyError(IbpcError):
    """A region is empty: the lower bound of a value is above the upper one."""


@dataclass(frozen=True, eq=False)
class Region:
    """A box of inputs, flat, and what else is known of values there: boxes, and cuts of single elements.

    A cut (name, element, at, side) means side · (value − at) ≥ 0 for a flat element, with side 1 or −1. `choices` are
    those of `linear_bounds` for all rows, flat.
    """

    lower: Array
    upper: Array
    known: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    cuts: tuple[tuple[str, int, float, int], ...] = ()
    choices: Mapping[str, Array] = field(default_factory=dict)
    is_empty: bool = False

    @cached_property
    def cuts_by_value(self) -> dict[str, list[tuple[int, float, int]]]:
        """The elements, numbers and sides of each value that was cut."""
        result: dict[str, list[tuple[int, float, int]]] = {}
        for name, element, at, side in self.cuts:
            result.setdefault(name, []).append((element, at, side))
        return result

    def narrowed(self, name: str, box: Box, machine: Machine) -> Box:
        """Return the box of a value intersected with what is known of it here. Raises EmptyError.

        A value that may be NaN may be on neither side of a cut: it is not narrowed.
        """
        cuts = self.cuts_by_value.get(name, ())
        if name not in self.known and not cuts:
            return box
        lower, upper = box.lower.copy(), box.upper.copy()
        if name in self.known:
            lower, upper = np.maximum(lower, self.known[name][0]), np.minimum(upper, self.known[name][1])
        for element, at, side in cuts:
            if element >= lower.size:
                raise ModelError.at("proof", f"element {element} of {name}", f"less than {lower.size}")
            end = lower if side > 0 else upper
            end.flat[element] = max(end.flat[element], at) if side > 0 else min(end.flat[element], at)
        ends = unless(unknown(box), Box(lower, upper))
        held = not_empty(name, replace(box, lower=ends.lower, upper=ends.upper))
        low, high = machine.flushed(held.lower, held.upper)
        return replace(held, lower=low, upper=high)


def not_empty(name: str, box: Box) -> Box:
    """Return the box of a value. Raises EmptyError if a lower bound is above the upper one."""
    if bool((box.lower > box.upper).any()):
        raise EmptyError.at(name, "no value is left")
    return box
