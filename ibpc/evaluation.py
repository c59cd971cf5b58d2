"""A graph evaluated node by node, without lowering it: nominal values, and bounds of what executions may compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import INPUT, Graph
from ibpc.ops import operators
from ibpc.ops.rules import Operand, call_of
from ibpc.rounding import LARGEST, WIDE_UNIT, Arithmetic


def evaluate(graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the value of every node at a batch of inputs, by the nominal rules of the operators."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    with torch.no_grad():
        for node in graph.order():
            if node.operator == INPUT:
                continue
            operands = [values[name] for name in graph.operands(node.name)]
            parameters = {role: torch.as_tensor(array) for role, array in graph.parameters_of(node.name).items()}
            rule = operators()[node.operator].rules.nominal
            values[node.name] = rule(call_of(graph, node), *operands, **parameters)
    return values


def enclose(graph: Graph, inputs: Sequence[Tensor]) -> list[Interval]:
    """Return bounds of the outputs at a batch of points for every binary32 execution, computed in binary64."""
    values: dict[str, Operand] = {
        name: Interval.point(x.double()) for name, x in zip(graph.inputs, inputs, strict=True)
    }
    with torch.no_grad():
        for node in graph.order():
            if node.operator == INPUT:
                continue
            operands = [values[name] for name in graph.operands(node.name)]
            parameters = {role: _widely(array) for role, array in graph.parameters_of(node.name).items()}
            rules = operators()[node.operator].rules
            call = replace(call_of(graph, node, Arithmetic.FLOAT32), unit=WIDE_UNIT)
            is_boxed = any(isinstance(operand, Interval) for operand in operands)
            rule = rules.interval if is_boxed else rules.nominal
            values[node.name] = _in_range(rule(call, *operands, **parameters))
    found = [values[name] for name in graph.outputs]
    return [x if isinstance(x, Interval) else Interval.point(x) for x in found]


def _in_range(x: Operand) -> Operand:
    """Return bounds, infinite ones for what may be beyond binary32."""
    if not isinstance(x, Interval):
        return x
    is_inside = (x.lower >= -LARGEST) & (x.upper <= LARGEST)
    return Interval.bounds(
        torch.where(is_inside, x.lower, -torch.inf),
        torch.where(is_inside, x.upper, torch.inf),
    )


def _widely(array: Any) -> Tensor:
    tensor = torch.as_tensor(array)
    return tensor.double() if tensor.is_floating_point() else tensor
