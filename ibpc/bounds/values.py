"""Boxes of all values of a network in binary64, and the rounding error of one binary32 execution in each of them.

Linear bounds are about real numbers. A network in binary32 computes y + e instead of y = f(x), with |e| ≤ E over the
box, so a linear form a·y loses |a|·E: that is all it takes to make linear bounds hold for every binary32 execution. E
is how much wider the interval rule is in binary32 than in real arithmetic, at the wider of the two ends: the rules
widen by at least the greatest error at any point of the box (`ibpc.rounding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Final, Protocol

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import INPUT, Graph, Node
from ibpc.ops import operators
from ibpc.ops.base import Operator
from ibpc.ops.rules import BilinearRules, Call, Operand, call_of
from ibpc.passes import EVALUATION, JoinOutputs
from ibpc.rounding import LARGEST, UNIT, WIDE_UNIT, Arithmetic, toward

# Linear bounds subtract this many times E, to make up for cancellation in binary64.
WIDENED: Final = 1.0 + 2.0**-8
# Where forms are pushed forward, binary64 rounding costs at most this factor times the moduli that enter a value.
SLACK: Final = 2.0**-40
_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """One node with everything independent of the box: its operator, call, operands and parameters."""

    node: Node
    operator: Operator
    call: Call
    operands: tuple[str, ...]
    parameters: Mapping[str, Tensor]


def is_linear_here(step: Step, operands: tuple[Operand, ...]) -> bool:
    """Return whether the operator is linear in each operand and only one of them is a box."""
    boxes = sum(isinstance(x, Interval) for x in operands)
    return isinstance(step.operator.rules, BilinearRules) and boxes == 1


class Steps(Protocol):
    """The nodes that forms are pulled back through, in order, and the inputs where they end."""

    @property
    def steps(self) -> Mapping[str, Step]:
        """The steps by node, operands first."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs."""
        ...

    @property
    def constants(self) -> dict[str, Tensor | None]:
        """The constants of affine nodes that are known already; they depend on the parameters alone."""
        ...


