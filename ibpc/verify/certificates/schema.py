"""The format of certificates as a JSON schema, and reading files of that format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

from ibpc.errors import PropertyError, raise_all
from ibpc.frontends.strict_json import data_problems, read_json, schema_problems
from ibpc.rounding import Arithmetic
from ibpc.verify.verdicts import Verdict

MOST_BYTES: Final = 2**28

_READ_VERSIONS: Final = (1, 2, 3)
_TEXT: Final = {"type": "string"}
_RATIONAL: Final = {"type": "string", "pattern": r"^-?[0-9]{1,4000}(/[1-9][0-9]{0,4000})?$"}
_INDEX: Final = {"type": "integer", "minimum": 0}
_MAYBE_NUMBER: Final = {"type": ["number", "null"]}
_MAYBE_NUMBERS: Final = {"type": ["array", "null"], "items": {"type": "number"}}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _object(properties: Mapping[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


_TERMS: Final = _list({"type": "array", "prefixItems": [_INDEX, _RATIONAL], "minItems": 2, "maxItems": 2})
_ROW: Final = _object({"outputs": _TERMS, "inputs": _TERMS, "bound": _RATIONAL, "strict": {"type": "boolean"}})
_CASE: Final = _object(
    {
        "lower": _list(_RATIONAL),
        "upper": _list(_RATIONAL),
        "open_lower": _list(_INDEX),
        "open_upper": _list(_INDEX),
        "disjuncts": _list(_list(_ROW)),
    }
)
_TENSOR: Final = _object({"name": _TEXT, "shape": _list({"type": "integer", "minimum": 1})})
_HEAD: Final = {
    "certificate": {"enum": list(_READ_VERSIONS)},
    "kind": {"enum": ["property", "data"]},
    "model": _TEXT,
    "model_sha256": _TEXT,
    "mean": _MAYBE_NUMBERS,
    "std": _MAYBE_NUMBERS,
    "arithmetic": {"enum": [arithmetic.value for arithmetic in Arithmetic]},
    "assumptions": _TEXT,
    "notes": _list(_TEXT),
    "versions": {"type": "object"},
    "method": _TEXT,
    "seconds": {"type": "number"},
}
_COUNTEREXAMPLE: Final = {
    "type": ["object", "null"],
    "properties": {"inputs": _list({"type": "number"}), "outputs": _list({"type": "number"}), "judge": _TEXT},
    "required": ["inputs", "outputs"],
}
_VERDICT: Final = {"enum": [verdict.value for verdict in Verdict]}
_PROPERTY: Final = _object(
    {
        **_HEAD,
        "property": _TEXT,
        "verdict": _VERDICT,
        "margin_lower": _list(_list(_MAYBE_NUMBER)),
        "counterexample": _COUNTEREXAMPLE,
        "region": _object({"inputs": _list(_TENSOR), "outputs": _list(_TENSOR), "cases": _list(_CASE)}),
        # The steps of a proof are validated by the checker that replays them.
        "proofs": _list(_list({"type": ["array", "null"]})),
    },
    ("proofs",),
)
_EXAMPLE: Final = _object(
    {
        "counterexample": {"type": ["string", "null"]},
        "index": _INDEX,
        "label": _INDEX,
        "predicted": _INDEX,
        "verdict": _VERDICT,
        "method": _TEXT,
        "margin_lower": _list(_MAYBE_NUMBER),
        "seconds": {"type": "number", "minimum": 0},
    },
    ("counterexample", "method", "seconds"),
)
_SHARE: Final = {"type": "number", "minimum": 0, "maximum": 1}
_DATA: Final = _object(
    {
        **_HEAD,
        "data": _TEXT,
        "data_sha256": _TEXT,
        "split": {"const": "test"},
        "n": _INDEX,
        # Of version 3 on; without them the examples are the first of the data.
        "images": _list(_INDEX),
        "eps": {"type": "number", "minimum": 0},
        "nominal_accuracy": _SHARE,
        "attack_accuracy": _SHARE,
        "certified_accuracy": _SHARE,
        "attack": _object({"steps": _INDEX, "restarts": _INDEX, "seed": _INDEX}),
        "timeout": _MAYBE_NUMBER,
        "examples": _list(_EXAMPLE),
    },
    ("images", "attack", "timeout"),
)


def read_certificate(path: Path) -> dict[str, Any]:
    """Return the validated JSON data of a certificate. Raises PropertyError or SpecError with all that is wrong."""
    data = read_json(path, MOST_BYTES)
    raise_all(PropertyError, data_problems(data, str(path), (0.0, inf)))
    kind = data.get("kind") if isinstance(data, dict) else None
    raise_all(PropertyError, schema_problems(data, _DATA if kind == "data" else _PROPERTY, str(path)))
    return dict(data)
