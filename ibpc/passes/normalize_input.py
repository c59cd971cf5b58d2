"""Prepending (x − mean) / std to a network that expects normalized images, so that boxes are in raw pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from ibpc.errors import Problem, UsageError, raise_all
from ibpc.ir import Graph, Node, format_shape
from ibpc.ops import operators
from ibpc.passes.base import Log, Pass

PIXELS: Final = (0.0, 1.0)


@dataclass(frozen=True)
class NormalizeInput(Pass):
    """Let the readers of the only input read (x − mean) / std. `mean` and `std` are per channel, or one number.

    An input without a range gets that of pixels, [0, 1].
    """

    name: ClassVar[str] = "normalize_input"

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, graph: Graph, log: Log) -> None:
        """Insert a Sub and a Div after the input. Raises UsageError for numbers that do not fit, and several inputs."""
        if len(graph.inputs) != 1:
            found, remedy = f"{len(graph.inputs)} inputs", "normalize them inside the model"
            raise UsageError.at("normalization", found, "a network of one input", remedy)
        source = graph.node(graph.inputs[0])
        raise_all(UsageError, self._problems(source))
        readers, value = graph.consumers(source.name), source.name
        for operator, numbers in (("Sub", self.mean), ("Div", self.std)):
            constant = torch.tensor(numbers, dtype=torch.float32).reshape([-1, *[1] * (len(source.shape) - 2)])
            name = graph.fresh_name(f"normalize_{operator.lower()}")
            graph.add(Node(f"{name}_by", "Constant", {}, tuple(constant.shape)), (), {"value": constant})
            record = operators()[operator]
            value = graph.add(Node(name, operator, record.complete({}), source.shape), [value, f"{name}_by"])
        for reader in readers:
            operands = list(graph.operands(reader.consumer))
            operands[reader.slot] = value
            graph.set_operands(reader.consumer, operands)
        graph.outputs = tuple(value if output == source.name else output for output in graph.outputs)
        if source.attributes["range"] is None:
            graph.replace(source.name, attributes={**source.attributes, "range": list(PIXELS)})
        log.changed(source.name, "normalized by constants in the graph")

    def _problems(self, source: Node) -> list[Problem]:
        channels = source.shape[1] if len(source.shape) > 1 else 1
        problems = []
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, channels):
                found = f"{len(numbers)} numbers for an input of shape {format_shape(source.shape)}"
                problems.append(Problem(name, found, "one number" if channels == 1 else f"1 or {channels}"))
        mean, std = (torch.tensor(numbers, dtype=torch.float32) for numbers in (self.mean, self.std))
        if not bool(mean.isfinite().all()):
            problems.append(Problem("mean", f"found {list(self.mean)}", "numbers that float32 holds"))
        if not bool(((std > 0) & std.isfinite()).all()):
            problems.append(Problem("std", f"found {list(self.std)}", "positive numbers that float32 holds"))
        return problems


def normalize_input(graph: Graph, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Return the graph that normalizes raw pixels itself. Raises UsageError for numbers or inputs that do not fit."""
    return NormalizeInput(tuple(mean), tuple(std)).run(graph).graph
