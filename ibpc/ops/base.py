"""The operator record, the registry, and the combinators that most rules are made of.

An operator is one file that registers one frozen `Operator`: name, attributes (JSON Schema), parameters, shape
rule, and `Rules`: how it acts on tensors (nominal), on boxes (interval), on both together in training (paired), and,
if it is not affine, which planes bound it over a box (relaxation). Affine operators need no relaxation: the
pull-back of a linear form is the vjp of the nominal rule.

Rules are plain functions `rule(call, *operands, **parameters)` on tensors. `ibpc.lowering` runs the same functions on
`torch.fx` proxies, so they may branch on the `call` (attributes, shapes, arithmetic) but never on values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import jsonschema
import torch

from ibpc.errors import GraphError, OperatorError, nearest
from ibpc.interval import Interval, Paired
from ibpc.ir import Attributes, Graph, Node, Shape
from ibpc.rounding import (
    UNIT,
    Arithmetic,
)

Tensor: TypeAlias = torch.Tensor
Operand: TypeAlias = Interval | Tensor
PairedOperand: TypeAlias = Paired | Tensor


# ── one application of an operator ──────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Call:
    """One application of an operator, with everything that is known before any value is.

    `operands`, `parameters` and `output` are shapes (dimension 0 is `BATCH` where the value depends on an input).
    `own` is the unit roundoff in which bounds are computed.
    """

    attributes: Attributes
    operands: tuple[Shape, ...]
    parameters: Mapping[str, Shape]
    output: Shape
    arithmetic: Arithmetic = Arithmetic.REAL
    own: float = UNIT

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]


def call_of(graph: Graph, node: Node, arithmetic: Arithmetic = Arithmetic.REAL) -> Call:
    """Return what is known of the node before any value is."""
    parameters = {role: tuple(value.shape) for role, value in graph.parameters_of(node.name).items()}
    operands = graph.shapes_of(graph.operands(node.name))
    return Call(node.attributes, operands, parameters, node.shape, arithmetic)


ScalingRule: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
ShapeRule: TypeAlias = Callable[[Attributes, tuple[Shape, ...], Mapping[str, Shape]], Shape]
NominalRule: TypeAlias = Callable[..., Tensor]
IntervalRule: TypeAlias = Callable[..., Interval]
PairedRule: TypeAlias = Callable[..., Paired]
TermsRule: TypeAlias = Callable[[Call], int]


@dataclass(frozen=True)
class Plane:
    """An affine form of an operator's operands: Σ slopes · view(operands) + offset.

    Slopes broadcast against the viewed operands. Without `views` the form is elementwise and has the shape of the
    output; a view is a linear rearrangement of an operand whose extra trailing dimension is summed (windows).
    """

    slopes: tuple[Tensor, ...]
    offset: Tensor
    views: tuple[Callable[[Tensor], Tensor], ...] = ()

    def __call__(self, *operands: Tensor) -> Tensor:
        """Evaluate the form at a point."""
        if not self.views:
            return self.offset + sum(slope * x for slope, x in zip(self.slopes, operands, strict=True))
        products = ((slope * view(x)).sum(-1) for slope, view, x in zip(self.slopes, self.views, operands, strict=True))
        return self.offset + sum(products)


@dataclass(frozen=True)
class Planes:
    """Two affine forms with lower(x) ≤ operator(x) ≤ upper(x) for every x in the box."""

    lower: Plane
    upper: Plane


@dataclass(frozen=True)
class Kernel:
    """How an affine operator on N×C×H×W sees windows of its operand, as a convolution does.

    output[m, y, x] = bias[m] + Σ weight[m, c, i, j] · operand[c, y · stride − pad + i · dilation, …], zero outside of
    the operand; `pads` are those before it, (top, left).
    """

    weight: Tensor
    bias: Tensor | None
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    group: int


# Σ factor · operand, element by element.
Factors: TypeAlias = tuple[float, ...]

LocalRule: TypeAlias = Callable[..., Kernel | Factors | None]
RelaxationRule: TypeAlias = Callable[..., Planes]
TunedRule: TypeAlias = Callable[..., Planes]
StartRule: TypeAlias = Callable[..., Tensor]
KinksRule: TypeAlias = Callable[..., tuple[Tensor | float, ...]]


@dataclass(frozen=True)
class Rules:
    """How an operator acts. `relaxation` is None exactly for affine operators.

    `training` is the nominal rule while training (it differs for BatchNormalization and Dropout). `tuned(call, t,
    *boxes)` gives planes for any t in [0, 1], of the shape of `start(call, *boxes)` and with any dimensions in front,
    those of the relaxation at the start; an operator without it is tuned between its relaxation and its constant
    bounds. `scaling(call, x)`, of operators whose
    training rule is not the nominal one, gives the a and b of a · x + b that training at the nominal operand x is.

    `local(call, **parameters)` of an affine operator says which few elements of its operands each result depends on:
    those in a window, or, where operands have the shape of the result, the one in its place; None: nothing is said.

    What exact methods need: `kinks(call, **parameters)` of an elementwise continuous operator are the rising points
    between which it is straight; the result of one that `selects` is the greatest of what its planes' views show.
    """

    nominal: NominalRule
    interval: IntervalRule
    paired: PairedRule
    relaxation: RelaxationRule | None
    training: NominalRule
    tuned: TunedRule | None = None
    start: StartRule | None = None
    scaling: ScalingRule | None = None
    kinks: KinksRule | None = None
    local: LocalRule | None = None
    selects: bool = False


# ── parameters, layers of a spec, ONNX ──────────────────────────────────────────────────────────────────────────
class Fill(Enum):
    """What a fresh parameter is filled with: the layer's initialisation scheme, zeros, or ones."""

    WEIGHT = "weight"
    BIAS = "bias"
    ZEROS = "zeros"
    ONES = "ones"
    QUARTER = "quarter"


