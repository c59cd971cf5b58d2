"""The registry of planes, and the last step of all rules: from the planes that a rule sketches to sound ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ibpc.verify.checking.arithmetic import MACHINES, OWN_UNIT
from ibpc.verify.checking.rules import RULES, Step
from ibpc.verify.checking.values import Array, Box, Planes, Pull, Term, unwrapped

Function: TypeAlias = Callable[[Array], NDArray[Any]]
Pair: TypeAlias = tuple[Array, Array]
# Slopes of each part and offsets, each below and above, (R, K), from choices (R, 2, K).
Tune: TypeAlias = Callable[[Array], tuple[Sequence[Pair], Pair]]

# Bisection steps in the search for a point with a given slope.
BISECTIONS: Final = 30
# Roundings in the planes themselves: some tens of operations on slopes, ends and values.
_OWN_ROUNDINGS: Final = 64.0
_OWN_SMALLEST: Final = 2.0**-1000


@dataclass(frozen=True, eq=False)
class Part:
    """One operand's part of planes: slopes below and above, its greatest moduli, all (K,), and how rows spread.

    `copies` is the number of results that read one element of the operand. Slopes of tuned planes are within ±
    `steepest`.
    """

    slot: int
    spread: Pull
    below: Array
    above: Array
    magnitude: Array
    copies: int = 1
    steepest: Array | float = 0.0


@dataclass(frozen=True, eq=False)
class Sketch:
    """Planes without an allowance for rounding: parts, offsets (K,), and the fan of `Planes`.

    Tuned planes stay within twice the size of the function and of the steepest slopes over the box.
    """

    parts: Sequence[Part]
    lower: Array
    upper: Array
    fan: Pair | None = None
    tune: Tune | None = None


PlaneRule: TypeAlias = Callable[[Step], Sketch]
PLANES: Final[dict[str, PlaneRule]] = {}


def planes(*types: str) -> Callable[[PlaneRule], PlaneRule]:
    """Register the planes of ONNX types."""

    def register(function: PlaneRule) -> PlaneRule:
        for type in types:
            if type in PLANES:
                raise AssertionError(f"bug in ibpc: two planes for {type}")
            PLANES[type] = function
        return function

    return register


def bent(step: Step, box: Box) -> Planes:
    """Return the planes of a node over its operands' boxes; `box` is the result of its type's interval rule."""
    sketch, ends = PLANES[step.node.op_type](step), (box.lower.ravel(), box.upper.ravel())
    numbers = [sketch.lower, sketch.upper]
    for part in sketch.parts:
        numbers += [part.below, part.above, part.magnitude]
    sound = np.logical_and.reduce([np.isfinite(number) for number in numbers])
    lower, upper = (np.where(sound, own, end) for own, end in zip((sketch.lower, sketch.upper), ends, strict=True))
    terms = [
        Term(step.names[p.slot], p.spread, np.where(sound, p.below, 0.0), np.where(sound, p.above, 0.0))
        for p in sketch.parts
    ]
    moduli = 3.0 * np.maximum(np.abs(ends[0]), np.abs(ends[1])) + np.abs(lower) + np.abs(upper)
    for part in sketch.parts:
        steepest = np.maximum(np.maximum(np.abs(part.below), np.abs(part.above)), 3.0 * np.asarray(part.steepest))
        moduli = moduli + np.where(sound, (1.0 + steepest) * part.magnitude * part.copies, 0.0)
    error = _execution_error(step, box).ravel() + _OWN_ROUNDINGS * OWN_UNIT * moduli + _OWN_SMALLEST
    error = np.where(_stays_in_range(step, box).ravel(), error, np.inf)
    fan = None
    if sketch.fan is not None:
        least, most = (np.where(sound, slope, np.nan) for slope in sketch.fan)
        fan = least, most
    found = Planes(tuple(terms), lower, upper, np.where(np.isfinite(error), error, np.inf), fan)
    return found if sketch.tune is None else replace(found, tune=partial(_tuned, sketch.tune, found, ends))


def _tuned(tune: Tune, plain: Planes, ends: Pair, choices: Array) -> Planes:
    """Return planes tuned by choices, or constant bounds where one of their numbers is not finite."""
    slopes, offsets = tune(choices)
    numbers = [*offsets, *(side for pair in slopes for side in pair)]
    sound = np.logical_and.reduce([np.isfinite(number) for number in numbers])
    lower, upper = (np.where(sound, offset, end) for offset, end in zip(offsets, ends, strict=True))
    terms = tuple(
        replace(term, below=np.where(sound, below, 0.0), above=np.where(sound, above, 0.0))
        for term, (below, above) in zip(plain.terms, slopes, strict=True)
    )
    return replace(plain, terms=terms, lower=lower, upper=upper, tune=None)


def _stays_in_range(step: Step, box: Box) -> NDArray[np.bool_]:
    """Return where an execution neither overflows nor wraps around; elsewhere it need not follow the function."""
    kept = step.machine.settled(unwrapped(box, step.element_type))
    return np.isfinite(kept.lower) & np.isfinite(kept.upper)


def _execution_error(step: Step, box: Box) -> Array:
    """Return the greatest error of an execution against the real function, anywhere in the box."""
    if not step.machine.unit:
        return np.zeros(box.shape)
    real = RULES[step.node.op_type](replace(step, machine=MACHINES["real"]))
    assert isinstance(real, Box)
    apart = np.maximum(real.lower - box.lower, box.upper - real.upper)
    return np.maximum(apart, 0.0) + 2.0 * step.machine.smallest


# ── functions of one operand ────────────────────────────────────────────────────────────────────────────────────
def unary(x: Box, slopes: Pair, offsets: Pair, fan: Pair | None = None) -> Sketch:
    """Return planes over the first operand x: slopes and offsets below and above, elementwise."""
    below, above, lower, upper = (np.broadcast_to(side, x.shape).ravel() for side in (*slopes, *offsets))
    part = Part(0, lambda rows: rows, below, above, x.magnitude.ravel())
    return Sketch([part], lower, upper, fan)


def touching(x: Box, function: Function, slopes: Pair, points: Sequence[Array], fan: Pair | None = None) -> Sketch:
    """Return planes with two slopes; function − line must be extreme over the box at one of the points."""
    below, above = slopes
    lower = np.minimum.reduce([function(point) - below * point for point in points])
    upper = np.maximum.reduce([function(point) - above * point for point in points])
    return unary(x, slopes, (lower, upper), fan)


def chord(x: Box, low: Array, high: Array, otherwise: Array | float) -> Array:
    """Return the slope from (l, low) to (u, high), `otherwise` if the box is a point."""
    width = x.upper - x.lower
    return np.asarray(np.where(width > 0, (high - low) / np.where(width > 0, width, 1.0), otherwise))
