"""The compiled network: one IR, one tree of parameters, and the graphs that share them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from itertools import chain
from math import prod
from pathlib import Path
from typing import Final

import torch
from torch import fx

from ibpc import artifact
from ibpc.artifact import OldRun, Source
from ibpc.entries import Entries
from ibpc.errors import GraphError, Problem, UsageError, first_line, nearest, raise_all
from ibpc.hints import mark_trained
from ibpc.interval import Interval, boxes_of, ends_of
from ibpc.ir import Graph, format_shape
from ibpc.lowering import Phase, entry_of, lower_interval, lower_nominal, lower_paired, parameter_tree
from ibpc.ops import operators
from ibpc.passes import JoinOutputs, merge_specification
from ibpc.passes.normalize_input import PIXELS
from ibpc.rounding import Arithmetic

# How many tables of rows keep the graph that was lowered for them.
_MOST_TABLES: Final = 8


class Network:
    """A pair of graphs over the same parameters: `nominal` and `interval`; and what training and proving need.

    `graph` is the structure; `parameters` holds the present values, which training moves on. `snapshot()` brings the
    two together again. `notes` say what a frontend mended and how it validated the network.
    """

    def __init__(self, graph: Graph, source: Source | None = None, notes: tuple[str, ...] = ()) -> None:
        graph.verify(operators())
        self.graph = graph
        self.source = source or Source("graph")
        self.notes = notes
        self.parameters = parameter_tree(graph)
        self._merged: dict[tuple[object, ...], fx.GraphModule] = {}

    @classmethod
    def load(cls, path: Path) -> Network:
        """Load an artifact. Raises ArtifactError if it is missing or damaged."""
        found = artifact.load(path)
        return cls(found.graph, found.source, found.notes)

    def save(self, path: str | Path, old_run: OldRun = OldRun.KEEP) -> None:
        """Write the network with its present weights as an artifact; see `artifact.save`. Raises ArtifactError."""
        graph = self.snapshot()
        if self.is_changed:
            mark_trained(graph)
        artifact.save(graph, Path(path), self.source, self.notes, old_run)

    @property
    def is_changed(self) -> bool:
        """Whether a weight is not what it was when the network was compiled or loaded."""
        made = self.graph.state.items()
        return any(not torch.equal(self._value(key), torch.as_tensor(value)) for key, value in made)

    @property
    def name(self) -> str:
        """The network's name."""
        return self.graph.name

    @property
    def classes(self) -> int:
        """The number of logits. Raises GraphError unless the first output is (N, K)."""
        shape = self.graph.node(self.graph.outputs[0]).shape
        if len(shape) != 2:
            raise GraphError.at(
                f"output {self.graph.outputs[0]}", f"shape {format_shape(shape)}", "one row of logits a sample"
            )
        return shape[1]

    def __repr__(self) -> str:
        shapes = ", ".join(format_shape(shape) for shape in self.graph.shapes_of(self.graph.inputs))
        outputs = ", ".join(format_shape(shape) for shape in self.graph.shapes_of(self.graph.outputs))
        told = f", {len(self.notes)} note{'s' * (len(self.notes) > 1)}" if self.notes else ""
        return f"Network({self.name!r}, {shapes} → {outputs}, {self.parameter_count():,} parameters{told})"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample of the first input, without the batch."""
        return self.graph.node(self.graph.inputs[0]).shape[1:]

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The range of the first input's values, if the network states one."""
        low_high = self.graph.node(self.graph.inputs[0]).attributes["range"]
        return None if low_high is None else (float(low_high[0]), float(low_high[1]))

    @property
    def pixel_range(self) -> tuple[float, float]:
        """The range that balls of images are clipped to: that of the input, [0, 1] where the network states none."""
        return self.input_range or PIXELS

    @cached_property
    def nominal(self) -> fx.GraphModule:
        """The graph x → y in evaluation: (B, …) → (B, K)."""
        return lower_nominal(self.graph, self.parameters)

    @cached_property
    def guiding(self) -> fx.GraphModule:
        """The graph x → y in evaluation with gradients for attacks to follow through jumps."""
        rules = (operators()[node.operator].rules for node in self.graph.order())
        if all(rule.guiding is None for rule in rules):
            return self.nominal
        return lower_nominal(self.graph, self.parameters, Phase.ATTACK)

    @cached_property
    def nominal_training(self) -> fx.GraphModule:
        """The graph x → y in training: normalizes by the batch, drops out."""
        return lower_nominal(self.graph, self.parameters, Phase.TRAINING)

    @cached_property
    def _interval(self) -> fx.GraphModule:
        """The graph (l, u) → (l, u) in evaluation, real arithmetic."""
        return lower_interval(self.graph, self.parameters, Arithmetic.REAL)

    @cached_property
    def paired(self) -> fx.GraphModule:
        """The training graph (x, l, u) → (y, l, u) over the outputs themselves."""
        return lower_paired(self.graph, self.parameters, self.graph.outputs, self.graph.outputs)

    def interval(self, *boxes: Interval, rows: torch.Tensor | None = None) -> Interval:
        """Return the box of the first output over the boxes of the inputs, (B, …) → (B, K).

        With `rows` (R, K), one table for all samples, it is that of rows · output, (B, R), the output counted flat.
        They are merged into the last Gemm, so bounds of differences are tighter than those of what they subtract;
        behind another operator they multiply its box. Gradients reach the parameters, not the rows. Each table is
        lowered once; one on the CPU is recognized without waiting for a GPU. Raises UsageError for what is no box an
        input, GraphError for rows that do not fit.
        """
        if len(boxes) != len(self.graph.inputs) or not all(isinstance(box, Interval) for box in boxes):
            found = ", ".join(type(box).__name__ for box in boxes)
            inputs = len(self.graph.inputs)
            raise UsageError.at("boxes", f"found ({found})", f"{inputs} Interval{'s' * (inputs > 1)}, one an input")
        lowered = self._interval if rows is None else self._interval_of(torch.as_tensor(rows).detach().cpu())
        return boxes_of(lowered(*ends_of(boxes)))[0]

    def _interval_of(self, rows: torch.Tensor) -> fx.GraphModule:
        """Return the graph (l, u) → (l, u) of rows · the first output, over the parameters as they now lie."""
        place = next((p for p in self.parameters.parameters() if p.is_floating_point()), torch.empty(0))
        key = (rows.shape, rows.double().numpy().tobytes(), place.dtype, place.device)
        if key not in self._merged:
            if len(self._merged) >= _MOST_TABLES:
                self._merged.clear()
            graph = self._with_rows(rows)
            tree = parameter_tree(graph, self.parameters)
            own = dict(self.parameters.named_children())
            for name, added in tree.named_children():
                if name not in own:
                    added.to(place)
            self._merged[key] = lower_interval(graph, tree, Arithmetic.REAL)
        return self._merged[key]

    def _with_rows(self, rows: torch.Tensor) -> Graph:
        """Return the graph of rows · the first output."""
        graph = self.graph.copy()
        graph.outputs = graph.outputs[:1]
        joined = JoinOutputs().run(graph).graph
        merged = merge_specification(joined, rows, joined.fresh_name("rows")).graph
        merged.outputs = merged.outputs[-1:]
        return merged

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        tensors = chain(self.parameters.parameters(), self.parameters.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def parameter_count(self) -> int:
        """Return the number of trainable values."""
        return sum(prod(parameter.shape) for parameter in self.parameters.parameters())

    def snapshot(self) -> Graph:
        """Return the graph with the present values of all parameters, constraints applied, detached, on the CPU."""
        graph = self.graph.copy()
        graph.state = Entries({key: self._value(key) for key in graph.state})
        return graph

    def fingerprint(self) -> str:
        """Return the SHA-256 of the structure and of the present weights."""
        snapshot = self.snapshot()
        digest = sha256(snapshot.structure().encode())
        for key, value in sorted(snapshot.state.items()):
            digest.update(f"{key} {value.dtype}".encode() + value.numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def assign(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy values into the parameters and buffers, in place, by state entry ("node.role").

        Raises GraphError, and copies nothing, for entries that are unknown or of another shape.
        """
        problems = []
        for key, value in state.items():
            if key not in self.graph.state:
                problems.append(Problem(f"state {key}", "no such entry", remedy=nearest(key, self.graph.state)))
            elif value.shape != entry_of(self.parameters, key).shape:
                shapes = (format_shape(tuple(each.shape)) for each in (value, entry_of(self.parameters, key)))
                problems.append(Problem(f"state {key}", *shapes))
        raise_all(GraphError, problems)
        for key, value in state.items():
            entry_of(self.parameters, key).copy_(value)

    def _value(self, key: str) -> torch.Tensor:
        value = entry_of(self.parameters, key)
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)

    def to(self, device: torch.device | str) -> Network:
        """Move the parameters to a device, in place, and return the network. Raises UsageError for what is none."""
        try:
            self.parameters.to(torch.device(device))
        except (RuntimeError, AssertionError, TypeError) as error:
            raise UsageError.at(
                "device", f"found {device!r}: {first_line(error)}", "cpu, or a device that is there"
            ) from error
        return self
