"""Rules: bounds of a node's outputs from those of its operands, one for each ONNX type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from ibpc.errors import ModelError
from ibpc.verify.checking.arithmetic import OWN_ROUNDINGS, OWN_UNIT, Machine
from ibpc.verify.checking.evaluator import confirm
from ibpc.verify.checking.values import Affine, Array, Box, Constant, Pull, Value, unknown, unless

# The relative error of elementary functions of numpy and the standard library, which are within 4 ulps.
_OWN_ELEMENTARY: Final = 16.0 * OWN_UNIT
_ELEMENTARY_ULPS: Final = 8


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the file with its operands. `memory` outlives the step: it holds only what constants determine."""

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
        """Return whether there is an operand in the slot."""
        return slot < len(self.operands) and self.operands[slot] is not None

    def value(self, slot: int) -> Value:
        """Return the operand in a slot."""
        found = self.operands[slot] if slot < len(self.operands) else None
        if found is None:
            self.fail(f"no input {slot + 1}", "one")
        return found

    def box(self, slot: int) -> Box:
        """Return an operand as a box; a constant becomes a single point."""
        found = self.value(slot)
        return found if isinstance(found, Box) else Box(*self.machine.flushed(found.wide, found.wide))

    def constant(self, slot: int) -> Constant:
        """Return an operand that must be constant. Raises ModelError if it is computed from the inputs."""
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

    def copies(self, arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        """Return what the node, which only copies, makes of arrays. Raises ModelError where its evaluators differ."""
        results = self.evaluate(arrays)
        confirm(self.node, self.version, arrays, results)
        return results

    def require_floats(self) -> None:
        """Raise ModelError unless the node computes in floats: quotients of integers differ."""
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
        """Return the box of an affine function with the computed ends, moved apart by `error` unless they are exact.

        With `pulls` and `offset` the box stays an affine function; a pull sums over all outputs, and its rounding is
        relative to `moduli`, the sum of the moduli of all terms.
        """
        apart = np.where(exact, 0.0, error)
        lower, upper = ends[0] - apart, ends[1] + apart
        if not pulls:
            return Box(lower, upper)
        pulled = error + (lower.size + OWN_ROUNDINGS) * 2.0 * OWN_UNIT * moduli
        flat = np.broadcast_to(offset, lower.shape).ravel()
        affine = Affine(tuple(pulls), flat, np.broadcast_to(pulled, lower.shape).ravel())
        return Box(lower, upper, affine)

    def near(self, lower: Array, upper: Array, ulps: int = _ELEMENTARY_ULPS, absolute: float = 0.0) -> Box:
        """Return the box of a function whose error in an execution is at most `ulps` plus `absolute` u.

        An ulp is at most 2u times the value.
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
    """Let an elementwise rule return no bounds where an operand may be NaN, which saturation would hide.

    max(NaN, 0) is not 0 in every execution, and the sigmoid of NaN is NaN.
    """

    @wraps(function)
    def known(step: Step) -> Box:
        found, lost = function(step), np.zeros((), bool)
        for slot in range(len(step.operands)):
            if step.has(slot):
                lost = lost | unknown(step.box(slot))
        return unless(lost, found) if lost.any() else found

    return known
