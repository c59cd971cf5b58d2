"""Finished training runs, read back from their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final

from ibpc.artifact import METRICS, TRAINING
from ibpc.data import Dataset
from ibpc.errors import ArtifactError, DataError, Problem, TrainingError, UsageError, first_line, raise_all
from ibpc.files import MOST_TEXT, read_regular
from ibpc.frontends.strict_json import read_json
from ibpc.network import Network
from ibpc.training.recipe import Recipe
from ibpc.training.records import RECEIPT, RECIPE, EpochRecord
from ibpc.training.runner import TrainingRun

_LARGEST: Final = 1e300
_REMEDY: Final = "ibpc train --resume finishes a run that was interrupted"


def read_runs(paths: Sequence[Path]) -> dict[str, TrainingRun]:
    """Return the runs in the folders, in order, by the names of their folders, or by their paths if names coincide.

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
    is_unique = len({path.name for path in resolved}) == len(paths)
    names = [whole.name if is_unique else str(path) for path, whole in zip(paths, resolved, strict=True)]
    return {_printable(name): _read(path) for path, name in zip(paths, names, strict=True)}


def _printable(name: str) -> str:
    """Return a name with the bytes that are not text escaped, so that different names stay different."""
    return name.encode(errors="backslashreplace").decode()


def _read(path: Path) -> TrainingRun:
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
    return TrainingRun(path, Network.load(path), recipe, records, receipt)


def _receipt(path: Path) -> Mapping[str, Any]:
    receipt = read_json(path)
    parts = [("data", "name"), ("data", "sha256"), ("hardware", "threads"), ("versions", "ibpc")]
    has_parts = isinstance(receipt, dict) and all(isinstance(receipt.get(part), dict) for part, _ in parts)
    if not has_parts or any(key not in receipt[part] for part, key in parts) or not _is_number(receipt.get("seconds")):
        raise TrainingError.at(path, "damaged", "a receipt as ibpc wrote it", "train again, or restore the file")
    checked: dict[str, Any] = receipt
    return checked


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
    """Return whether every figure of a record that is drawn is a number."""
    numbers = [record.epoch, record.eps, record.kappa, record.nominal_accuracy]
    numbers += [] if record.certified_accuracy is None else [record.certified_accuracy]
    numbers += [] if record.validation is None else [record.validation.nominal, record.validation.certified]
    losses = list(record.losses.values()) if isinstance(record.losses, dict) and "loss" in record.losses else [None]
    return all(map(_is_number, [*numbers, *losses])) and all(map(str.isprintable, record.losses))


def common_data(runs: Mapping[str, TrainingRun]) -> str:
    """Return the name of the data set that all runs were trained on. Raises DataError if they differ."""
    names = {str(run.receipt["data"]["name"]): name for name, run in runs.items()}
    if len(names) > 1:
        pairs = ", ".join(f"{name} on {data}" for data, name in names.items())
        found = f"runs on different data sets: {pairs}"
        raise DataError.at("report", found, "one data set", "name one of them as data")
    return next(iter(names))


def check_data(runs: Mapping[str, TrainingRun], dataset: Dataset) -> None:
    """Raise DataError unless the data set fits all networks and has the images of every run that names it."""
    where = f"data set {dataset.name}"
    for name, run in runs.items():
        data = run.receipt["data"]
        if data["name"] == dataset.name and data["sha256"] != dataset.sha256:
            raise DataError.at(where, f"other images than those that {name} was trained on", "the same data set")
        if run.network.classes != dataset.classes:
            raise DataError.at(where, f"{dataset.classes} classes", f"{run.network.classes}, those of {name}")
