"""The vocabulary of JSON specs and their JSON Schema, assembled from the operator records so that it cannot drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ibpc.errors import unreachable
from ibpc.frontends.initialization import SCHEMES
from ibpc.ops import operators
from ibpc.ops.base import Fill, Layer, Operator

SPEC_VERSION: Final = 1
DATASETS: Final = ("mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "digits")
CONSTRAINTS: Final = ("nonnegative",)
NORMS: Final = ("spectral",)
INPUT_NAME: Final = "input"
MOST_LAYERS: Final = 1024

# The lookahead keeps Python's `$` from accepting a final newline.
_NODE_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)"
_TITLE: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$(?!\n)"
_NAME: Final[Mapping[str, Any]] = {
    "title": "a name of letters, digits and underscores, at most 64",
    "type": "string",
    "pattern": _NODE_NAME,
    "maxLength": 64,
}
_POSITIVE: Final[Mapping[str, Any]] = {"type": "integer", "minimum": 1}


def layer_types() -> dict[str, tuple[Operator, Layer]]:
    """Return every layer that a spec may use, by name, with the operator behind it."""
    pairs = ((operator, layer) for operator in operators().values() for layer in operator.layers)
    return {layer.name: (operator, layer) for operator, layer in sorted(pairs, key=lambda pair: pair[1].name)}


def has_weight(operator: Operator) -> bool:
    """Whether the operator has a weight that an initialization scheme fills and that can be constrained."""
    return any(role.fill is Fill.WEIGHT for role in operator.roles)


# ── the schema ──────────────────────────────────────────────────────────────────────────────────────────────────
def spec_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec."""
    layers = layer_types()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a spec: an object",
        "type": "object",
        "properties": spec_properties(),
        "required": ["ibpc", "name", "input", "classes"],
        "additionalProperties": False,
        "oneOf": [{"required": ["layers"]}, {"required": ["graph"]}],
        "$defs": {
            "layer": _choice(layers),
            **{name: _layer(operator, layer) for name, (operator, layer) in layers.items()},
        },
    }


def spec_properties() -> dict[str, Any]:
    """Return the schema of each property of a spec."""
    return {
        "ibpc": {"description": "Version of this format", "const": SPEC_VERSION},
        "name": {
            "description": "Name of the network",
            "title": "a name of letters, digits, dots, dashes and underscores, at most 64",
            "type": "string",
            "pattern": _TITLE,
            "maxLength": 64,
        },
        "description": {"description": "What a reader should know of it", "type": "string"},
        "input": {
            "description": "What goes in",
            "type": "object",
            "properties": input_properties(),
            "required": ["shape"],
            "additionalProperties": False,
        },
        "classes": {"description": "Number of logits of the last layer", "type": "integer", "minimum": 2},
        "dataset": {
            "description": "Data set that `train` and `certify` use if told nothing else",
            "title": "a data set",
            "enum": list(DATASETS),
        },
        "init": {"description": "Initialization of all layers that state none", "default": "pytorch", **_scheme()},
        "layers": {
            "description": "A chain: each layer reads the one before, the first one the input",
            "title": f"a list of 1 to {MOST_LAYERS} layers",
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_LAYERS,
            "items": {
                "$ref": "#/$defs/layer",
                "properties": {"inputs": _nothing('no inputs: a layer of a chain reads the one before; use "graph"')},
            },
        },
        "graph": {
            "description": "Named nodes, instead of `layers`",
            "title": "an object",
            "type": "object",
            "properties": graph_properties(),
            "required": ["nodes", "output"],
            "additionalProperties": False,
        },
    }


def input_properties() -> dict[str, Any]:
    """Return the schema of each property of `input`."""
    return {
        "shape": {
            "description": "Shape of one sample, without the batch: channels first",
            "type": "array",
            "items": _POSITIVE,
            "minItems": 1,
            "maxItems": 8,
        },
        "range": {
            "description": "Least and greatest value of the data, before normalization; null where there is none",
            "anyOf": [
                {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                {"type": "null"},
            ],
            "default": [0, 1],
        },
        "mean": {
            "description": "Subtracted from the input: one number, or one per channel (the first dimension)",
            **_per_channel({"type": "number"}),
        },
        "std": {
            "description": "Divides the input after that: one number, or one per channel",
            **_per_channel({"type": "number", "exclusiveMinimum": 0}),
        },
    }


def graph_properties() -> dict[str, Any]:
    """Return the schema of each property of `graph`."""
    inputs, name = common_options()["inputs"], _nothing("no name: a node's key is its name")
    return {
        "nodes": {
            "description": "The nodes by name, in any order",
            "title": f"an object of 1 to {MOST_LAYERS} nodes whose names are letters, digits and underscores",
            "type": "object",
            "minProperties": 1,
            "maxProperties": MOST_LAYERS,
            "propertyNames": _NAME,
            "additionalProperties": {
                "$ref": "#/$defs/layer",
                "required": ["inputs"],
                "properties": {"inputs": inputs, "name": name},
            },
        },
        "output": {"description": "The node that gives the logits", "title": "the name of a node", "type": "string"},
    }


def common_options() -> dict[str, Any]:
    """Return the schema of each option that is not of one layer type alone."""
    return {
        "name": {"description": "Name of the node (chains only)", **_NAME},
        "inputs": {
            "description": 'What the node reads: names of nodes, or "input" (graphs only)',
            "title": "a list of names of nodes",
            "type": "array",
            "items": {"title": "the name of a node", "type": "string"},
            "minItems": 1,
            "maxItems": MOST_LAYERS,
        },
        "init": {"description": "Initialization of weight and bias", **_scheme()},
        "constraint": {"description": "The weight that is trained and used is ≥ 0", "enum": list(CONSTRAINTS)},
        "norm": {
            "description": "Divides the weight by its largest singular value, estimated in each step of training",
            "enum": list(NORMS),
        },
    }


def _choice(names: Iterable[str]) -> dict[str, Any]:
    """Return the schema of any layer: by its type, so that errors are those of the type that is meant."""
    listed = list(names)
    return {
        "title": "a layer: an object",
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"title": "a layer type", "enum": listed}},
        "allOf": [
            {"if": {"required": ["type"], "properties": {"type": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}}
            for name in listed
        ],
    }


def _layer(operator: Operator, layer: Layer) -> dict[str, Any]:
    common = common_options()
    if not has_weight(operator):
        common |= {key: _nothing(f"no {key}: {layer.name} has no weight") for key in ("init", "constraint", "norm")}
    clashes = sorted(layer.options.keys() & (common.keys() | {"type"}))
    if clashes:
        unreachable(f"layer {layer.name} has options with the name of a common one: {', '.join(clashes)}")
    return {
        "properties": {"type": {"const": layer.name}, **common, **layer.options},
        "required": list(layer.required),
        "additionalProperties": False,
    }


def _scheme() -> dict[str, Any]:
    return {"title": "an initialization", "enum": list(SCHEMES)}


def _per_channel(number: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [number, {"type": "array", "items": number, "minItems": 1}]}


def _nothing(title: str) -> dict[str, Any]:
    """Return the schema that accepts nothing; `title` says why."""
    return {"title": title, "not": {}}
