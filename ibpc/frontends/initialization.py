"""Fresh parameters: what a weight and a bias are before training.

`fan_in` is the number of products that one output sums as torch counts them: prod(weight.shape[1:]).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, prod, sqrt
from typing import Final, TypeAlias

import torch

from ibpc.errors import UsageError, nearest
from ibpc.ir import Graph, Node, Shape
from ibpc.ops import operators
from ibpc.ops.base import Fill, Operator

Scheme: TypeAlias = Callable[[Fill, Shape, int, torch.Generator], torch.Tensor]


def pytorch(fill: Fill, shape: Shape, fan_in: int, generator: torch.Generator) -> torch.Tensor:
    """Weight and bias uniform in ±1/√fan_in: the defaults of torch.nn (He et al. 2015, with a = √5)."""
    bound = 1.0 / sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def ibp(fill: Fill, shape: Shape, fan_in: int, generator: torch.Generator) -> torch.Tensor:
    """Weight normal with mean 0 and deviation √(2π)/fan_in, bias 0.

    The box then neither shrinks nor explodes through a layer and its ReLU: the expected gain of its radius,
    fan_in · E|w| / 2, is 1 (Shi et al. 2021, arXiv 2103.17268, section 3.1).
    """
    if fill is Fill.BIAS:
        return torch.zeros(shape)
    return torch.empty(shape).normal_(0.0, sqrt(2.0 * pi) / fan_in, generator=generator)


def orthogonal(fill: Fill, shape: Shape, fan_in: int, generator: torch.Generator) -> torch.Tensor:
    """Weight with orthonormal rows, or columns where there are more rows, as a matrix shape[0] × fan_in; bias 0.

    (Saxe et al. 2014, arXiv 1312.6120, gain 1.)
    """
    if fill is Fill.BIAS:
        return torch.zeros(shape)
    matrix = torch.empty(shape[0], fan_in)
    torch.nn.init.orthogonal_(matrix, generator=generator)
    return matrix.reshape(shape)


SCHEMES: Final[Mapping[str, Scheme]] = {"pytorch": pytorch, "ibp": ibp, "orthogonal": orthogonal}

_CONSTANTS: Final = {Fill.ZEROS: 0.0, Fill.ONES: 1.0, Fill.QUARTER: 0.25}


def generator_of(seed: int) -> torch.Generator:
    """Return a generator that starts from `seed`. Raises UsageError unless 0 ≤ seed < 2⁶³."""
    if not 0 <= seed < 2**63:
        raise UsageError.at("seed", f"found {seed}", "an integer from 0 to 2⁶³ − 1")
    return torch.Generator().manual_seed(seed)


def fresh_state(
    node: Node, shapes: Mapping[str, Shape], scheme: str, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return the node's parameters of the given `shapes`, float32, drawn in the order of the operator's roles.

    A weight under the constraint "nonnegative" starts as its absolute value.
    """
    operator = operators()[node.operator]
    fan_in = _fan_in(operator, shapes)
    state = {}
    for role in operator.roles:
        if role.name not in shapes:
            continue
        if role.fill in _CONSTANTS:
            state[role.name] = torch.full(shapes[role.name], _CONSTANTS[role.fill])
            continue
        value = SCHEMES[scheme](role.fill, shapes[role.name], fan_in, generator)
        restrained = role.fill is Fill.WEIGHT and "nonnegative" in node.constraints
        state[role.name] = value.abs() if restrained else value
    return state


def initialize(graph: Graph, scheme: str, seed: int) -> Graph:
    """Return a copy of the graph with every weight and bias drawn anew; all other state stays.

    Do this before any pass folds a neighbour (a normalization, say) into a weight: what was folded is lost. A graph
    that was built with the same scheme and seed comes out equal. Raises UsageError for an unknown scheme or an
    impossible seed.
    """
    if scheme not in SCHEMES:
        raise UsageError.at("initialization", f"unknown scheme {scheme!r}", remedy=nearest(scheme, SCHEMES))
    generator = generator_of(seed)
    renewed = graph.copy()
    for node in graph.order():
        drawn = fresh_state(node, _drawn_shapes(graph, node), scheme, generator)
        values = {f"{node.name}.{role}": value for role, value in drawn.items()}
        renewed.state.update((key, value) for key, value in values.items() if key in graph.state)
        if drawn:
            stale = f"{node.name}.bias_magnitude"
            renewed.state.pop(stale, None)
            renewed.ties.pop(stale, None)
    return renewed


def _drawn_shapes(graph: Graph, node: Node) -> dict[str, Shape]:
    drawn = {role.name for role in operators()[node.operator].roles if role.fill in (Fill.WEIGHT, Fill.BIAS)}
    return {role: tuple(value.shape) for role, value in graph.parameters_of(node.name).items() if role in drawn}


def _fan_in(operator: Operator, shapes: Mapping[str, Shape]) -> int:
    weights = [shapes[role.name] for role in operator.roles if role.fill is Fill.WEIGHT and role.name in shapes]
    return prod(weights[0][1:]) if weights else 1
