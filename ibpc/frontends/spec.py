"""JSON specs: from a file to a graph with fresh parameters.

A spec is checked in three steps, each of which collects all it finds: its form (`schema.spec_schema`), its names and
connections, and its shapes, layer by layer. Parameters are allocated only when all of that is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import networkx as nx
import torch

from ibpc.errors import GraphError, Problem, SpecError, nearest, raise_all
from ibpc.frontends.initialization import fresh_state, generator_of
from ibpc.frontends.reserved import reserved_names
from ibpc.frontends.schema import INPUT_NAME, layer_types, spec_schema
from ibpc.frontends.strict_json import data_problems, located, read_json, schema_problems, shown
from ibpc.hints import mark_fresh
from ibpc.ir import BATCH, INPUT, Graph, Node, Shape, format_shape
from ibpc.ops import operators
from ibpc.ops.base import Operator

MOST_PARAMETERS: Final = 2**31
MOST_ELEMENTS: Final = 2**31

_Path = tuple[str | int, ...]


def load_spec(path: str | Path, seed: int = 0) -> Graph:
    """Return the graph that the JSON spec in the file `path` describes, with fresh parameters drawn from `seed`.

    Raises SpecError with everything that is wrong, and UsageError for an impossible seed.
    """
    return graph_from_spec(read_json(path), str(path), seed)


def graph_from_spec(data: Mapping[str, Any], where: str, seed: int = 0) -> Graph:
    """Return the graph that a spec describes, with fresh parameters (float32) drawn from `seed`.

    `where` names the spec in errors. Equal specs and seeds give equal graphs. Where the spec states no initialization
    the graph's hints say that its weights are fresh, so that training may choose. Raises SpecError with everything
    that is wrong, and UsageError for an impossible seed.
    """
    generator = generator_of(seed)
    raise_all(SpecError, data_problems(data, where))
    raise_all(SpecError, schema_problems(data, spec_schema(), where))
    data = _with_lists(data)
    entries = _graph_entries(data["graph"], where) if "graph" in data else _chain_entries(data["layers"])
    plan = _Plan(where, data.get("init", "pytorch"))
    plan.add_input(data["input"])
    raise_all(SpecError, plan.problems)
    plan.add_entries(entries)
    output = data["graph"]["output"] if "graph" in data else entries[-1].name
    plan.check_output(output, data["classes"], ("graph", "output") if "graph" in data else entries[-1].path)
    raise_all(SpecError, plan.problems)
    graph = plan.build(data["name"], output, generator)
    graph.hints = {key: data[key] for key in ("classes", "dataset") if key in data}
    if not any("init" in part for part in (data, *(entry.layer for entry in entries))):
        mark_fresh(graph)
    graph.verify(operators())
    return graph


def _with_lists(value: Any) -> Any:
    """Return JSON data with lists where a Python caller wrote tuples."""
    if isinstance(value, Mapping):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


# ── layers with their names and operands ────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class _Entry:
    """One layer of a spec: where it stands, its node's name, and what it reads."""

    path: _Path
    name: str
    inputs: tuple[str, ...]
    layer: Mapping[str, Any]


def _chain_entries(layers: Sequence[Mapping[str, Any]]) -> list[_Entry]:
    entries: list[_Entry] = []
    for index, (name, layer) in enumerate(zip(_chain_names(layers), layers, strict=True)):
        before = entries[-1].name if entries else INPUT_NAME
        entries.append(_Entry(("layers", index), name, (before,), layer))
    return entries


