"""The runner: trains a network by a recipe, and can be stopped and resumed exactly between any two epochs.

`OUT/training/` holds recipe.json, metrics.jsonl, checkpoint.safetensors and receipt.json; at the end the trained
network is saved to OUT as an artifact. On a CPU the weights depend only on the recipe, the seed, the data, the machine,
its number of threads and the number of processes. If there are several processes, only the first writes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch

from ibpc.artifact import TRAINING, check_place, is_trained, recover
from ibpc.data import Dataset, fit_images, load_dataset
from ibpc.errors import Problem, TrainingError, UsageError, raise_all
from ibpc.files import write_json
from ibpc.hints import mark_trained
from ibpc.locking import take
from ibpc.memory import kept_memory
from ibpc.network import Network
from ibpc.training.constraints import bake
from ibpc.training.engine import chosen_engine, compiling, computing
from ibpc.training.graphs import Accuracy
from ibpc.training.recipe import Recipe
from ibpc.training.records import RECEIPT, EpochRecord, command, hardware, versions
from ibpc.training.reporting import Reporter, Silent
from ibpc.training.trainer import Trainer
from ibpc.workers import present

_LOCK: Final = ".lock"
# Below this multiple of chance accuracy a network counts as untrained.
_CHANCE: Final = 1.2


@dataclass(frozen=True)
class TrainingRun:
    """A finished run: its folder, the trained network, one record per epoch, and the receipt."""

    out: Path
    network: Network = field(repr=False)
    recipe: Recipe
    records: tuple[EpochRecord, ...] = field(repr=False)
    receipt: Mapping[str, Any] = field(repr=False)

    @property
    def validation(self) -> Accuracy | None:
        """The accuracies on the held-out images at the end; None if none were held out."""
        return self.records[-1].validation

    @property
    def is_at_chance(self) -> bool:
        """Whether the nominal accuracy is hardly above that of a constant prediction."""
        last = self.records[-1]
        nominal = last.nominal_accuracy if last.validation is None else last.validation.nominal
        return nominal < _CHANCE / self.network.classes


def train(
    network: Network,
    recipe: Recipe,
    data: Dataset | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    device: torch.device | str | None = None,
    reporter: Reporter | None = None,
    engine: str = "auto",
) -> TrainingRun:
    """Train the network in place by the recipe and save it as an artifact with its run in `out`.

    `device` is where to train (default: where the network is), `engine` one of `ibpc.training.engine.ENGINES`. With
    `resume`, the run in `out` continues from its last checkpoint, if it has one. If torch.distributed has a default
    group, its processes train together: each gets an equal part of every batch, and all must see `out`. Raises
    DataError for missing data, UsageError for an unavailable engine, TrainingError if `out` holds another run or the
    run diverges or is interrupted, ArtifactError if `out` cannot be written.
    """
    raise_all(UsageError, _misuses(network, recipe, data, seed))
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    workers, folder = present(), Path(out) / TRAINING
    _check_fit(network, dataset)
    if workers.is_first:
        check_place(Path(out))
        recover(Path(out))
        _check_free(Path(out), network, resume)
    listener = (reporter if workers.is_first else None) or Silent()
    network = network.to(device or network.device)
    chosen = chosen_engine(engine, network.device, workers.count)
    with torch.random.fork_rng([network.device] if network.device.type == "cuda" else []):
        trainer = Trainer(network, recipe, dataset, seed, workers, listener, chosen)
        with kept_memory(network.device), computing(recipe.precision), compiling(chosen), _stopping_at(out, trainer):
            with _alone(folder) if workers.is_first else nullcontext():
                records = _run(trainer, folder)
            return _finish(trainer, Path(out), records)


def _run(trainer: Trainer, folder: Path) -> list[EpochRecord]:
    """Train from the folder's checkpoint to the end, and record every epoch."""
    records = trainer.begin(folder)
    while trainer.epoch < trainer.recipe.epochs:
        records.append(trainer.run_epoch())
        trainer.keep(folder, records[-1])
        trainer.reporter.finished_epoch(records[-1])
    return records


