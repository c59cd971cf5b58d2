"""The IR under construction: values as import rules see them, and the builder that the rules call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ibpc.errors import GraphError, Problem, nearest, raise_all
from ibpc.frontends.reserved import reserved_names
from ibpc.ir import INPUT, Attributes, Graph, Node, Shape
from ibpc.ops import operators
from ibpc.ops.element_types import floating
from ibpc.ops.onnx import Value
from ibpc.ops.rules import Call

# What constants have to be, which masks with −∞ are not.
FINITE: Final = (
    "finite numbers (in place of −∞ a mask may hold −1e9; for is_causal=True give attention an explicit mask of these)"
)


@dataclass(frozen=True)
class Traced:
    """A value as import rules see it: a constant of a certain `origin`, or the result of an IR `node`."""

    shape: Shape
    constant: Tensor | None = None
    node: str = ""
    origin: str = ""


class GraphBuilder:
    """Builds the IR for the import rules, and takes back what a rule had built when it gave up."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._wish = "value"
        self._inputs: tuple[Traced, ...] = ()
        self._added: list[str] = []
        self._constants: dict[int, tuple[Tensor, str]] = {}
        self._owners: dict[tuple[str, str, str, Shape], str] = {}

    def start(self, wish: str, inputs: Iterable[Traced]) -> None:
        """Begin an ONNX node: new nodes are named after `wish`, parameters stem from `inputs`."""
        self._wish = wish
        self._inputs = tuple(inputs)
        self._added = []

    def undo(self) -> frozenset[str]:
        """Remove the nodes that were added since `start` and return their names."""
        for name in reversed(self._added):
            self.graph.remove(name)
        gone = frozenset(self._added)
        self._constants = {key: entry for key, entry in self._constants.items() if entry[1] not in gone}
        self._owners = {key: owner for key, owner in self._owners.items() if owner.partition(".")[0] not in gone}
        self._added = []
        return gone

    def constant(self, value: Tensor) -> Value:
        """Return a constant value."""
        return Traced(tuple(value.shape), value)

    def add(
        self,
        operator: str,
        operands: Iterable[Value],
        attributes: Attributes | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Value:
        """Add a node and return its value; of constants alone, compute it. Raises GraphError where it does not fit."""
        values, arrays = tuple(operands), dict(parameters or {})
        record = operators().get(operator)
        if record is None:
            raise GraphError.at(operator, "no such operator", remedy=nearest(operator, operators()))
        complete = record.complete(attributes or {})
        faults = [*record.check_attributes(complete), *record.check_operands(len(values), arrays)]
        raise_all(GraphError, (Problem(operator, fault) for fault in faults))
        shapes = {role: tuple(array.shape) for role, array in arrays.items()}
        given = tuple(value.shape for value in values)
        shape = record.infer_shape(complete, given, shapes)
        known = [value.constant for value in values if value.constant is not None]
        if values and len(known) == len(values):
            return self.constant(record.rules.nominal(Call(complete, given, shapes, shape), *known, **arrays))
        names = [self._name_of(value) for value in values]
        name = self._place(Node(self._fresh(self._wish), operator, complete, shape), names)
        for role, array in arrays.items():
            self._hold(name, operator, role, array)
        return Traced(shape, node=name)

    def input(self, name: str, shape: Shape) -> Traced:
        """Add an input whose samples have this shape."""
        node = Node(self._fresh(name), INPUT, {"shape": list(shape[1:]), "range": None}, shape)
        return Traced(shape, node=self._place(node, ()))

    def _fresh(self, wish: str) -> str:
        """Return a free name like `wish` that can be an attribute of a torch module."""
        name = self.graph.fresh_name(wish)
        return self.graph.fresh_name(f"{name}_node") if name in reserved_names() else name

    def _place(self, node: Node, operands: Iterable[str]) -> str:
        self._added.append(node.name)
        return self.graph.add(node, tuple(operands))

    def _name_of(self, value: Value) -> str:
        """Return the node of an operand. A constant gets one node, however often it is used."""
        assert isinstance(value, Traced)
        if value.constant is None:
            return value.node
        if id(value.constant) not in self._constants:
            where = value.origin or "a constant"
            array = _storable(value.constant, where)
            array = array if array.is_floating_point() else floating(array, where)
            name = self._place(Node(self._fresh(value.origin or "constant"), "Constant", {}, value.shape), ())
            self.graph.state[f"{name}.value"] = array
            self._constants[id(value.constant)] = (value.constant, name)
        return self._constants[id(value.constant)][1]

    def _hold(self, node: str, operator: str, role: str, array: Tensor) -> None:
        """Store a parameter; one that an earlier node of the operator has from the same initializer is shared."""
        key, stored = f"{node}.{role}", _storable(array, role)
        similar = [value for value in self._inputs if value.constant is not None and _same_size(value, array)]
        itself = [value for value in similar if _is_view(array, value.constant)]
        origins = [value.origin for value in itself or similar]
        if len(origins) == 1 and origins[0]:
            owner = self._owners.setdefault((origins[0], operator, role, tuple(array.shape)), key)
            if owner != key and torch.equal(self.graph.state[owner], stored):
                self.graph.tie(key, owner)
                return
        self.graph.state[key] = stored


def _is_view(array: Tensor, constant: Tensor | None) -> bool:
    return constant is not None and array.dtype == constant.dtype and array.data_ptr() == constant.data_ptr()


def _same_size(value: Traced, array: Tensor) -> bool:
    return value.constant is not None and value.constant.numel() == array.numel()


def _storable(array: Tensor, what: str) -> Tensor:
    """Return a parameter or constant as the IR keeps it: float32, integers or booleans, contiguous, its own memory."""
    if array.is_floating_point():
        array = array.float()
        if not bool(torch.isfinite(array).all()):
            raise GraphError.at(what, "it holds NaN or infinity in float32", FINITE)
    return array.detach().clone(memory_format=torch.contiguous_format)