@dataclass(frozen=True)
class Role:
    """A parameter of an operator: state entry `node.<name>`. Buffers are not `trainable`."""

    name: str
    fill: Fill
    trainable: bool = True
    optional: bool = False


@dataclass(frozen=True)
class LayerPlan:
    """What a spec layer becomes: complete attributes, and the shape of each fresh parameter."""

    attributes: Attributes
    parameters: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A friendly name for an operator in JSON specs: that of torch.nn where there is one.

    `options` is the JSON Schema of the layer's options (each property with its description and default). `plan` turns
    complete options and the operands' shapes into a LayerPlan and raises GraphError where they do not fit.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]]
    plan: Callable[[Mapping[str, Any], tuple[Shape, ...]], LayerPlan]
    required: tuple[str, ...] = ()


class Value(Protocol):
    """A value of a network that is being imported: constant, or computed from an input."""

    @property
    def constant(self) -> Tensor | None:
        """The value, if it is known."""
        ...

    @property
    def shape(self) -> Shape:
        """The shape (dimension 0 is `BATCH` where the value is not constant)."""
        ...


class Builder(Protocol):
    """What an ONNX import rule builds with."""

    def add(
        self,
        operator: str,
        operands: Iterable[Value],
        attributes: Attributes | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Value:
        """Add a node (attributes left out take their defaults) and return its value."""
        ...

    def constant(self, value: Tensor) -> Value:
        """Return a constant value."""
        ...


@dataclass(frozen=True)
class OnnxNode:
    """One ONNX node as an import rule sees it: `inputs` hold None for an input that is left out ("").

    `version` is the operator version that the file's opset decides. `attributes` hold python values (ints, floats,
    strings, lists, tensors) with the operator version's defaults filled in. `types` are the element types of the
    file's inputs (numbers of onnx.TensorProto.DataType, 0 for one that is left out), `unread` the output slots that
    nothing reads.
    """

    name: str
    type: str
    version: int
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: int = 1
    types: tuple[int, ...] = ()
    unread: frozenset[int] = frozenset()

    def type_of(self, slot: int) -> int:
        """Return the element type of the input of a slot in the file, 0 where it is left out or not known."""
        return self.types[slot] if slot < len(self.types) else 0

    def operand(self, slot: int) -> Value:
        """Return the input of a slot. Raises GraphError if it is left out."""
        value = self.inputs[slot] if slot < len(self.inputs) else None
        if value is None:
            raise GraphError.at(f"node {self.name}", f"input {slot} of {self.type} is left out", "a value")
        return value

    def optional(self, slot: int) -> Value | None:
        """Return the input of a slot, or None if it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def known(self, slot: int) -> Tensor:
        """Return the constant of a slot. Raises GraphError if it is left out or depends on an input."""
        constant = self.operand(slot).constant
        if constant is None:
            raise GraphError.at(
                f"node {self.name}", f"input {slot} of {self.type} depends on the network's input", "a constant"
            )
        return constant


class Writer(Protocol):
    """What an ONNX export rule writes with. Values are ONNX value names."""

    def node(self, type: str, inputs: Iterable[str], outputs: int = 1, /, **attributes: Any) -> str:
        """Append a node and return the name of its (first) output."""
        ...

    def constant(self, value: Tensor) -> str:
        """Add an initializer and return its name."""
        ...


@dataclass(frozen=True)
class OnnxImport:
    """How an ONNX operator type comes in. `versions` are the operator versions (since_version) that `read` knows.

    `read(node, builder)` returns the node's output value, or a tuple for several.
    """

    type: str
    versions: tuple[int, ...]
    read: Callable[[OnnxNode, Builder], Value | tuple[Value, ...]]


OnnxExport: TypeAlias = Callable[[Call, Writer, tuple[str, ...], Mapping[str, Tensor]], str]


# ── the record and the registry ─────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Operator:
    """All that is known about one operator. Nothing has a default that hides a missing rule.

    `attributes` is a JSON Schema `properties` object; a property without "default" is required. `operands` is the
    least and the greatest number of operands (None: no limit). `macs` counts the multiply-accumulates of one sample
    through a weight or a product, the cost that `ibpc show` lists. `writes` emits ONNX of opset 18.
    """

    name: str
    summary: str
    attributes: Mapping[str, Mapping[str, Any]]
    operands: tuple[int, int | None]
    roles: tuple[Role, ...]
    shape: ShapeRule
    macs: TermsRule
    rules: Rules
    reads: tuple[OnnxImport, ...]
    writes: OnnxExport
    layers: tuple[Layer, ...]

    def complete(self, attributes: Attributes) -> dict[str, Any]:
        """Return `attributes` with the defaults of those that are left out."""
        defaults = {name: schema["default"] for name, schema in self.attributes.items() if "default" in schema}
        return {**defaults, **attributes}

    def check_attributes(self, attributes: Attributes) -> Iterator[str]:
        """Yield what is wrong with complete attributes."""
        for name in attributes:
            if name not in self.attributes:
                hint = f"; {nearest(name, self.attributes)}" if self.attributes else ""
                yield f"{self.name} has no attribute {name!r}{hint}"
        for name, schema in self.attributes.items():
            if name not in attributes:
                yield f"attribute {name!r} of {self.name} is missing"
                continue
            for error in _validator(schema).iter_errors(attributes[name]):
                yield f"attribute {name!r} of {self.name}: {error.message}"

    def check_operands(self, count: int, roles: Iterable[str]) -> Iterator[str]:
        """Yield what is wrong with the number of operands and the parameters that are present."""
        least, most = self.operands
        if count < least or (most is not None and count > most):
            wanted = f"{least}" if most == least else f"{least} to {'any number' if most is None else most}"
            yield f"{self.name} has {count} operands, expected {wanted}"
        present = set(roles)
        for role in self.roles:
            if role.name not in present and not role.optional:
                yield f"{self.name} lacks its parameter {role.name!r}"
        for name in sorted(present - {role.name for role in self.roles}):
            yield f"{self.name} has no parameter {name!r}"

    def infer_shape(
        self, attributes: Attributes, operands: tuple[Shape, ...], parameters: Mapping[str, Shape]
    ) -> Shape:
        """Return the shape of the result. Raises GraphError where the operands do not fit."""
        return self.shape(attributes, operands, parameters)

    @property
    def is_affine(self) -> bool:
        """Whether the operator is affine in its operands jointly."""
        return self.rules.relaxation is None


_REGISTRY: Final[dict[str, Operator]] = {}


def register(operator: Operator) -> Operator:
    """Add an operator to the registry. Raises OperatorError for a duplicate or an incomplete record."""
    problems = list(_defects(operator))
    if problems:
        raise OperatorError.at(f"operator {operator.name}", "; ".join(problems), "a complete record")
    _REGISTRY[operator.name] = operator
    return operator


def _defects(operator: Operator) -> Iterator[str]:
    if operator.name in _REGISTRY:
        yield "the name is taken"
    if not operator.summary:
        yield "it has no summary"
    rules = operator.rules
    needed = {
        "shape": operator.shape,
        "macs": operator.macs,
        "nominal": rules.nominal,
        "interval": rules.interval,
        "paired": rules.paired,
        "training": rules.training,
        "writes": operator.writes,
    }
    for name, rule in needed.items():
        if not callable(rule):
            yield f"its rule {name!r} is missing"
    if rules.relaxation is not None and not callable(rules.relaxation):
        yield "its rule 'relaxation' is neither a function nor None (affine)"
    if (rules.training is rules.nominal) != (rules.scaling is None):
        yield "it has a rule 'scaling' exactly if its training rule is not the nominal one"
    for read in operator.reads:
        taken = [other.name for other in _REGISTRY.values() if any(read.type == r.type for r in other.reads)]
        if taken:
            yield f"ONNX {read.type} is already imported by {taken[0]}"
    for layer in operator.layers:
        if any(layer.name == other.name for op in _REGISTRY.values() for other in op.layers):
            yield f"the layer name {layer.name} is taken"
    for name, schema in operator.attributes.items():
        try:
            jsonschema.Draft202012Validator.check_schema(dict(schema))
        except jsonschema.SchemaError as error:
            yield f"the schema of attribute {name!r} is invalid: {error.message}"


def operators() -> Mapping[str, Operator]:
    """Return all registered operators by name."""
    return MappingProxyType(_REGISTRY)


_VALIDATORS: Final[dict[int, tuple[Mapping[str, Any], jsonschema.Draft202012Validator]]] = {}


def _validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    key = id(schema)
    if key not in _VALIDATORS:
        _VALIDATORS[key] = (schema, jsonschema.Draft202012Validator(dict(schema)))
    return _VALIDATORS[key][1]