def _chain_names(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the layers' names: their own, or the type in lower case without 1d, 2d, 3d, and a running number."""
    taken = {layer["name"] for layer in layers if "name" in layer}
    counts: Counter[str] = Counter()
    for layer in layers:
        if "name" in layer:
            yield layer["name"]
            continue
        stem = layer["type"].removesuffix("1d").removesuffix("2d").removesuffix("3d").lower()
        counts[stem] += 1
        while f"{stem}{counts[stem]}" in taken:
            counts[stem] += 1
        yield f"{stem}{counts[stem]}"


def _graph_entries(graph: Mapping[str, Any], where: str) -> list[_Entry]:
    """Return the nodes in topological order. Raises SpecError for unknown inputs, cycles and unread nodes."""
    nodes = graph["nodes"]
    raise_all(SpecError, _connection_problems(graph, where))
    net: nx.DiGraph[str] = nx.DiGraph()
    net.add_nodes_from(nodes)
    net.add_edges_from((source, name) for name, node in nodes.items() for source in node["inputs"])
    position = {name: index for index, name in enumerate([INPUT_NAME, *nodes])}
    try:
        order = list(nx.lexicographical_topological_sort(net, key=position.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = [source for source, _ in nx.find_cycle(net)]
        path = " → ".join([*cycle, cycle[0]])
        raise SpecError.at(located(where, ("graph", "nodes")), f"a cycle {path}", "an acyclic graph") from None
    raise_all(SpecError, _unread(net, graph, where))
    return [
        _Entry(("graph", "nodes", name), name, tuple(nodes[name]["inputs"]), nodes[name])
        for name in order
        if name != INPUT_NAME
    ]


def _connection_problems(graph: Mapping[str, Any], where: str) -> Iterator[Problem]:
    nodes = graph["nodes"]
    known = {INPUT_NAME, *nodes}
    if INPUT_NAME in nodes:
        place = located(where, ("graph", "nodes", INPUT_NAME))
        yield Problem(place, f"the name {INPUT_NAME} is taken", "another name: this one is the network's input")
    for name, node in nodes.items():
        for slot, source in enumerate(node["inputs"]):
            if source not in known:
                place = located(where, ("graph", "nodes", name, "inputs", slot))
                yield Problem(place, f"unknown node {shown(source)}", remedy=nearest(source, known))
    if graph["output"] not in nodes:
        place = located(where, ("graph", "output"))
        yield Problem(place, f"unknown node {shown(graph['output'])}", remedy=nearest(graph["output"], nodes))


def _unread(net: nx.DiGraph[str], graph: Mapping[str, Any], where: str) -> Iterator[Problem]:
    needed = nx.ancestors(net, graph["output"]) | {graph["output"]}
    for name in graph["nodes"]:
        if name not in needed:
            place = located(where, ("graph", "nodes", name))
            yield Problem(place, f"the output {graph['output']} does not depend on it", "only nodes that matter")


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class _Planned:
    """A node that fits: everything but its parameters' values."""

    node: Node
    operands: tuple[str, ...]
    parameters: Mapping[str, Shape]
    scheme: str
    values: Mapping[str, torch.Tensor]


class _Plan:
    """The nodes of a graph before anything is allocated, and all problems met on the way."""

    def __init__(self, where: str, scheme: str) -> None:
        self.problems: list[Problem] = []
        self._where = where
        self._scheme = scheme
        self._planned: dict[str, _Planned] = {}
        self._taken: set[str] = set()
        self._parameters = 0
        self._head = INPUT_NAME

    # ── the input and its normalization ─────────────────────────────────────────────────────────────────────────
    def add_input(self, spec: Mapping[str, Any]) -> None:
        """Plan the input (N, *shape) and, where the spec has them, (x − mean) / std."""
        low_high = spec.get("range", [0, 1])
        if low_high is not None and not low_high[0] < low_high[1]:
            self._report(("input", "range"), f"found {shown(low_high)}", "the least value, then a greater one")
        attributes = {"shape": list(spec["shape"]), "range": low_high}
        shape = (BATCH, *spec["shape"])
        self._place(_Planned(Node(INPUT_NAME, INPUT, attributes, shape), (), {}, "", {}))
        if not self._too_large(shape, ("input", "shape")):
            self._normalize("mean", "Sub", spec)
            self._normalize("std", "Div", spec)

    def _normalize(self, key: str, operator: str, spec: Mapping[str, Any]) -> None:
        if key not in spec:
            return
        channels = spec["shape"][0]
        values = spec[key] if isinstance(spec[key], list) else [spec[key]] * channels
        if len(values) != channels:
            found = f"{len(values)} numbers for {channels} channels"
            self._report(("input", key), found, f"one number, or {channels}")
            return
        constant = torch.tensor(values, dtype=torch.float32).reshape(-1, *[1] * (len(spec["shape"]) - 1))
        shape = tuple(constant.shape)
        name = f"normalize_{key}"
        self._place(_Planned(Node(name, "Constant", {}, shape), (), {}, "", {"value": constant}))
        result = self._planned[INPUT_NAME].node.shape
        node = Node(f"normalize_{operator.lower()}", operator, operators()[operator].complete({}), result)
        self._place(_Planned(node, (self._head, name), {}, "", {}))
        self._head = node.name

    # ── the layers ──────────────────────────────────────────────────────────────────────────────────────────────
    def add_entries(self, entries: Sequence[_Entry]) -> None:
        """Plan the layers in order. What reads a layer that does not fit is left out."""
        for entry in entries:
            if not self._name_fits(entry):
                continue
            operands = tuple(self._head if name == INPUT_NAME else name for name in entry.inputs)
            if all(name in self._planned for name in operands):
                self._plan_layer(entry, operands)

    def _name_fits(self, entry: _Entry) -> bool:
        path = (*entry.path, "name") if "name" in entry.layer else entry.path
        if entry.name in self._taken:
            self._report(path, f"the name {entry.name} is taken", "a unique name")
            return False
        self._taken.add(entry.name)
        if entry.name in reserved_names():
            self._report(path, f"the name {entry.name} is reserved", "a name that neither Python nor torch uses")
        return True

    def _plan_layer(self, entry: _Entry, operands: tuple[str, ...]) -> None:
        operator, layer = layer_types()[entry.layer["type"]]
        shapes = tuple(self._planned[name].node.shape for name in operands)
        if not self._count_fits(entry, operator, len(operands)):
            return
        defaults = {key: option["default"] for key, option in layer.options.items() if "default" in option}
        options = {key: value for key, value in entry.layer.items() if key in layer.options}
        try:
            plan = layer.plan({**defaults, **options}, shapes)
            attributes = operator.complete(plan.attributes)
            shape = operator.infer_shape(attributes, shapes, plan.parameters)
        except GraphError as error:
            self._misfit(entry, shapes, error)
            return
        if self._too_large(shape, entry.path) or self._too_many(plan.parameters, entry.path):
            return
        constraints = tuple(entry.layer[key] for key in ("constraint", "norm") if key in entry.layer)
        node = Node(entry.name, operator.name, attributes, shape, constraints)
        scheme = entry.layer.get("init", self._scheme)
        self._place(_Planned(node, operands, plan.parameters, scheme, {}))

    def _count_fits(self, entry: _Entry, operator: Operator, count: int) -> bool:
        least, most = operator.operands
        if least <= count and (most is None or count <= most):
            return True
        wanted = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        remedy = "" if "inputs" in entry.layer else 'use "graph" instead of "layers"'
        found = f"{entry.layer['type']} reads {count} value{'' if count == 1 else 's'}"
        self._report(entry.path, found, wanted, remedy)
        return False

    def _misfit(self, entry: _Entry, shapes: Sequence[Shape], error: GraphError) -> None:
        reads = " and ".join(format_shape(shape) for shape in shapes)
        for problem in error.problems:
            found = f"{entry.layer['type']} cannot read {reads}: {problem.found}"
            self._report(entry.path, found, problem.expected, problem.remedy)

    # ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _too_large(self, shape: Shape, path: _Path) -> bool:
        elements = prod(shape[1:])
        if elements > MOST_ELEMENTS:
            self._report(path, f"{elements} elements a sample", f"at most {MOST_ELEMENTS}")
        return elements > MOST_ELEMENTS

    def _too_many(self, parameters: Mapping[str, Shape], path: _Path) -> bool:
        own = sum(prod(shape) for shape in parameters.values())
        self._parameters += own
        if own > MOST_PARAMETERS:
            self._report(path, f"{own} parameters", f"at most {MOST_PARAMETERS} in a layer")
        elif self._parameters > MOST_PARAMETERS:
            self._report(path, f"{self._parameters} parameters up to here", f"at most {MOST_PARAMETERS} in a network")
        return self._parameters > MOST_PARAMETERS

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────
    def check_output(self, output: str, classes: int, path: _Path) -> None:
        """Report an output that is not one row of `classes` logits a sample."""
        if output not in self._planned:
            return
        shape = self._planned[output].node.shape
        if shape != (BATCH, classes):
            found = f"the last layer gives {format_shape(shape)}"
            self._report(path, found, f"{format_shape((BATCH, classes))} for {classes} classes")

    def build(self, name: str, output: str, generator: torch.Generator) -> Graph:
        """Return the graph, with fresh parameters."""
        graph = Graph(name)
        for planned in self._planned.values():
            graph.add(planned.node, planned.operands, {**planned.values, **self._fresh(planned, generator)})
        graph.outputs = (output,)
        return graph

    def _fresh(self, planned: _Planned, generator: torch.Generator) -> dict[str, torch.Tensor]:
        try:
            return fresh_state(planned.node, planned.parameters, planned.scheme, generator)
        except (MemoryError, RuntimeError) as error:
            count = sum(prod(shape) for shape in planned.parameters.values())
            found = f"no memory for the {count} parameters of {planned.node.name}"
            raise SpecError.at(self._where, found, "a network that fits") from error

    def _place(self, planned: _Planned) -> None:
        self._taken.add(planned.node.name)
        self._planned[planned.node.name] = planned

    def _report(self, path: _Path, found: str, expected: str, remedy: str = "") -> None:
        self.problems.append(Problem(located(self._where, path), found, expected, remedy))
