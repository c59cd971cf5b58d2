"""The operator record and the registry.

An operator is one file that registers one frozen `Operator`: name, attributes (JSON Schema), parameters, shape
rule, and `Rules`: how it acts on tensors (nominal), on boxes (interval), on both together in training (paired), and,
if it is not affine, which planes bound it over a box (relaxation). Affine operators need no relaxation: the
pull-back of a linear form is the vjp of the nominal rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import jsonschema

from ibpc.errors import OperatorError, nearest
from ibpc.ir import Attributes, Shape
from ibpc.ops.onnx import OnnxExport, OnnxImport
from ibpc.ops.rules import Rules, ShapeRule, TermsRule


# ── parameters, layers of a spec ────────────────────────────────────────────────────────────────────────────────
class Fill(Enum):
    """What a fresh parameter holds: random values of the layer's initialization scheme, or the constant 0, 1 or 1/4."""

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
    """A friendly name for an operator in JSON specs: the name in torch.nn where there is one.

    `options` is the JSON Schema of the layer's options (each property with its description and default). `plan` turns
    complete options and the operands' shapes into a LayerPlan and raises GraphError if they do not fit.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]]
    plan: Callable[[Mapping[str, Any], tuple[Shape, ...]], LayerPlan]
    required: tuple[str, ...] = ()


# ── the record and the registry ─────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Operator:
    """All that is known about one operator. Every field is required; `Rules` says what absent rules mean.

    `attributes` is a JSON Schema `properties` object; a property without "default" is required. `operands` is the
    least and the greatest number of operands (None: no limit). `macs` counts the multiply-accumulates that one sample
    costs in weights and products, as `ibpc show` lists them. `writes` emits ONNX of opset 18.
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
        """Return `attributes` with defaults filled in."""
        defaults = {name: schema["default"] for name, schema in self.attributes.items() if "default" in schema}
        return {**defaults, **attributes}

    def check_attributes(self, attributes: Attributes) -> Iterator[str]:
        """Yield the problems of complete attributes."""
        for name in attributes:
            if name not in self.attributes:
                hint = f"; {nearest(name, self.attributes)}" if self.attributes else ""
                yield f"{self.name} has no attribute {name!r}{hint}"
        for name in self.attributes:
            if name not in attributes:
                yield f"attribute {name!r} of {self.name} is missing"
                continue
            for error in self._validators[name].iter_errors(attributes[name]):
                yield f"attribute {name!r} of {self.name}: {error.message}"

    @cached_property
    def _validators(self) -> Mapping[str, jsonschema.Draft202012Validator]:
        return {name: jsonschema.Draft202012Validator(dict(schema)) for name, schema in self.attributes.items()}

    @property
    def trainable(self) -> frozenset[str]:
        """The names of the roles that training changes."""
        return frozenset(role.name for role in self.roles if role.trainable)

    def check_operands(self, count: int, roles: Iterable[str]) -> Iterator[str]:
        """Yield the problems of the number of operands and of the parameters present."""
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
        """Return the shape of the result. Raises GraphError if the operands do not fit."""
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
