"""The one family of errors.

Every error is a list of problems, and every problem says where it is, what was found there, what was expected,
and how to mend it. The command line prints one line a problem and exits with status 2; a Python caller catches
`IbpcError`, or one of its children to tell the stages apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NoReturn, Self

_LONGEST_REASON: Final = 300
# What colors text on terminals.
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where` it is, what was `found`, what was `expected`, and the `remedy`."""

    where: str
    found: str
    expected: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.found}"]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)


class IbpcError(Exception):
    """Base of all errors that bad input or a bad environment can cause. Carries its `problems`."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def at(cls, where: object, found: str, expected: str = "", remedy: str = "") -> Self:
        """Make an error of a single problem."""
        return cls(Problem(str(where), found, expected, remedy))


class SpecError(IbpcError):
    """A JSON spec or recipe is malformed or describes an impossible network."""


class ModelError(IbpcError):
    """An ONNX file or a torch module cannot be imported faithfully."""


class GraphError(IbpcError):
    """A graph breaks an invariant of the IR."""


class OperatorError(IbpcError):
    """An operator record is incomplete or collides with another one."""


class ArtifactError(IbpcError):
    """A compiled folder or a run folder is missing, damaged, or in the way."""


class DataError(IbpcError):
    """A data set or an input file is missing or unusable."""


class PropertyError(IbpcError):
    """A property (VNN-LIB file, radius, label) is malformed or does not fit the network."""


class TrainingError(IbpcError):
    """A training run cannot start or go on."""


class UsageError(IbpcError):
    """An option of the command line or an argument of the API has an impossible value."""


def raise_all(kind: type[IbpcError], problems: Iterable[Problem]) -> None:
    """Raise one error of `kind` that carries all `problems`, if there are any."""
    collected = tuple(problems)
    if collected:
        raise kind(collected)


def nearest(word: object, known: Iterable[str]) -> str:
    """Return the remedy text that names the known word nearest to `word`, all of them where none is near."""
    choices = sorted(known)
    word = word if isinstance(word, str) else ""
    lowered = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    if matches:
        return f"did you mean {lowered[matches[0]]!r}?"
    return "choose from " + ", ".join(choices)


def first_line(error: BaseException) -> str:
    """Return the first line of a third-party error's message, shortened if long, or its class if it has no message.

    Colors are taken out.
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (_ESCAPES.sub("", reason).strip() or type(error).__name__).splitlines()[0][:_LONGEST_REASON]


class ThirdPartyError(Exception):
    """A failure inside third-party code, reduced to its first line; the caller converts it to an IbpcError."""


@contextmanager
def third_party() -> Iterator[None]:
    """Raise ThirdPartyError for whatever third-party code raises: its errors share no class but Exception.

    Only for a user's module or data set, torch's exporters, ONNX Runtime and evaluators on numbers of a file.
    """
    try:
        yield
    except Exception as error:
        raise ThirdPartyError(first_line(error)) from error


def unreachable(what: str) -> NoReturn:
    """Mark a state that only a bug in ibpc can reach."""
    raise AssertionError(f"bug in ibpc: {what}")
