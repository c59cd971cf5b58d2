"""Frozen dataclasses whose fields carry their JSON Schema, so that a recipe's values are described once.

Declare a value with `value(default, description, **keywords)`, a nested dataclass with
`field(default_factory=Kind, metadata=section(description))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_SCHEMA = "schema"


def value(default: Any, description: str, **keywords: Any) -> Any:
    """Return a dataclass field of a JSON value, described by schema `keywords`."""
    return field(default=default, metadata={_SCHEMA: {"description": description, **keywords}})


def required(description: str, **keywords: Any) -> Any:
    """Return a dataclass field without a default."""
    return field(metadata={_SCHEMA: {"description": description, **keywords}})


def section(description: str) -> dict[str, Any]:
    """Return the metadata of a field that holds a nested dataclass of values, all of which have defaults."""
    return {_SCHEMA: {"description": description}}


def optional(**keywords: Any) -> dict[str, Any]:
    """Return the schema keywords of a value that may be null."""
    return {"anyOf": [keywords, {"type": "null"}]}


def object_schema(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a dataclass: no other values, and those without a default are required."""
    properties = {}
    for entry in fields(kind):
        own = dict(entry.metadata[_SCHEMA])
        if nested := _section_of(entry):
            own |= object_schema(nested)
        elif entry.default is not MISSING:
            own["default"] = _plain(entry.default)
        properties[entry.name] = own
    needed = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
    return {
        "title": "an object",
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def build(kind: type[T], data: Mapping[str, Any]) -> T:
    """Return the dataclass of valid JSON data; missing values take their defaults."""
    arguments = {}
    for entry in fields(kind):
        if entry.name not in data:
            continue
        given = data[entry.name]
        nested = _section_of(entry)
        arguments[entry.name] = build(nested, given) if nested else _frozen(given)
    return kind(**arguments)


def to_data(record: Any) -> dict[str, Any]:
    """Return a dataclass of values as plain JSON data."""
    return {entry.name: _plain(getattr(record, entry.name)) for entry in fields(record)}


def _section_of(entry: Field[Any]) -> type[Any] | None:
    return entry.default_factory if isinstance(entry.default_factory, type) else None


def _plain(given: Any) -> Any:
    if is_dataclass(given):
        return to_data(given)
    return [_plain(item) for item in given] if isinstance(given, tuple) else given


def _frozen(given: Any) -> Any:
    return tuple(map(_frozen, given)) if isinstance(given, list) else given
