"""Reading JSON files that people write, and saying everything that is wrong with them.

Specs and recipes share this: `read_json` turns a file into data, `data_problems` finds what no schema can (keys that
occur twice, NaN, numbers that binary32 cannot hold), `schema_problems` translates the errors of JSON Schema into
problems with the JSON path, what was found, what was expected, and the nearest valid word.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from jsonschema import Draft202012Validator, TypeChecker, ValidationError
from jsonschema.validators import extend

from ibpc.errors import Problem, SpecError, nearest
from ibpc.rounding import LARGEST, SMALLEST

MOST_BYTES: Final = 16 * 2**20
DEEPEST: Final = 32
LARGEST_INTEGER: Final = 2**31
BINARY32: Final = (SMALLEST, LARGEST)

JsonPath: TypeAlias = tuple[str | int, ...]

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHOWN: Final = 60


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────
class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys occurred more than once."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def read_json(path: str | Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the data of a JSON file (UTF-8, by default at most 16 MiB); check it with `data_problems`.

    Raises SpecError where the file cannot be read or is not JSON, with the line and column.
    """
    where = str(path)
    try:
        return json.loads(_text(Path(path), most_bytes), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}, column {error.colno}"
        raise SpecError.at(place, f"not JSON: {error.msg}", "valid JSON") from None
    except RecursionError:
        raise SpecError.at(where, "too deeply nested", f"at most {DEEPEST} levels") from None
    except ValueError:
        raise SpecError.at(where, "a number of thousands of digits", f"integers below {LARGEST_INTEGER}") from None


def _text(path: Path, most_bytes: int) -> str:
    try:
        if path.exists() and not path.is_file():
            raise SpecError.at(path, "not a file", "a JSON file")
        if path.exists() and path.stat().st_size > most_bytes:
            raise SpecError.at(path, f"a file of {path.stat().st_size} bytes", f"at most {most_bytes} bytes")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError.at(path, "no such file", "a JSON file") from None
    except UnicodeDecodeError as error:
        raise SpecError.at(path, f"not UTF-8 at byte {error.start}", "JSON in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SpecError.at(path, f"cannot be read: {reason}", "a JSON file") from None


# ── what no schema finds ────────────────────────────────────────────────────────────────────────────────────────
def data_problems(data: Any, where: str, moduli: tuple[float, float] = BINARY32) -> list[Problem]:
    """Return what is wrong with any value in `data`: nesting, repeated keys, numbers out of range.

    `moduli` are the least and the greatest modulus of a number other than 0: by default what binary32 holds.
    """
    problems: list[Problem] = []
    pending: list[tuple[JsonPath, Any]] = [((), data)]
    while pending:
        path, value = pending.pop()
        if len(path) > DEEPEST:
            return [Problem(located(where, path[:3]), "too deeply nested", f"at most {DEEPEST} levels")]
        problems.extend(Problem(located(where, path), found, wanted) for found, wanted in _value_faults(value, moduli))
        pending.extend(reversed(list(_children(path, value))))
    return problems


def _children(path: JsonPath, value: Any) -> Iterator[tuple[JsonPath, Any]]:
    if isinstance(value, Mapping):
        yield from (((*path, str(key)), child) for key, child in value.items())
    elif isinstance(value, list | tuple):
        yield from (((*path, index), child) for index, child in enumerate(value))


def _value_faults(value: Any, moduli: tuple[float, float]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        repeated = value.repeated if isinstance(value, _Object) else ()
        yield from ((f"the key {shown(key)} occurs more than once", "unique keys") for key in repeated)
        yield from ((f"the key {key!r}", "a string") for key in value if not isinstance(key, str))
    elif isinstance(value, bool):
        return
    elif isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        yield f"found {shown(value)}", f"an integer below {LARGEST_INTEGER}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"found {value}", "a finite number"
    elif isinstance(value, float) and value != 0 and not moduli[0] <= abs(value) <= moduli[1]:
        yield f"found {value}", "0 or a number from 1.2e-38 to 3.4e38, as binary32 holds it"


# ── schemas ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _is_integer(checker: TypeChecker, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_array(checker: TypeChecker, value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_object(checker: TypeChecker, value: Any) -> bool:
    return isinstance(value, Mapping)


# JSON Schema takes 16.0 for an integer; here it would end up as the size of a tensor.
_StrictValidator: Final = cast(Callable[..., type[Draft202012Validator]], extend)(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "array": _is_array, "object": _is_object}
    ),
)


