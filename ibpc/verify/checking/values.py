"""What flows along the edges of a checked file, and what every rule needs: boxes, constants, rounding, the registry.

A value is a constant or a box, both in the shape that the file gives them at batch 1. A box may know that it is an
affine function of other values; rows of a specification are pulled back through it before they are bounded.

Rounding is the standard model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., lemma 3.1 and section
3.1): whatever the order, a sum of products in which no term passes more than n roundings is off by at most γₙ times
the sum of the moduli, γₙ = n u / (1 − n u). It is applied twice: with the u of the claim's arithmetic, and with
2⁻⁵³, in which the checker itself computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from ibpc.errors import ModelError

Array: TypeAlias = NDArray[np.float64]
Pull: TypeAlias = Callable[[Array], Array]

OWN_UNIT: Final = 2.0**-53
# Roundings of the checker itself that come on top of those of a sum: in shifts, scales and the widening.
_OWN_ROUNDINGS: Final = 8
# Elementary functions of numpy and the standard library, in units of 2⁻⁵³: they are within 4 ulps.
_OWN_ELEMENTARY: Final = 16.0 * OWN_UNIT
_OWN_SMALLEST: Final = 2.0**-1000
_ELEMENTARY_ULPS: Final = 8


# The least and the greatest number of the integer types; beyond them results wrap around.
INTEGERS: Final = {
    2: (0.0, 2.0**8 - 1),
    3: (-(2.0**7), 2.0**7 - 1),
    4: (0.0, 2.0**16 - 1),
    5: (-(2.0**15), 2.0**15 - 1),
    6: (-(2.0**31), 2.0**31 - 1),
    7: (-(2.0**63), 2.0**63),
    12: (0.0, 2.0**32 - 1),
    13: (0.0, 2.0**64),
}


def is_whole(values: Array) -> bool:
    """Return whether all values are integers."""
    return bool((np.isfinite(values) & (values == np.rint(values))).all())


class Constant:
    """An array that does not depend on the inputs, in the type of the file."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return self.array.shape

    @cached_property
    def wide(self) -> Array:
        """The values in binary64."""
        return np.asarray(self.array, dtype=np.float64)

    @cached_property
    def positive(self) -> Array:
        """The positive part W⁺ = max(W, 0)."""
        return np.maximum(self.wide, 0.0)

    @cached_property
    def negative(self) -> Array:
        """The negative part W⁻ = min(W, 0)."""
        return np.minimum(self.wide, 0.0)

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are integers."""
        return is_whole(self.wide)

    @property
    def lower(self) -> Array:
        """The values, as the lower end of a box of one point."""
        return self.wide

    @property
    def upper(self) -> Array:
        """The values, as the upper end of a box of one point."""
        return self.wide

    @property
    def magnitude(self) -> Array:
        """The moduli."""
        return np.abs(self.wide)


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine function of other values: value = Σ M source + offset, off by at most `error`, flat (K,).

    Each pull takes rows C (R, K) to C M (R, n), n the size of its source.
    """

    pulls: tuple[tuple[str, Pull], ...]
    offset: Array
    error: Array


@dataclass(frozen=True, eq=False)
class Term:
    """What one source adds to planes: slope · element, each element of the value having one element of the source.

    `spread` takes rows over the value (R, K) to rows over the source (R, n), adding up. `below` and `above` are the
    slopes of the lower and the upper plane, (K,).
    """

    source: str
    spread: Pull
    below: Array
    above: Array


@dataclass(frozen=True, eq=False)
class Planes:
    """Two affine functions of other values that hold a value between them, up to `error`; all flat, (K,).

    `fan` are the least and the greatest slope of the lines through 0 below the value, NaN for elements where there is
    but one: any slope between may stand for that of the lower plane, which has a single term there and offset 0.
    """

    terms: tuple[Term, ...]
    lower: Array
    upper: Array
    error: Array
    fan: tuple[Array, Array] | None = None


@dataclass(frozen=True, eq=False)
class Box:
    """All values between `lower` and `upper`, elementwise; ends may be infinite, which bounds nothing.

    `bend` makes the planes of a value that is no affine function of others.
    """

    lower: Array
    upper: Array
    affine: Affine | None = None
    bend: Callable[[], Planes] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file at batch 1."""
        return self.lower.shape

    @cached_property
    def magnitude(self) -> Array:
        """The greatest modulus."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


Value: TypeAlias = Constant | Box


def unknown(box: Box) -> NDArray[np.bool_]:
    """Return where nothing is known, not even that a value is a number: where neither end is finite."""
    return ~(np.isfinite(box.lower) | np.isfinite(box.upper))


