"""Small graphs for the tests of the passes, and functions to run them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ibpc.interval import Interval
from ibpc.ir import BATCH, INPUT, Graph, Node
from ibpc.lowering import lower_interval, lower_nominal, parameter_tree
from ibpc.ops import operators
from ibpc.rounding import Arithmetic


class Net:
    """A graph under construction; every call adds a node, with its shape inferred."""

    def __init__(self, *shape: int, name: str = "net") -> None:
        self.graph = Graph(name)
        self.graph.add(Node("x", INPUT, {"shape": list(shape), "range": None}, (BATCH, *shape)))

    def add(
        self,
        name: str,
        operator: str,
        operands: Sequence[str] | str,
        attributes: Mapping[str, Any] | None = None,
        constraints: Sequence[str] = (),
        **state: Tensor,
    ) -> str:
        names = [operands] if isinstance(operands, str) else list(operands)
        record = operators()[operator]
        complete = record.complete(attributes or {})
        shapes = {role: tuple(value.shape) for role, value in state.items()}
        shape = record.infer_shape(complete, self.graph.shapes_of(names), shapes)
        return self.graph.add(Node(name, operator, complete, shape, tuple(constraints)), names, state)

    def constant(self, name: str, value: Any) -> str:
        tensor = value if torch.is_tensor(value) else torch.tensor(value, dtype=torch.float32)
        return self.graph.add(Node(name, "Constant", {}, tuple(tensor.shape)), state={"value": tensor})

    def conv(self, name: str, operand: str, weight: Tensor, pads: int = 0, group: int = 1, **state: Tensor) -> str:
        dimensions = weight.dim() - 2
        attributes = {
            "strides": [1] * dimensions,
            "pads": [pads] * (2 * dimensions),
            "dilations": [1] * dimensions,
            "group": group,
        }
        return self.add(name, "Conv", operand, attributes, weight=weight, **state)

    def conv_transpose(self, name: str, operand: str, weight: Tensor, group: int = 1, **state: Tensor) -> str:
        dimensions = weight.dim() - 2
        attributes = {
            "strides": [2] * dimensions,
            "pads": [0] * (2 * dimensions),
            "dilations": [1] * dimensions,
            "output_padding": [0] * dimensions,
            "group": group,
        }
        return self.add(name, "ConvTranspose", operand, attributes, weight=weight, **state)

    def normalization(self, name: str, operand: str, generator: torch.Generator, constant: float = 1e-5) -> str:
        channels = self.graph.node(operand).shape[1]
        return self.add(
            name,
            "BatchNormalization",
            operand,
            {"epsilon": constant},
            weight=torch.randn(channels, generator=generator),
            bias=torch.randn(channels, generator=generator),
            running_mean=torch.randn(channels, generator=generator),
            running_var=torch.rand(channels, generator=generator) + 0.1,
        )

    def finish(self, *outputs: str) -> Graph:
        self.graph.outputs = outputs
        self.graph.verify(operators())
        return self.graph


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nominal(graph: Graph, *inputs: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Run the graph with its state in `dtype`. Return one float64 tensor per output."""
    module = lower_nominal(graph, parameter_tree(graph).to(dtype))
    with torch.no_grad():
        result = module(*(x.to(dtype) for x in inputs))
    return tuple(y.double() for y in (result if isinstance(result, tuple) else (result,)))


def bounds(graph: Graph, box: Interval, arithmetic: Arithmetic, dtype: torch.dtype) -> tuple[Interval, ...]:
    """Return the box of each output, computed in `dtype`, as float64."""
    module = lower_interval(graph, parameter_tree(graph).to(dtype), arithmetic)
    with torch.no_grad():
        flat = module(box.lower.to(dtype), box.upper.to(dtype))
    return tuple(Interval.bounds(lo.double(), up.double()) for lo, up in zip(flat[::2], flat[1::2], strict=True))


def sound_bounds(graph: Graph, box: Interval) -> Interval:
    """Return the box of the first output for every binary32 execution."""
    return bounds(graph, box, Arithmetic.FLOAT32, torch.float32)[0]


def values_of(graph: Graph) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in graph.state.items()}


def listing(graph: Graph) -> str:
    """Return the graph's text without alignment and without attributes of convolutions."""
    text = re.sub(r"\[dilations=[^(]*\]\(", "(", graph.to_text())
    return "\n".join(" ".join(line.split()) for line in text.splitlines())