def schema_problems(data: Any, schema: Mapping[str, Any], where: str) -> list[Problem]:
    """Return what JSON Schema finds wrong with `data`, one problem for each mistake, in the schema's order.

    A subschema's "title" says what is expected there, as a noun phrase; without one its keywords are spelled out.
    """
    found = (
        problem for error in _StrictValidator(dict(schema)).iter_errors(data) for problem in _translated(error, where)
    )
    return list(dict.fromkeys(found))


def _translated(error: ValidationError, where: str) -> Iterator[Problem]:
    path = tuple(error.absolute_path)
    schema = cast(Mapping[str, Any], error.schema)
    argument, instance = cast(Any, error.validator_value), cast(Any, error.instance)
    if error.validator == "additionalProperties":
        known = schema["properties"]
        for key in instance:
            if key not in known:
                yield Problem(located(where, (*path, key)), "unknown option", remedy=nearest(str(key), _usable(known)))
    elif error.validator == "required":
        for key in argument:
            if key not in instance:
                yield Problem(located(where, path), f"{shown(key)} is missing", _expected_of(schema, key))
    elif error.validator == "oneOf" and isinstance(instance, Mapping):
        yield _not_one(instance, argument, located(where, path))
    else:
        place = located(where, path)
        yield Problem(place, f"found {shown(instance)}", describe(schema), _remedy(instance, schema))


def _not_one(found: Mapping[str, Any], choices: Iterable[Mapping[str, Any]], place: str) -> Problem:
    """Return the problem of a `oneOf` whose choices each require one key."""
    keys = [choice["required"][0] for choice in choices]
    present = " and ".join(shown(key) for key in keys if key in found) or "none of them"
    return Problem(place, f"found {present}", f"one of {' and '.join(shown(key) for key in keys)}")


def _usable(known: Mapping[str, Any]) -> Iterable[str]:
    return (key for key, schema in known.items() if not (isinstance(schema, Mapping) and "not" in schema))


def _expected_of(schema: Mapping[str, Any], key: str) -> str:
    subschema = schema.get("properties", {}).get(key)
    return describe(subschema) if isinstance(subschema, Mapping) else ""


def _remedy(found: Any, schema: Mapping[str, Any]) -> str:
    words = tuple(_words(schema))
    return nearest(found, words) if words and isinstance(found, str) else ""


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    for choice in schema.get("anyOf", [schema]):
        yield from (word for word in choice.get("enum", ()) if isinstance(word, str))


# ── wording ─────────────────────────────────────────────────────────────────────────────────────────────────────
def json_path(path: Iterable[str | int]) -> str:
    """Return a path as `$.layers[2].kernel_size`; keys that are no plain words are quoted."""
    steps = []
    for step in path:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            steps.append(f".{step}" if _PLAIN_KEY.match(step) else f"[{shown(step)}]")
    return "".join(["$", *steps])


def located(where: str, path: Iterable[str | int]) -> str:
    """Return the place of a problem: the file and the JSON path in it."""
    return f"{where}: {json_path(path)}"


def shown(value: Any) -> str:
    """Return a value as short, printable JSON text."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= _SHOWN else f"{printable[:_SHOWN]}…"


def describe(schema: Mapping[str, Any]) -> str:
    """Return in words what a schema accepts: its title, or its keywords spelled out."""
    if "title" in schema:
        return str(schema["title"])
    if "anyOf" in schema:
        return ", or ".join(describe(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return shown(schema["const"])
    if "enum" in schema:
        return " or ".join(shown(word) for word in schema["enum"])
    if isinstance(schema.get("type"), list):
        return ", or ".join(_describe_type({**schema, "type": kind}) for kind in schema["type"])
    return _describe_type(schema)


def _describe_type(schema: Mapping[str, Any]) -> str:
    match schema.get("type"):
        case "array":
            return f"a list of {_count(schema)}{_plural(schema.get('items', {}))}"
        case "integer" | "number" as kind:
            article = "an" if kind == "integer" else "a"
            return f"{article} {kind}{_limits(schema)}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "object":
            return "an object"
        case "string":
            return "a string"
        case _:
            return "a JSON value"


def _count(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is not None:
        return f"{least} " if least == most else f"{least} to {most} "
    return f"{least} or more " if least else ""


def _plural(schema: Mapping[str, Any]) -> str:
    if schema.get("type") in ("integer", "number"):
        return f"{schema['type']}s{_limits(schema)}"
    if schema.get("type") in ("string", "boolean", "object"):
        return f"{schema['type']}s"
    return f"values, each {describe(schema)}"


def _limits(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[keyword]}" for keyword, sign in signs.items() if keyword in schema]
    return f" {' and '.join(limits)}" if limits else ""