def unwrapped(box: Box, element_type: int) -> Box:
    """Return the box with nothing known of integers that may lie beyond those of their type."""
    if element_type not in INTEGERS:
        return box
    least, greatest = INTEGERS[element_type]
    beyond = ~((box.lower >= least) & (box.upper <= greatest))
    return replace(unless(beyond, box), affine=box.affine, bend=box.bend) if beyond.any() else box


def unless(lost: Any, box: Box) -> Box:
    """Return the box with nothing known where it is `lost`."""
    return Box(np.where(lost, -np.inf, box.lower), np.where(lost, np.inf, box.upper))


@dataclass(frozen=True)
class Machine:
    """The arithmetic of a claim: unit roundoff u, smallest normal number, and the largest number that may occur.

    Real arithmetic has neither of the first two; its largest number is that in which the checker computes.
    """

    unit: float
    smallest: float
    largest: float

    def sum_error(self, roundings: int, magnitude: Array, factor: float = 0.0) -> Array:
        """Return how far sums of products may be off in which a term passes at most `roundings` roundings.

        `magnitude` is the sum of the moduli, `factor` the largest modulus that multiplies a constant which may be
        flushed to zero. Infinite where a partial sum may overflow. The checker's own error is part of it.
        """
        if roundings * self.unit >= 0.25:
            return np.full_like(magnitude, np.inf)
        gamma = roundings * self.unit / (1.0 - roundings * self.unit)
        own = (roundings + _OWN_ROUNDINGS) * 2.0 * OWN_UNIT
        vanished = (roundings + 4) * self.smallest * (1.0 + factor) if self.smallest else 0.0
        error = (gamma + own) * magnitude + (vanished + _OWN_SMALLEST)
        return np.where(magnitude * (1.0 + 2.0 * gamma) < self.largest, error, np.inf)

    def whole_ends(self, box: Box, weight: Constant, bias: Constant, magnitude: Array) -> NDArray[np.bool_]:
        """Return where the ends of weight · box + bias are exact: sums of integers that no order of summation rounds.

        Rounding never falls, so neither do sums in a fixed order: no point of the box gets beyond the exact ends.
        """
        whole = weight.is_whole and bias.is_whole and is_whole(box.lower) and is_whole(box.upper)
        return whole & (magnitude <= (1.0 / self.unit if self.unit else 1.0 / OWN_UNIT))

    def flushed(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return the ends with 0 between them where numbers may be flushed to it."""
        low = np.where((lower > 0) & (lower < self.smallest), 0.0, lower)
        return low, np.where((upper < 0) & (upper > -self.smallest), 0.0, upper)

    def settled(self, box: Box) -> Box:
        """Return the box as later nodes may use it: with what overflow, flushing to zero and NaN can make of it."""
        lower = np.where((box.lower >= -self.largest) & (box.lower <= self.largest), box.lower, -np.inf)
        upper = np.where((box.upper <= self.largest) & (box.upper >= -self.largest), box.upper, np.inf)
        unknown = np.isnan(box.lower) | np.isnan(box.upper)
        lower, upper = self.flushed(np.where(unknown, -np.inf, lower), np.where(unknown, np.inf, upper))
        if box.affine is None:
            return Box(lower, upper, bend=box.bend)
        bounded = (np.isfinite(lower) & np.isfinite(upper)).ravel()
        error = np.where(bounded & ~np.isnan(box.affine.error), box.affine.error, np.inf)
        return Box(lower, upper, Affine(box.affine.pulls, box.affine.offset, error))


MACHINES: Final = {
    "real": Machine(0.0, 0.0, float(np.finfo(np.float64).max)),
    "float32": Machine(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
}


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the file at its operands. `memory` outlives the step: what depends on constants and shapes only."""

    node: onnx.NodeProto
    version: int
    names: tuple[str, ...]
    operands: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    machine: Machine
    element_type: int
    evaluate: Callable[[Sequence[NDArray[Any] | None]], list[NDArray[Any]]]
    memory: dict[str, Any]

    def has(self, slot: int) -> bool:
        """Whether there is an operand in the slot."""
        return slot < len(self.operands) and self.operands[slot] is not None

    def value(self, slot: int) -> Value:
        """Return the operand in a slot."""
        found = self.operands[slot] if slot < len(self.operands) else None
        if found is None:
            self.fail(f"no input {slot + 1}", "one")
        return found

    def box(self, slot: int) -> Box:
        """Return an operand as a box; a constant is one of a single point."""
        found = self.value(slot)
        return found if isinstance(found, Box) else Box(*self.machine.flushed(found.wide, found.wide))

    def constant(self, slot: int) -> Constant:
        """Return an operand that has to be constant. Raises ModelError if it is computed from the inputs."""
        found = self.value(slot)
        if isinstance(found, Box):
            self.fail(f"its input {self.names[slot]} depends on the network's inputs", "a constant")
        return found

    def integers(self, slot: int, attribute: str) -> list[int] | None:
        """Return integers that are an attribute in early versions of the type and an operand in later ones."""
        if self.has(slot):
            return [int(number) for number in self.constant(slot).array.ravel()]
        found = self.attributes.get(attribute)
        return None if found is None else [int(number) for number in np.atleast_1d(found)]

    def require_floats(self) -> None:
        """Raise ModelError unless the node computes in floating numbers: on integers its quotients are others."""
        if self.element_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            self.fail("it computes in integers, or its element type is not known", "floats of 32 or 64 bits")

    def fail(self, found: str, expected: str = "") -> NoReturn:
        """Raise ModelError about this node."""
        where = f"node {self.node.name or self.node.output[0]} ({self.node.op_type} of version {self.version})"
        raise ModelError.at(where, f"the checker cannot bound it: {found}", expected)

    # ── what rules return ───────────────────────────────────────────────────────────────────────────────────────
    def affine_box(
        self,
        ends: tuple[Array, Array],
        error: Array,
        moduli: Array,
        pulls: Sequence[tuple[str, Pull]] = (),
        offset: Array | float = 0.0,
        exact: NDArray[np.bool_] | bool = False,
    ) -> Box:
        """Return the box of an affine function with the ends as computed, moved apart by `error` unless they are exact.

        With `pulls` and `offset` the box stays an affine function; a pull sums over all outputs, and rounds: `moduli`,
        the sum of the moduli of all terms, is what that is relative to.
        """
        apart = np.where(exact, 0.0, error)
        lower, upper = ends[0] - apart, ends[1] + apart
        if not pulls:
            return Box(lower, upper)
        pulled = error + (lower.size + _OWN_ROUNDINGS) * 2.0 * OWN_UNIT * moduli
        flat = np.broadcast_to(offset, lower.shape).ravel()
        affine = Affine(tuple(pulls), flat, np.broadcast_to(pulled, lower.shape).ravel())
        return Box(lower, upper, affine)

    def near(self, lower: Array, upper: Array, ulps: int = _ELEMENTARY_ULPS, absolute: float = 0.0) -> Box:
        """Return the box of a function that the file's execution misses by `ulps` and `absolute` u at most.

        A unit of the last place is at most 2u of the value.
        """
        relative = 2.0 * ulps * self.machine.unit + _OWN_ELEMENTARY
        least = absolute * (self.machine.unit + _OWN_ELEMENTARY) + 4.0 * self.machine.smallest
        return Box(lower - (np.abs(lower) * relative + least), upper + (np.abs(upper) * relative + least))


Rule: TypeAlias = Callable[[Step], "Value | Sequence[Value]"]
RULES: Final[dict[str, Rule]] = {}


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Register the rule of ONNX types: bounds of a node's outputs from those of its operands."""

    def register(function: Rule) -> Rule:
        for type in types:
            if type in RULES:
                raise AssertionError(f"bug in ibpc: two rules for {type}")
            RULES[type] = function
        return function

    return register


def careful(function: Callable[[Step], Box]) -> Callable[[Step], Box]:
    """Let an elementwise rule know nothing where an operand may be no number: what saturates would hide that.

    max(NaN, 0) is not 0 in every execution, and 1 / (1 + e⁻ˣ) is NaN.
    """

    @wraps(function)
    def known(step: Step) -> Box:
        found, lost = function(step), np.zeros((), bool)
        for slot in range(len(step.operands)):
            if step.has(slot):
                lost = lost | unknown(step.box(slot))
        return unless(lost, found) if lost.any() else found

    return known


def scatter(indices: NDArray[np.int64], positions: NDArray[np.int64], size: int) -> Pull:
    """Return the pull of value[positions] = source[indices]: rows are added up where an element was copied."""
    unique = len(np.unique(indices)) == len(indices)

    def pull(rows: Array) -> Array:
        taken = rows[:, positions]
        result = np.zeros((len(rows), size))
        if unique:
            result[:, indices] = taken
        else:
            np.add.at(result.T, indices, taken.T)
        return result

    return pull


def broadcast_pull(shape: tuple[int, ...], output: tuple[int, ...], scale: Array | float = 1.0) -> Pull:
    """Return the pull of value = scale · source, the source of `shape` broadcast to `output`."""
    size = int(np.prod(shape))
    indices = np.broadcast_to(np.arange(size).reshape(shape), output).ravel()
    gather = scatter(indices, np.arange(len(indices)), size)
    factors = np.broadcast_to(scale, output).ravel()
    return lambda rows: gather(rows * factors)