class Walk:
    """The nodes of an evaluation graph in order, with binary64 parameters on a device."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.inputs = graph.inputs
        self.perturbed = graph.descendants(graph.inputs)
        self.constants: dict[str, Tensor | None] = {}

    @cached_property
    def steps(self) -> dict[str, Step]:
        """The steps by node, operands first."""
        graph, device = self.graph, self.device
        return {node.name: self._step(graph, node, device) for node in graph.order() if node.operator != INPUT}

    @cached_property
    def largest(self) -> int:
        """The number of elements of the largest value that depends on an input."""
        return max((prod(node.shape[1:]) for node in self.graph.order() if node.name in self.perturbed), default=1)

    @cached_property
    def rough(self) -> Walk:
        """The same walk with binary32 parameters, for choices that need no guarantee."""
        rough = copy(self)
        rough.constants = {}
        rough.steps = {
            name: replace(step, parameters={role: _rough(value) for role, value in step.parameters.items()})
            for name, step in self.steps.items()
        }
        return rough

    def _step(self, graph: Graph, node: Node, device: torch.device) -> Step:
        parameters = {
            role: value.double() if value.is_floating_point() else value
            for role, value in _parameters(graph, node.name, device).items()
        }
        call = call_of(graph, node, Arithmetic.REAL)
        return Step(node, operators()[node.operator], call, graph.operands(node.name), parameters)


def walk_of(graph: Graph, device: torch.device = _CPU) -> Walk:
    """Return the walk over a network (a snapshot with its weights), made ready for bounding."""
    return Walk(evaluated(graph), device)


def evaluated(graph: Graph) -> Graph:
    """Return the evaluation graph of a network: BatchNormalization folded, its outputs joined into one row."""
    folded, _ = EVALUATION.run(graph)
    return JoinOutputs().run(folded).graph


def _parameters(graph: Graph, name: str, device: torch.device) -> dict[str, Tensor]:
    return {role: torch.as_tensor(value).detach().to(device) for role, value in graph.parameters_of(name).items()}


def _rough(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


@dataclass
class Values:
    """Each node over one batch of boxes: its box or exact value, and its error E (None where that is 0)."""

    known: dict[str, Operand]
    errors: dict[str, Tensor | None]

    def box(self, name: str) -> Interval:
        """Return the box of a node that depends on an input."""
        value = self.known[name]
        assert isinstance(value, Interval)
        return value

    def rough(self) -> Values:
        """Return the values in binary32 without rounding errors, for choices that need no guarantee."""
        known = {
            name: value.map(_rough) if isinstance(value, Interval) else _rough(value)
            for name, value in self.known.items()
        }
        return Values(known, dict.fromkeys(self.errors))

    def tighten(self, name: str, lower: Tensor, upper: Tensor) -> None:
        """Intersect the box of a node with other bounds; NaN counts as no bound."""
        box = self.box(name)
        low = torch.where(lower > box.lower, lower, box.lower)
        high = torch.where(upper < box.upper, upper, box.upper)
        self.known[name] = Interval.bounds(low, torch.maximum(low, high))


def flat(x: Tensor) -> Tensor:
    """Return a batch (B, *shape) flattened to (B, n), also where each sample is a scalar (B,)."""
    return x.reshape(len(x), prod(x.shape[1:]))


def start(walk: Walk, boxes: tuple[Interval, ...]) -> Values:
    """Return the values of the inputs, in binary64."""
    ends = [box.map(torch.Tensor.double) for box in boxes]
    return Values(dict(zip(walk.inputs, ends, strict=True)), dict.fromkeys(walk.inputs))


def advance(values: Values, step: Step, arithmetic: Arithmetic) -> None:
    """Add a node's box, by its interval rule, and its rounding error to the values."""
    name = step.node.name
    operands = [values.known[operand] for operand in step.operands]
    if not any(isinstance(operand, Interval) for operand in operands):
        exact = step.operator.rules.nominal(step.call, *operands, **step.parameters)
        values.known[name], values.errors[name] = exact, None
        return
    real = step.operator.rules.interval(step.call, *operands, **step.parameters)
    if arithmetic is Arithmetic.REAL:
        values.known[name], values.errors[name] = Interval.bounds(real.lower, real.upper), None
        return
    call = replace(step.call, arithmetic=Arithmetic.FLOAT32, unit=WIDE_UNIT)
    widened = step.operator.rules.interval(call, *operands, **step.parameters)
    error = torch.maximum(real.lower - widened.lower, widened.upper - real.upper)
    if _may_leave_inside(step.operator):
        error = error.masked_fill(~_stays_inside(step, operands), torch.inf)
    values.known[name], values.errors[name] = _in_range(widened, error)


def _may_leave_inside(operator: Operator) -> bool:
    """Return whether a step of the operator's evaluation may overflow although its result does not.

    Not in sums, nor in piecewise linear functions. BatchNormalization may, because it divides its parameters.
    """
    return (operator.rules.scaling is not None) if operator.is_affine else operator.rules.kinks is None


def _stays_inside(step: Step, operands: list[Operand]) -> Tensor:
    """Return where the interval rule run in binary32 is finite: there no intermediate number overflows.

    Run in binary64 it would hide, for instance, that a square overflows binary32 though its root does not.
    """
    call = replace(step.call, arithmetic=Arithmetic.FLOAT32)
    narrow = [_outward(x) if isinstance(x, Interval) else _rough(x) for x in operands]
    box = step.operator.rules.interval(call, *narrow, **{role: _rough(x) for role, x in step.parameters.items()})
    return box.lower.isfinite() & box.upper.isfinite()


def _outward(box: Interval) -> Interval:
    """Return the least binary32 box that contains one in binary64."""
    return Interval.bounds(toward(box.lower, -torch.inf), toward(box.upper, torch.inf))


def _in_range(box: Interval, error: Tensor) -> tuple[Interval, Tensor | None]:
    """Return box and error, both infinite where a value or a partial sum may leave the range of binary32."""
    lower, upper = box.lower, box.upper
    inside = (error / UNIT <= LARGEST) & (lower >= -LARGEST) & (upper <= LARGEST)
    infinite = torch.full_like(lower, torch.inf)
    held = Interval.bounds(torch.where(inside, lower, -infinite), torch.where(inside, upper, infinite))
    errors = torch.where(inside, error.clamp(min=0.0), infinite)
    return held, errors if bool((errors > 0).any()) else None
