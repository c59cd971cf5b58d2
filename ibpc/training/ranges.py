"""The ranges of a sweep: values of a recipe that vary over an interval or among choices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from ibpc.errors import Problem, SpecError, UsageError, raise_all
from ibpc.frontends.strict_json import data_problems, read_json, schema_problems
from ibpc.training.methods import methods, reads
from ibpc.training.recipe import Recipe

_NUMBER: Final = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_INTERVAL: Final = re.compile(rf"({_NUMBER})\.\.({_NUMBER})\s*(log)?\Z")
_FIXED: Final = ("eps", "validation.")
_SCHEMA: Final[Mapping[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "ranges: an object",
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "title": "a range: low and high, or choices",
        "anyOf": [
            {
                "type": "object",
                "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "log": {"type": "boolean"}},
                "required": ["low", "high"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"choices": {"type": "array", "minItems": 1}},
                "required": ["choices"],
                "additionalProperties": False,
            },
        ],
    },
}


class Trial(Protocol):
    """The methods of an Optuna trial that ranges use."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """Return an integer from low to high."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return a number from low to high."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Numbers from `low` to `high`, uniform in the logarithm with `log`; integers if the recipe wants integers."""

    key: str
    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial) -> Any:
        """Return the value that a trial takes."""
        if _is_whole(self.key):
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def ends(self) -> tuple[Any, ...]:
        """Return the values whose validity implies that of all values."""
        return self.low, self.high

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Choices:
    """One of the JSON `values`."""

    key: str
    values: tuple[Any, ...]

    def suggest(self, trial: Trial) -> Any:
        """Return the value that a trial takes."""
        return json.loads(trial.suggest_categorical(self.key, [json.dumps(value) for value in self.values]))

    def ends(self) -> tuple[Any, ...]:
        """Return the values whose validity implies that of all values."""
        return self.values

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"choices": list(self.values)}


def _is_whole(key: str) -> bool:
    """Return whether the recipe's schema wants integers for a value, by its dotted name."""
    place: Mapping[str, Any] = Recipe.schema()
    for step in key.split("."):
        place = place["properties"][step]
    return any(kind.get("type") == "integer" for kind in (place, *place.get("anyOf", ())))


Range: TypeAlias = Numbers | Choices


def parse_range(text: str) -> Range:
    """Return the range of `KEY=LOW..HIGH`, `KEY=LOW..HIGHlog` or `KEY=A,B,C`. Raises UsageError for anything else."""
    key, separator, rest = text.partition("=")
    if not separator or not key or not rest:
        raise UsageError.at("--range", f"found {text!r}", "KEY=LOW..HIGH, KEY=LOW..HIGHlog or KEY=A,B,C")
    if match := _INTERVAL.match(rest.strip()):
        return Numbers(key, _number(match[1]), _number(match[2]), bool(match[3]))
    if ".." in rest:
        raise UsageError.at("--range", f"found {text!r}", "two numbers around .., then nothing or log")
    return Choices(key, tuple(map(_value, rest.split(","))))


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,15}", text) else float(text)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def load_ranges(path: Path) -> tuple[Range, ...]:
    """Return the ranges of a file: `{"KEY": {"low": 0.1, "high": 1, "log": true}, "KEY": {"choices": […]}}`.

    Raises SpecError with everything that is wrong.
    """
    data = read_json(path)
    raise_all(SpecError, data_problems(data, str(path)))
    raise_all(SpecError, schema_problems(data, _SCHEMA, str(path)))
    return tuple(
        Choices(key, tuple(entry["choices"]))
        if "choices" in entry
        else Numbers(key, entry["low"], entry["high"], entry.get("log", False))
        for key, entry in data.items()
    )


def check_ranges(ranges: Sequence[Range], recipe: Recipe) -> None:
    """Raise UsageError if there is no range, SpecError unless the ends of every range make valid recipes."""
    if not ranges:
        raise UsageError.at("sweep", "nothing to vary", "--range KEY=LOW..HIGH or --ranges FILE.json")
    found = [problem for entry in ranges for problem in _problems(entry, ranges, recipe)]
    raise_all(SpecError, dict.fromkeys(found))  # both ends of a range may have the same


def _reader(key: str, ranges: Sequence[Range]) -> dict[str, Any]:
    """Return the first of the methods that vary that reads a value, as a change; nothing where none does."""
    varied = [end for entry in ranges if entry.key == "method" and key != "method" for end in entry.ends()]
    found = next((method for method in varied if method in methods() and reads(method, key)), None)
    return {} if found is None else {"method": found}


def _problems(entry: Range, ranges: Sequence[Range], recipe: Recipe) -> Iterator[Problem]:
    where = f"range of {entry.key}"
    if sum(other.key == entry.key for other in ranges) > 1:
        yield Problem(where, "given twice", "one range a value")
    if entry.key.startswith(_FIXED):
        yield Problem(where, "it would change what trials are compared by", "another value of the recipe")
        return
    if isinstance(entry, Numbers) and not (entry.low < entry.high and (entry.low > 0 or not entry.log)):
        yield Problem(where, f"from {entry.low:g} to {entry.high:g}", "a rising interval, above 0 with log")
        return
    for value in entry.ends():
        try:
            recipe.with_overrides({**_reader(entry.key, ranges), entry.key: value})
        except SpecError as error:
            yield from (
                Problem(f"{where}: {problem.where}", problem.found, problem.expected, problem.remedy)
                for problem in error.problems
            )
