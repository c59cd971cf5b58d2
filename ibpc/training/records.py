"""The records of a run in its `training/` folder: metrics.jsonl, one line per epoch, and receipt.json."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from ibpc.artifact import METRICS, tool_versions
from ibpc.errors import TrainingError, first_line
from ibpc.files import MOST_TEXT, read_regular, write_atomically
from ibpc.training.graphs import Accuracy

RECEIPT: Final = "receipt.json"
RECIPE: Final = "recipe.json"
CHECKPOINT: Final = "checkpoint.safetensors"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch (counted from 1), ending at `step`. ε, κ and the learning rate are those of its last step.

    `losses` and the two accuracies are means over the training images, augmented, each computed before the step that
    uses the image; `certified_accuracy` is at the ε of that step, and None if the method has no bounds. `seconds` is
    the time of the training steps; `validation` is at the recipe's ε.
    """

    epoch: int
    step: int
    eps: float
    kappa: float
    learning_rate: float
    losses: Mapping[str, float]
    nominal_accuracy: float
    certified_accuracy: float | None
    validation: Accuracy | None
    seconds: float
    images_per_second: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EpochRecord:
        """Return the record of a line of metrics.jsonl. Raises KeyError, TypeError or ValueError for anything else."""
        held, losses, certified = data["validation"], data["losses"], data["certified_accuracy"]
        plain = {name: value for name, value in data.items() if name not in ("validation", "losses")}
        _expect_numbers({**plain, "certified_accuracy": certified or 0}, ("epoch", "step"))
        _expect_numbers(losses)
        _expect_numbers(held or {}, ("images",))
        return cls(**{**data, "validation": None if held is None else Accuracy(**held)})


def _expect_numbers(values: Mapping[str, Any], whole: Sequence[str] = ()) -> None:
    """Raise TypeError unless all values are numbers, and those named `whole` integers; truths are none."""
    for name, value in values.items():
        kinds = int if name in whole else int | float
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")


def append_record(folder: Path, record: EpochRecord) -> None:
    """Append a line to metrics.jsonl and wait until it is on disk. Raises TrainingError if that fails."""
    path = folder / METRICS
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(record)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise TrainingError.at(path, f"cannot be written: {error.strerror}", "a writable place with room") from error


def read_records(folder: Path, epochs: int) -> list[EpochRecord]:
    """Return the records of the first `epochs` epochs. Raises TrainingError if one is missing or damaged.

    Later lines were written after the checkpoint that the run resumes from; the last one may be cut short.
    """
    path = folder / METRICS
    try:
        records = [EpochRecord.from_json(json.loads(line)) for line in _lines(path, epochs)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TrainingError.at(path, f"damaged: {first_line(error)}", "metrics as ibpc wrote them") from error
    if len(records) != epochs or [record.epoch for record in records] != list(range(1, epochs + 1)):
        raise TrainingError.at(path, f"{len(records)} of the {epochs} epochs of the checkpoint", "one line for each")
    return records


def keep_records(folder: Path, epochs: int) -> None:
    """Drop everything after the first `epochs` epochs from metrics.jsonl; write an empty file if there is none."""
    path = folder / METRICS
    write_atomically(path, b"".join(line + b"\n" for line in _lines(path, epochs)))


def _lines(path: Path, epochs: int) -> list[bytes]:
    return read_regular(path, MOST_TEXT).split(b"\n")[:epochs] if path.exists() else []


# ── entries of the receipt ──────────────────────────────────────────────────────────────────────────────────────
def versions() -> dict[str, str]:
    """Return the versions of all software that a run depends on."""
    return tool_versions() | {name: version(name) for name in ("numpy", "torchvision")}


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the hardware that the run uses."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(_values(lines, "model name"), platform.machine())


def _values(lines: Iterable[str], key: str) -> Any:
    return (line.partition(":")[2].strip() for line in lines if line.startswith(key))


def command() -> str:
    """Return the command line of this process."""
    program, *arguments = sys.argv
    path = Path(program)
    return shlex.join([path.parent.name if path.name == "__main__.py" else path.name, *arguments])
