"""The IR: one network as a graph of operators.

A `Graph` is a networkx MultiDiGraph whose nodes are operators with one output tensor each and whose edges carry
values; an edge's key is the operand slot, so `x + x` has two edges. Parameters and constants live beside the graph
in `state`, a dict from `"node.role"` to an array; `ties` name the entries that stand for another one. Shapes are
tuples of ints; dimension 0 of every value that depends on an input is the batch, written `BATCH` here and `N` in
text. Of operators this module knows the names of the input and of the views, and it knows no torch: `verify` asks the
operator table it is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from operator import mul
from types import MappingProxyType
from typing import Any, Final, Protocol, Self

import networkx as nx

from ibpc.entries import Entries
from ibpc.errors import GraphError, Problem, nearest, raise_all

BATCH: Final = -1
# Operators that keep the elements of their operand in row-major order.
VIEWS: Final = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
INPUT: Final = "Input"
FORMAT_VERSION: Final = 1

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Array(Protocol):
    """What the IR needs to know of a parameter or constant: its shape."""

    @property
    def shape(self) -> Sequence[int]:
        """The sizes of the dimensions."""
        ...


class OperatorSchema(Protocol):
    """What `Graph.verify` asks of an operator record."""

    def check_attributes(self, attributes: Attributes) -> Iterator[str]:
        """Yield what is wrong with the attributes."""
        ...

    def check_operands(self, count: int, roles: Iterable[str]) -> Iterator[str]:
        """Yield what is wrong with the number of operands and the parameters that are present."""
        ...

    def infer_shape(
        self, attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]
    ) -> Shape:
        """Return the shape of the result. Raises GraphError where the operands do not fit."""
        ...


@dataclass(frozen=True)
class Node:
    """One application of an operator.

    `attributes` are complete (defaults written out), `shape` is that of the one output, and `constraints` name the
    parametrizations of the node's weight ("nonnegative", "spectral").
    """

    name: str
    operator: str
    attributes: Attributes = field(default_factory=dict)
    shape: Shape = ()
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        """Copy and pickle by what a node is made of: a view of attributes can be neither."""
        return type(self), (self.name, self.operator, dict(self.attributes), self.shape, self.constraints)


@dataclass(frozen=True)
class Operand:
    """A use of a value: the `slot` of node `consumer` that reads it."""

    consumer: str
    slot: int


class Graph:
    """A network: nodes, the values that flow between them, and the state beside them.

    `outputs` name the nodes whose values the network returns; inputs are the nodes of operator "Input" in the order
    they were added. `hints` hold what training and certification default to ("dataset", "classes").
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.outputs: tuple[str, ...] = ()
        self.state: Entries[Any] = Entries()
        self.ties: Entries[str] = Entries()
        self.hints: dict[str, Any] = {}
        self._net: nx.MultiDiGraph[str] = nx.MultiDiGraph()

    # ── building ────────────────────────────────────────────────────────────────────────────────────────────────
    def add(self, node: Node, operands: Sequence[str] = (), state: Mapping[str, Any] | None = None) -> str:
        """Add `node` reading `operands` in slot order, with its parameters by role. Returns the node's name.

        Raises GraphError for a name that is taken or malformed and for unknown operands.
        """
        if not _NAME.match(node.name):
            raise GraphError.at(f"node {node.name!r}", "malformed name", "letters, digits and underscores")
        if node.name in self._net:
            raise GraphError.at(f"node {node.name}", "the name is taken", "a unique name")
        for operand in operands:
            if operand not in self._net:
                raise GraphError.at(f"node {node.name}", f"unknown operand {operand!r}", "a node added before")
        self._net.add_node(node.name, node=node)
        for slot, operand in enumerate(operands):
            self._net.add_edge(operand, node.name, key=slot)
        for role, value in (state or {}).items():
            self.state[f"{node.name}.{role}"] = value
        return node.name

    def fresh_name(self, wish: str) -> str:
        """Return a free node name that is as close to `wish` as the rules for names allow."""
        base = re.sub(r"[^A-Za-z0-9_]+", "_", wish).strip("_") or "value"
        if base[0].isdigit():
            base = f"n{base}"
        name, number = base, 1
        while name in self._net:
            number += 1
            name = f"{base}_{number}"
        return name

    def replace(self, name: str, **changes: Any) -> Node:
        """Replace fields of the node `name` (not its name) and return the new node."""
        node = replace(self.node(name), **changes)
        self._net.nodes[name]["node"] = node
        return node

    def rewire(self, old: str, new: str) -> None:
        """Make every reader of the value `old`, and the outputs, read `new` instead."""
        for operand in self.consumers(old):
            self._net.remove_edge(old, operand.consumer, key=operand.slot)
            self._net.add_edge(new, operand.consumer, key=operand.slot)
        self.outputs = tuple(new if output == old else output for output in self.outputs)

    def set_operands(self, name: str, operands: Sequence[str]) -> None:
        """Make the node `name` read `operands`, in slot order."""
        self._net.remove_edges_from(list(self._net.in_edges(name, keys=True)))
        for slot, operand in enumerate(operands):
            self._net.add_edge(operand, name, key=slot)

    def remove(self, name: str) -> None:
        """Remove a node that nothing reads, and its state. Raises GraphError if something reads it."""
        if self.consumers(name) or name in self.outputs:
            raise GraphError.at(f"node {name}", "it is still read", "a node without readers")
        self._net.remove_node(name)
        for role in self.parameters_of(name):
            self._drop(f"{name}.{role}")

    def tie(self, key: str, source: str) -> None:
        """Make the state entry `key`, and what is tied to it, stand for `source`: one array, one parameter."""
        owner = self.source_of(source)
        if owner == self.source_of(key):
            return
        heirs = [tied for tied, old in self.ties.items() if old == key]
        self.state.pop(key, None)
        self.ties.update(dict.fromkeys([key, *heirs], owner))

    def source_of(self, key: str) -> str:
        """Return the state entry that `key` stands for: itself if it is not tied."""
        return self.ties.get(key, key)

    def _drop(self, key: str) -> None:
        """Delete a state entry; the first entry tied to it inherits the array."""
        if self.ties.pop(key, None) is not None:
            return
        array = self.state.pop(key)
        heirs = [tied for tied, source in self.ties.items() if source == key]
        for heir in heirs:
            del self.ties[heir]
        if heirs:
            self.state[heirs[0]] = array
            self.ties.update(dict.fromkeys(heirs[1:], heirs[0]))

    def copy(self) -> Graph:
        """Return a copy that shares the arrays of the state but nothing else."""
        other = Graph(self.name)
        other._net = self._net.copy()
        other.outputs = self.outputs
        other.state = Entries(self.state)
        other.ties = Entries(self.ties)
        other.hints = dict(self.hints)
        return other

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────
    def __contains__(self, name: str) -> bool:
        return name in self._net

    def __len__(self) -> int:
        return len(self._net)

    def node(self, name: str) -> Node:
        """Return the node `name`. Raises GraphError if there is none."""
        if name not in self._net:
            raise GraphError.at(f"node {name}", "no such node", remedy=nearest(name, self._net.nodes))
        found: Node = self._net.nodes[name]["node"]
        return found

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the input nodes, in the order they were added."""
        return tuple(name for name, data in self._net.nodes(data=True) if data["node"].operator == INPUT)

    def operands(self, name: str) -> tuple[str, ...]:
        """Return the names of the values that the node reads, in slot order."""
        edges = sorted(self._net.in_edges(name, keys=True), key=lambda edge: edge[2])
        return tuple(source for source, _, _ in edges)

    def consumers(self, name: str) -> tuple[Operand, ...]:
        """Return the uses of the node's value, in a stable order."""
        position = {node: index for index, node in enumerate(self._net.nodes)}
        uses = [Operand(consumer, slot) for _, consumer, slot in self._net.out_edges(name, keys=True)]
        return tuple(sorted(uses, key=lambda use: (position[use.consumer], use.slot)))

    def parameters_of(self, name: str) -> dict[str, Any]:
        """Return the node's arrays by role, tied ones included."""
        tied = {role: self.state[source] for role, source in self.ties.of(name).items()}
        return {**self.state.of(name), **tied}

    def order(self) -> tuple[Node, ...]:
        """Return the nodes in a topological order that follows insertion wherever it can. Raises GraphError."""
        position = {node: index for index, node in enumerate(self._net.nodes)}
        try:
            names = list(nx.lexicographical_topological_sort(self._net, key=position.__getitem__))
        except nx.NetworkXUnfeasible:
            cycle = [source for source, *_ in nx.find_cycle(self._net)]
            raise GraphError.at(
                f"graph {self.name}", f"a cycle through {' → '.join([*cycle, cycle[0]])}", "an acyclic graph"
            ) from None
        return tuple(self.node(name) for name in names)

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """Return `names` and everything they depend on."""
        found = set(names)
        for name in tuple(found):
            found |= nx.ancestors(self._net, name)
        return frozenset(found)

    def descendants(self, names: Iterable[str]) -> frozenset[str]:
        """Return `names` and everything that depends on them."""
        found = set(names)
        for name in tuple(found):
            found |= nx.descendants(self._net, name)
        return frozenset(found)

    def cuts(self, output: str) -> tuple[str, ...]:
        """Return, in order, the nodes that every path from an input to `output` passes through.

        They are the dominators of the output in the flow graph rooted above all inputs: the places where the
        network can be split in two, and where one box is all that the rest of the network sees.
        """
        flow = nx.DiGraph(self._net.subgraph(self.descendants(self.inputs)))
        root = ""
        flow.add_edges_from((root, name) for name in self.inputs)
        if output not in flow:
            return ()
        above = nx.immediate_dominators(flow, root)
        path = [output]
        while (parent := above[path[-1]]) is not None and parent not in (root, path[-1]):
            path.append(parent)
        return tuple(reversed(path))

    def shapes_of(self, names: Iterable[str]) -> tuple[Shape, ...]:
        """Return the shapes of the named values."""
        return tuple(self.node(name).shape for name in names)

    # ── verifying ───────────────────────────────────────────────────────────────────────────────────────────────
    def verify(self, operators: Mapping[str, OperatorSchema]) -> None:
        """Check every invariant and raise one GraphError with all that is broken.

        Invariants: acyclic; known operators; complete, valid attributes; the right operands and parameters; every
        shape equal to the operator's shape rule; every state entry used; outputs that exist.
        """
        problems = [
            Problem(f"state {key}", f"it is tied to {source!r}, which does not exist")
            for key, source in self.ties.items()
            if source not in self.state
        ]
        raise_all(GraphError, problems)
        for node in self.order():
            found = [Problem(f"node {node.name}", text) for text in self._check(node, operators)]
            problems.extend(found)
        entries = [*self.state, *self.ties]
        problems.extend(
            Problem(f"state {key}", "no node uses it") for key in entries if key.rpartition(".")[0] not in self
        )
        if not self.outputs:
            problems.append(Problem(f"graph {self.name}", "it has no output"))
        problems.extend(Problem(f"output {name}", "no such node") for name in self.outputs if name not in self._net)
        raise_all(GraphError, problems)

    def _check(self, node: Node, operators: Mapping[str, OperatorSchema]) -> Iterator[str]:
        if node.operator not in operators:
            yield f"unknown operator {node.operator!r}; {nearest(node.operator, operators)}"
            return
        operator = operators[node.operator]
        operands = self.operands(node.name)
        slots = sorted(slot for *_, slot in self._net.in_edges(node.name, keys=True))
        parameters = self.parameters_of(node.name)
        problems = [
            *operator.check_attributes(node.attributes),
            *operator.check_operands(len(operands), parameters),
            *([] if slots == list(range(len(slots))) else [f"operand slots {slots} have a gap"]),
        ]
        yield from problems
        if problems:
            return
        shapes = {role: tuple(value.shape) for role, value in parameters.items()}
        try:
            shape = operator.infer_shape(node.attributes, self.shapes_of(operands), shapes)
        except GraphError as error:
            yield from (problem.found for problem in error.problems)
            return
        if shape != node.shape:
            yield f"shape {format_shape(node.shape)} where the operator gives {format_shape(shape)}"

    # ── writing and reading ─────────────────────────────────────────────────────────────────────────────────────
    def to_text(self) -> str:
        """Return the graph as stable, readable text: one line a node, in topological order."""
        rows = [(node.name, self._application(node), format_shape(node.shape)) for node in self.order()]
        left = max((len(name) for name, *_ in rows), default=0)
        middle = max((len(text) for _, text, _ in rows if len(text) <= 88), default=0)
        lines = [f"  {name:<{left}} = {text:<{middle}} : {shape}" for name, text, shape in rows]
        head = f"graph {self.name} ({', '.join(self.inputs)}) -> ({', '.join(self.outputs)}) {{"
        return "\n".join([head, *lines, "}", ""])

    def structure(self) -> str:
        """Return the graph without its state as text: equal for graphs that compute the same from the same state."""
        return self.to_text() + "".join(f"{key} = {source}\n" for key, source in sorted(self.ties.items()))

    def _application(self, node: Node) -> str:
        attributes = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(node.attributes.items()))
        parameters = ", ".join(
            f"{role} {format_shape(tuple(value.shape))}" for role, value in self.parameters_of(node.name).items()
        )
        arguments = "; ".join(part for part in (", ".join(self.operands(node.name)), parameters) if part)
        constraints = "".join(f" @{constraint}" for constraint in node.constraints)
        return f"{node.operator}{f'[{attributes}]' if attributes else ''}({arguments}){constraints}"

    def to_dot(self) -> str:
        """Return the graph in Graphviz's language, values as edges labelled with their shapes."""
        lines = [f'digraph "{self.name}" {{', "  node [shape=box, fontname=monospace]"]
        for node in self.order():
            lines.append(f'  {node.name} [label="{node.name}\\n{node.operator}"]')
            for operand in self.operands(node.name):
                lines.append(f'  {operand} -> {node.name} [label="{format_shape(self.node(operand).shape)}"]')
        return "\n".join([*lines, "}", ""])

    def to_json(self) -> dict[str, Any]:
        """Return the graph without its state as plain JSON data."""
        return {
            "format": FORMAT_VERSION,
            "name": self.name,
            "hints": dict(self.hints),
            "outputs": list(self.outputs),
            "state": list(self.state),
            "ties": dict(self.ties),
            "nodes": [
                {
                    "name": node.name,
                    "operator": node.operator,
                    "operands": list(self.operands(node.name)),
                    "attributes": dict(node.attributes),
                    "shape": list(node.shape),
                    "constraints": list(node.constraints),
                }
                for node in self.order()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], state: Mapping[str, Any]) -> Self:
        """Rebuild a graph from `to_json` data and its state. Raises GraphError for malformed data."""
        version = data.get("format") if isinstance(data, Mapping) else None
        if version != FORMAT_VERSION:
            raise GraphError.at("graph.json: $.format", f"found {version!r}", f"{FORMAT_VERSION}")
        try:
            if not isinstance(data["name"], str) or not data["name"]:
                raise ValueError("a graph without a name")
            graph = cls(data["name"])
            graph.hints = dict(data["hints"])
            for item in data["nodes"]:
                node = Node(
                    str(item["name"]),
                    str(item["operator"]),
                    item["attributes"],
                    tuple(int(size) for size in item["shape"]),
                    tuple(str(constraint) for constraint in item["constraints"]),
                )
                graph.add(node, [str(operand) for operand in item["operands"]])
            graph.outputs = tuple(str(output) for output in data["outputs"])
            graph.ties = Entries({str(key): str(source) for key, source in data["ties"].items()})
            entries = [str(key) for key in data["state"]]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise GraphError.at("graph.json", f"malformed: {error!r}", "a graph written by ibpc") from error
        if sorted(entries) != sorted(state):
            odd = sorted(set(entries) ^ set(state))
            raise GraphError.at(
                "graph.json: $.state",
                f"{', '.join(odd) or 'an entry'} is not in both graph and weights",
                "the same entries",
            )
        graph.state = Entries({key: state[key] for key in entries})
        return graph


def same_order(first: Shape, second: Shape) -> bool:
    """Return whether two shapes hold the same elements in the same row-major order.

    They do where one is the other with neighbouring dimensions merged and dimensions of 1 left out: 3×32×32 and 3072,
    but not 3×32×32 and 32×32×3.
    """
    ends = [{1, *accumulate(shape, mul)} for shape in (first, second)]
    return prod(first) == prod(second) and (ends[0] <= ends[1] or ends[1] <= ends[0])


def format_shape(shape: Shape) -> str:
    """Return a shape as text: `N×3×32×32`, `10`, or `scalar`."""
    return "×".join("N" if size == BATCH else str(size) for size in shape) or "scalar"
