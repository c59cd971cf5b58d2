"""Verdicts written to disk as they come: one JSON line per example, so a killed process loses nothing it wrote.

A report FILE has journals FILE.0.jsonl, FILE.1.jsonl, … beside it, one per process. The first line of each identifies
its job. They are read when the job is resumed, by any number of processes, and removed once FILE is complete.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ibpc.errors import PropertyError, first_line
from ibpc.files import MOST_BYTES, beside, read_regular, unwritable
from ibpc.verify.results import Example


class Journal:
    """The examples of one job that have a verdict, by index; `add` writes them through to the disk.

    Without a `path` the journal starts empty and writes nothing.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], rank: int = 0) -> None:
        """Read the job's journals. Raises PropertyError for those of another job and for damaged ones."""
        self.examples: dict[int, Example] = {}
        self._identity = dict(identity)
        self._own = None if path is None else beside(path, f"{path.name}.{rank}.jsonl")
        for journal in _journals(path):
            self.examples.update((example.index, example) for example in self._read(journal))
        if self._own is not None:
            self._open(self._own)

    def add(self, examples: Iterable[Example]) -> None:
        """Add examples; they are on the disk when this returns. Raises ArtifactError if that fails."""
        new = list(examples)
        self.examples.update((example.index, example) for example in new)
        if new and self._own is not None:
            self._append(self._own, "".join(map(_line, (example.to_json() for example in new))))

    def take_over(self, examples: Mapping[int, Example]) -> None:
        """Hold examples that are written elsewhere, but for those that have a verdict here."""
        self.examples = {**examples, **self.examples}

    def expect(self, problem_of: Callable[[Example], str | None], others: Iterable[Example] = ()) -> None:
        """Raise PropertyError for an example that the job cannot have: `problem_of` says what is wrong with it."""
        for example in (*self.examples.values(), *others):
            if (found := problem_of(example)) is not None:
                where = f"{self._own or 'verdicts'}: example {example.index}"
                remedy = "remove the journals beside the report, or do not take it over"
                raise PropertyError.at(where, found, "a verdict as certify writes it", remedy)

    def _read(self, journal: Path) -> Iterator[Example]:
        """Yield the examples of all complete lines; one that a kill cut short has no newline."""
        try:
            lines = read_regular(journal, MOST_BYTES).split(b"\n")[:-1]
        except OSError as error:
            found = f"it cannot be read: {first_line(error)}"
            raise PropertyError.at(journal, found, "a journal of certify", "remove the file") from error
        if not lines:
            return
        if _data(journal, 1, lines[0]) != self._identity:
            remedy = "finish that job, or remove the file"
            raise PropertyError.at(journal, "the verdicts of another job", "those of this one", remedy)
        for number, line in enumerate(lines[1:], start=2):
            data = _data(journal, number, line)
            try:
                yield Example.from_json(data)
            except (KeyError, TypeError, ValueError):
                raise _damaged(journal, number) from None

    def _open(self, journal: Path) -> None:
        """Cut off an incomplete last line, and write the first line if there is none."""
        try:
            journal.parent.mkdir(parents=True, exist_ok=True)
            with journal.open("ab+") as file:
                file.seek(0)
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
        except OSError as error:
            raise unwritable(journal, error) from error
        if whole == 0:
            self._append(journal, _line(self._identity))

    def _append(self, journal: Path, text: str) -> None:
        try:
            with journal.open("ab") as file:
                file.write(text.encode(errors="backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(journal, error) from error


def remove_journals(report: Path) -> None:
    """Remove the journals of all processes, once the report is complete."""
    for journal in _journals(report):
        journal.unlink(missing_ok=True)


def _journals(report: Path | None) -> list[Path]:
    """Return the journals beside a report; files of similar names are those of others."""
    if report is None or not report.parent.is_dir():
        return []
    own = re.compile(re.escape(report.name) + r"\.(0|[1-9][0-9]*)\.jsonl")
    return sorted(path for path in report.parent.iterdir() if own.fullmatch(path.name))


def _line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"


def _data(journal: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged(journal, number) from None


def _damaged(journal: Path, number: int) -> PropertyError:
    return PropertyError.at(f"{journal}: line {number}", "no verdict", "one as certify writes it", "remove the file")
