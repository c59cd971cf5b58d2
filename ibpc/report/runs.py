"""Finished training runs, read back from their folders: what a report shows of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final

from ibpc.artifact import TRAINING
from ibpc.data import Dataset
from ibpc.errors import ArtifactError, DataError, Problem, TrainingError, UsageError, first_line, raise_all
from ibpc.files import MOST_TEXT, read_regular
from ibpc.frontends.strict_json import read_json
from ibpc.network import Network
from ibpc.training.recipe import Recipe
from ibpc.training.records import METRICS, RECEIPT, RECIPE, EpochRecord

_LARGEST: Final = 1e300
_REMEDY: Final = "ibpc train --resume finishes a run that was interrupted"


@dataclass(frozen=True)
class Run:
    """A finished run: the trained network, its recipe, one record an epoch, and the receipt."""

    path: Path
    name: str
    network: Network = field(repr=False)
    recipe: Recipe = field(repr=False)
    records: tuple[EpochRecord, ...] = field(repr=False)
    receipt: Mapping[str, Any] = field(repr=False)

    @property
    def data(self) -> str:
        """The name of the data set it was trained on."""
        return str(self.receipt["data"]["name"])


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Return the runs in the folders, named so that no two are the same.

    Raises UsageError for a folder that is named twice, ArtifactError for one that is no artifact, TrainingError for one
    without a finished run, SpecError for a damaged recipe.
    """
    resolved = [path.resolve() for path in paths]
    raise_all(
        UsageError,
        [Problem(str(path), "named twice", "each run once") for path in paths if resolved.count(path.resolve()) > 1][
            :1
        ],
    )
    unique = len({path.name for path in resolved}) == len(paths)
    names = [found.name if unique else str(path) for path, found in zip(paths, resolved, strict=True)]
    return tuple(_read(path, _printable(name)) for path, name in zip(paths, names, strict=True))


def _printable(name: str) -> str:
    """Return a name without the bytes that are no text."""
    return name.encode(errors="replace").decode()


def _read(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise ArtifactError.at(path, "no such folder", "a run, written by ibpc train")
    folder = path / TRAINING
    if not folder.is_dir():
        raise TrainingError.at(path, f"no folder {TRAINING}", "a run", "train it with: ibpc train")
    for file in (RECIPE, METRICS, RECEIPT):
        if not (folder / file).is_file():
            raise TrainingError.at(path, f"no {TRAINING}/{file}", "a finished run", _REMEDY)
    recipe, receipt = Recipe.load(folder / RECIPE), _receipt(folder / RECEIPT)
    records = tuple(_records(folder / METRICS))
    if len(records) != recipe.epochs:
        raise TrainingError.at(folder / METRICS, f"{len(records)} epochs", f"{recipe.epochs}, one line each", _REMEDY)
    return Run(path, name, Network.load(path), recipe, records, receipt)


def _receipt(path: Path) -> Mapping[str, Any]:
    receipt = read_json(path)
    parts = [("data", "name"), ("data", "sha256"), ("hardware", "threads"), ("versions", "ibpc")]
    whole = isinstance(receipt, dict) and all(isinstance(receipt.get(part), dict) for part, _ in parts)
    if not whole or any(key not in receipt[part] for part, key in parts) or not _is_number(receipt.get("seconds")):
        raise TrainingError.at(path, "damaged", "a receipt as ibpc wrote it", "train again, or restore the file")
    found: dict[str, Any] = receipt
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST and isfinite(value)


def _records(path: Path) -> Iterable[EpochRecord]:
    try:
        lines = read_regular(path, MOST_TEXT).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError.at(path, f"unreadable: {first_line(error)}", "metrics as ibpc wrote them") from error
    for number, line in enumerate(lines, 1):
        try:
            record = EpochRecord.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            record = None
        if record is None or not _is_plain(record) or record.epoch != number:
            raise TrainingError.at(f"{path}: line {number}", "damaged", f"the metrics of epoch {number}")
        yield record


def _is_plain(record: EpochRecord) -> bool:
    """Return whether what is drawn of a record is numbers."""
    numbers = [record.epoch, record.eps, record.kappa, record.nominal_accuracy]
    numbers += [] if record.certified_accuracy is None else [record.certified_accuracy]
    numbers += [] if record.validation is None else [record.validation.nominal, record.validation.certified]
    losses = list(record.losses.values()) if isinstance(record.losses, dict) and "loss" in record.losses else [None]
    return all(map(_is_number, [*numbers, *losses])) and all(map(str.isprintable, record.losses))


def common_data(runs: Sequence[Run]) -> str:
    """Return the name of the data set that all runs were trained on. Raises DataError if they differ."""
    names = {run.data: run.name for run in runs}
    if len(names) > 1:
        found = ", ".join(f"{name} on {data}" for data, name in names.items())
        raise DataError.at("report", f"runs on different data sets: {found}", "one data set", "--data chooses one")
    return runs[0].data


def check_data(runs: Sequence[Run], dataset: Dataset) -> None:
    """Raise DataError unless the data set is what the runs of its name were trained on, and fits all networks."""
    for run in runs:
        where = f"data set {dataset.name}"
        if run.data == dataset.name and run.receipt["data"]["sha256"] != dataset.sha256:
            raise DataError.at(where, f"other images than those that {run.name} was trained on", "the same data set")
        if run.network.classes != dataset.classes:
            raise DataError.at(where, f"{dataset.classes} classes", f"{run.network.classes}, those of {run.name}")