def _finish(trainer: Trainer, out: Path, records: list[EpochRecord]) -> TrainingRun:
    """Save the trained network and its receipt."""
    network = trainer.network
    bake(network)
    mark_trained(network.graph)
    receipt = _receipt(trainer, records)
    if trainer.workers.is_first:
        network.save(out)
        write_json(out / TRAINING / RECEIPT, receipt)
    trainer.workers.wait()
    return TrainingRun(out, network, trainer.recipe, tuple(records), receipt)


# ── before a run ────────────────────────────────────────────────────────────────────────────────────────────────
def _misuses(network: object, recipe: object, data: object, seed: object) -> Iterator[Problem]:
    """Yield the arguments of the wrong type, and a seed that is none."""
    if not isinstance(network, Network):
        yield Problem("network", f"a {type(network).__name__}", "a network", "ibpc.compile makes one")
    if not isinstance(recipe, Recipe):
        remedy = 'ibpc.Recipe.default("ibp", eps=0.1, dataset="mnist") or Recipe.from_json makes one'
        yield Problem("recipe", f"a {type(recipe).__name__}", "a recipe", remedy)
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        yield Problem("seed", f"found {seed!r}", "an integer from 0 to 2⁶³ − 1")
    if not isinstance(data, Dataset | str | Path):
        found = f"a {type(data).__name__}"
        yield Problem("data", found, "a name, a file, a folder or a data set", "ibpc.dataset makes one of arrays")


def _check_fit(network: Network, dataset: Dataset) -> None:
    fit_images(dataset.test.images[:1], network.input_shape)
    if dataset.classes != network.classes:
        found = f"{dataset.classes} classes"
        raise TrainingError.at(f"data set {dataset.name}", found, f"{network.classes}, the network's logits")


def _check_free(out: Path, network: Network, resume: bool) -> None:
    """Raise TrainingError where another run would be lost, or another network that was trained."""
    folder = out / TRAINING
    if folder.exists() and not resume:
        remedy = "--resume goes on with it; otherwise choose another folder or remove this one"
        raise TrainingError.at(folder, "a training run is there", "a folder without one", remedy)
    if not folder.exists() and is_trained(out) and Network.load(out).fingerprint() != network.fingerprint():
        remedy = "choose another folder or remove this one"
        raise TrainingError.at(out, "another trained network is there", "a new folder, or one of this network", remedy)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a training folder while the block runs. Raises TrainingError if another process trains there."""
    path = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = take(path)
    except OSError as error:
        raise TrainingError.at(folder, f"cannot be written: {error.strerror}", "a writable folder") from error
    if held is None:
        raise TrainingError.at(folder, "another process trains there", "a run that nobody works on", "wait for its end")
    with held:
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def _stopping_at(out: str | Path, trainer: Trainer) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an error that says how to resume. Checkpoints stay."""
    try:
        with _terminable():
            yield
    except KeyboardInterrupt as interrupt:
        found = f"interrupted in epoch {min(trainer.epoch + 1, trainer.recipe.epochs)} of {trainer.recipe.epochs}"
        raise TrainingError.at(
            out, found, remedy=f"run it again with --resume: it goes on {trainer.kept_until}"
        ) from interrupt


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM act like Ctrl-C while the block runs. Only the main thread can change that; others do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# ── the receipt ─────────────────────────────────────────────────────────────────────────────────────────────────
def _receipt(trainer: Trainer, records: list[EpochRecord]) -> dict[str, Any]:
    """Return everything needed to repeat the run, and its results."""
    validation = records[-1].validation
    return {
        "network": trainer.network.name,
        "parameters": trainer.network.parameter_count(),
        "recipe": trainer.recipe.to_json(),
        "seed": trainer.seed,
        "data": {
            "name": trainer.dataset.name,
            "sha256": trainer.dataset.sha256,
            "training_images": len(trainer.training),
            "validation_images": len(trainer.validation),
        },
        "validation": None if validation is None else asdict(validation),
        "seconds": round(trainer.seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "hardware": _hardware(trainer),
        "versions": versions(),
    }


def _hardware(trainer: Trainer) -> dict[str, Any]:
    return {
        **hardware(trainer.network.device),
        "processes": trainer.workers.count,
        "engine": trainer.engine.value,
    }
