"""JSON lines of what is done, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Entry = TypeVar("Entry", bound=DataclassInstance)
else:
    Entry = TypeVar("Entry", bound=Any)


class Log(Generic[Entry]):
    """Entries of one dataclass, a line each; without a file nothing is kept."""

    def __init__(self, path: Path | None, entry: type[Entry]) -> None:
        self._path, self._entry = path, entry

    def entries(self) -> list[Entry]:
        """Return what is in the file, oldest first."""
        if self._path is None or not self._path.exists():
            return []
        return [self._entry(**json.loads(line)) for line in self._path.read_text().splitlines()]

    def add(self, entry: Entry) -> None:
        """Append an entry at once."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
