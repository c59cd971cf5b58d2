"""The runner: trains a network by a recipe, and can be stopped and resumed exactly between any two epochs.

`OUT/training/` holds recipe.json, metrics.jsonl, checkpoint.safetensors and receipt.json; at the end the trained
network is saved to OUT as an artifact. On a CPU the weights depend on the recipe, the seed, the data, the machine and
its number of threads, and on nothing else.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from ibpc.artifact import TRAINING, recover
from ibpc.data import Augmentation, Dataset, augment, fit_images, load_dataset, to_unit
from ibpc.errors import TrainingError
from ibpc.frontends.initialization import FRESH, WEIGHTS_HINT, initialize
from ibpc.network import Network
from ibpc.training.averaging import POPULATION, WeightAverage, population_statistics
from ibpc.training.checkpoint import Checkpoint, Identity
from ibpc.training.constraints import bake, constrain
from ibpc.training.graphs import Accuracy, TrainingGraphs
from ibpc.training.methods import Terms, method_named
from ibpc.training.objectives import certified, correct
from ibpc.training.recipe import AUTO, KEEP, Recipe
from ibpc.training.records import (
    CHECKPOINT,
    RECEIPT,
    RECIPE,
    EpochRecord,
    append_record,
    command,
    hardware,
    read_records,
    versions,
    write_json,
)
from ibpc.training.regularizers import l1_norm
from ibpc.training.schedules import Moment, Timeline

TRAINED: Final = "trained"
_FRESH_SCHEME: Final = "ibp"
_EVALUATION_BATCH: Final = 500


# ── what a caller sees ──────────────────────────────────────────────────────────────────────────────────────────
class Reporter(Protocol):
    """Who wants to know how a run goes on. Nothing that it is told costs a wait for the device."""

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Learn the schedules of a run that begins after `epoch` epochs: 0, or more when it is resumed."""
        ...

    def stepped(self, moment: Moment) -> None:
        """Learn that a step was given to the device."""
        ...

    def finished_epoch(self, record: EpochRecord) -> None:
        """Learn the figures of an epoch."""
        ...


class Silent:
    """The reporter that tells nobody."""

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Do nothing."""

    def stepped(self, moment: Moment) -> None:
        """Do nothing."""

    def finished_epoch(self, record: EpochRecord) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class TrainingRun:
    """A finished run: its folder, the trained network, one record an epoch, and the receipt."""

    out: Path
    network: Network = field(repr=False)
    recipe: Recipe
    records: tuple[EpochRecord, ...] = field(repr=False)
    receipt: Mapping[str, Any] = field(repr=False)

    @property
    def validation(self) -> Accuracy | None:
        """The accuracies on the held-out images at the end; None if none were held out."""
        return self.records[-1].validation


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
) -> TrainingRun:
    """Train the network in place by the recipe and save it as an artifact with its run in `out`.

    `device` is where to train (default: where the network is). With `resume` the run in `out` goes on from its last
    checkpoint, if it has one. Raises DataError for missing data, TrainingError for a run that is in the way, differs
    from the one to resume, diverges or is interrupted, ArtifactError where `out` cannot be written.
    """
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    recover(Path(out))
    folder = Path(out) / TRAINING
    _check_fit(network, dataset)
    _check_free(folder, resume)
    trainer = _Trainer(network.to(device or network.device), recipe, dataset, seed, reporter or Silent())
    records = trainer.begin(folder)
    try:
        while trainer.epoch < recipe.epochs:
            records.append(trainer.run_epoch())
            trainer.keep(folder, records[-1])
            trainer.reporter.finished_epoch(records[-1])
    except KeyboardInterrupt as interrupt:
        found = f"interrupted in epoch {trainer.epoch + 1} of {recipe.epochs}"
        raise TrainingError.at(out, found, remedy=f"--resume goes on after epoch {trainer.kept}") from interrupt
    bake(network)
    network.graph.hints[WEIGHTS_HINT] = TRAINED
    network.save(out)
    receipt = trainer.receipt(records)
    write_json(folder / RECEIPT, receipt)
    return TrainingRun(Path(out), network, recipe, tuple(records), receipt)


def _check_fit(network: Network, dataset: Dataset) -> None:
    fit_images(dataset.test.images[:1], network.input_shape)
    if dataset.classes != network.classes:
        found = f"{dataset.classes} classes"
        raise TrainingError.at(f"data set {dataset.name}", found, f"{network.classes}, the network's logits")


def _check_free(folder: Path, resume: bool) -> None:
    if folder.exists() and not resume:
        remedy = "--resume goes on with it; otherwise choose another folder or remove this one"
        raise TrainingError.at(folder, "a training run is there", "a folder without one", remedy)


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────
class _Trainer:
    """A run in progress: all that changes from step to step, and the parts that change it."""

    def __init__(self, network: Network, recipe: Recipe, dataset: Dataset, seed: int, reporter: Reporter) -> None:
        torch.manual_seed(seed)
        bake(network)
        _initialize(network, recipe, seed)
        constrain(network)
        training, validation = dataset.hold_out(recipe.validation.images, recipe.validation.seed)
        self.network, self.recipe, self.dataset, self.seed, self.reporter = network, recipe, dataset, seed, reporter
        self.training, self.validation = training.to(network.device), validation.to(network.device)
        self.augmentation = _augmentation(recipe, dataset)
        self.batch_size = min(recipe.batch_size, len(training))
        per_epoch = len(training) // self.batch_size
        self.timeline = Timeline(
            recipe.schedule,
            recipe.learning_rate,
            recipe.eps,
            recipe.optimizer.learning_rate,
            recipe.epochs,
            per_epoch,
        )
        self.graphs = TrainingGraphs(network)
        self.objective = method_named(recipe.method).build(self.graphs, recipe)
        self.optimizer = recipe.optimizer.build(network.parameters.parameters())
        self.average = WeightAverage(recipe.averaging, network.parameters, self.timeline.total)
        self.generator = torch.Generator(network.device).manual_seed(seed)
        self.epoch = self.kept = 0
        self.seconds = 0.0

    # ── starting and stopping ───────────────────────────────────────────────────────────────────────────────────
    def begin(self, folder: Path) -> list[EpochRecord]:
        """Go back to the checkpoint in the folder, or write the first one. Return the records up to there."""
        path = folder / CHECKPOINT
        for leftover in folder.glob(".*.partial"):
            with suppress(OSError):
                leftover.unlink()
        if path.exists():
            stored = Checkpoint.read(path)
            stored.expect(self.identity(), folder)
            stored.restore(self.network.parameters, self.optimizer, self.generator, self.average)
            self.epoch = self.kept = stored.epoch
            self.seconds = stored.seconds
        else:
            write_json(folder / RECIPE, self.recipe.to_json())
            self.checkpoint().write(path)
        records = read_records(folder, self.epoch)
        self.reporter.started(self.timeline, self.epoch)
        return records

    def keep(self, folder: Path, record: EpochRecord) -> None:
        """Write what an epoch brought: first its line of metrics, which a resumed run drops if nothing follows."""
        append_record(folder, record)
        self.checkpoint().write(folder / CHECKPOINT)
        self.kept = self.epoch

    def identity(self) -> Identity:
        """Return what must not change when the run is resumed."""
        graph = hashlib.sha256(self.network.graph.to_text().encode()).hexdigest()
        return Identity(self.recipe.to_json(), self.seed, self.dataset.sha256, graph)

    def checkpoint(self) -> Checkpoint:
        """Return the state between two epochs."""
        model = self.network.parameters
        return Checkpoint.take(
            self.identity(), self.epoch, self.seconds, model, self.optimizer, self.generator, self.average
        )

    # ── one epoch ───────────────────────────────────────────────────────────────────────────────────────────────
    def run_epoch(self) -> EpochRecord:
        """Pass over the training images once, in a new order. What does not fill a batch is left out this time.

        The host never waits for the device here: figures add up on the device and are read once at the end.
        """
        started = time.monotonic()
        self.network.parameters.train()
        order = torch.randperm(len(self.training), generator=self.generator, device=self.network.device)
        totals = _Totals()
        first = self.epoch * self.timeline.per_epoch
        for number in range(self.timeline.per_epoch):
            moment = self.timeline.at(first + number)
            x, labels = self.batch(order[number * self.batch_size : (number + 1) * self.batch_size])
            terms = self.objective(x, labels, moment, self.generator)
            self.descend(self.regularized(terms), moment)
            self.average.update(moment.step)
            totals.add(terms, labels)
            self.reporter.stepped(moment)
        figures = totals.read(self.network.parameters)
        self._expect_finite(figures)
        seconds = time.monotonic() - started
        self.epoch += 1
        if self.epoch == self.recipe.epochs:
            self.settle()
        record = self._record(moment, figures, seconds)
        self.seconds += time.monotonic() - started
        return record

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, …) as the network takes them, float32 in [0, 1], augmented, and labels (B,)."""
        images = augment(self.training.images[index], self.augmentation, self.generator)
        return fit_images(to_unit(images), self.network.input_shape), self.training.labels[index]

    def regularized(self, terms: Terms) -> torch.Tensor:
        """Return the loss with the regularizers that the recipe turns on."""
        strength = self.recipe.regularization.l1
        if strength == 0:
            return terms.loss
        return terms.loss + strength * l1_norm(p for p in self.network.parameters.parameters() if p.dim() > 1)

    def descend(self, loss: torch.Tensor, moment: Moment) -> None:
        """Take one step down the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = moment.learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.recipe.clip_norm is not None:
            clip_grad_norm_(self.network.parameters.parameters(), self.recipe.clip_norm)
        self.optimizer.step()

    def settle(self) -> None:
        """Put the mean of the weights in place, and the statistics that go with it, at the end of the run."""
        is_mean = self.average.apply()
        if is_mean or self.recipe.averaging.statistics == POPULATION:
            whole = self.timeline.per_epoch * self.batch_size
            parts = torch.split(self.training.images[:whole], self.batch_size)
            batches = (fit_images(to_unit(images), self.network.input_shape) for images in parts)
            population_statistics(self.network, batches)

    # ── after an epoch ──────────────────────────────────────────────────────────────────────────────────────────
    def _record(self, moment: Moment, figures: _Figures, seconds: float) -> EpochRecord:
        return EpochRecord(
            epoch=self.epoch,
            step=self.epoch * self.timeline.per_epoch,
            eps=moment.eps,
            kappa=moment.kappa,
            learning_rate=moment.learning_rate,
            losses=figures.losses,
            nominal_accuracy=figures.nominal_accuracy,
            certified_accuracy=figures.certified_accuracy,
            validation=self._validate(),
            seconds=round(seconds, 3),
            images_per_second=round(figures.images / seconds, 1),
        )

    def _validate(self) -> Accuracy | None:
        due = self.epoch % self.recipe.validation.every == 0 or self.epoch == self.recipe.epochs
        if not due or not len(self.validation):
            return None
        return self.graphs.accuracy(self.validation, self.recipe.eps, _EVALUATION_BATCH)

    def _expect_finite(self, figures: _Figures) -> None:
        if figures.finite and all(map(isfinite, figures.losses.values())):
            return
        found = "the loss or a weight is no longer finite"
        remedy = (
            "lower optimizer.learning_rate or clip_norm, or lengthen schedule.ramp; "
            f"the weights after epoch {self.epoch} are in {CHECKPOINT}"
        )
        raise TrainingError.at(f"epoch {self.epoch + 1} of {self.recipe.epochs}", found, "finite numbers", remedy)

    def receipt(self, records: list[EpochRecord]) -> dict[str, Any]:
        """Return everything needed to make the run again, and what came of it."""
        validation = records[-1].validation
        return {
            "network": self.network.name,
            "parameters": self.network.parameter_count(),
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "data": {
                "name": self.dataset.name,
                "sha256": self.dataset.sha256,
                "training_images": len(self.training),
                "validation_images": len(self.validation),
            },
            "validation": None if validation is None else asdict(validation),
            "seconds": round(self.seconds, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command(),
            "hardware": hardware(self.network.device),
            "versions": versions(),
        }


def _initialize(network: Network, recipe: Recipe, seed: int) -> None:
    """Draw fresh weights where the recipe says so."""
    scheme = recipe.initialization
    if scheme == AUTO:
        scheme = _FRESH_SCHEME if network.graph.hints.get(WEIGHTS_HINT) == FRESH else KEEP
    if scheme != KEEP:
        network.assign(initialize(network.graph, scheme, seed).state)


def _augmentation(recipe: Recipe, dataset: Dataset) -> Augmentation:
    return dataset.augmentation if recipe.augmentation == AUTO else Augmentation(recipe.augmentation)


# ── figures of an epoch ─────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class _Figures:
    """Means over the `images` images of an epoch, and whether all parameters are finite."""

    images: int
    losses: Mapping[str, float]
    nominal_accuracy: float
    certified_accuracy: float | None
    finite: bool


class _Totals:
    """Sums over an epoch, kept on the device until they are read."""

    _LOSS: Final = "loss"
    _CORRECT: Final = "correct"
    _CERTIFIED: Final = "certified"

    def __init__(self) -> None:
        self._images = 0
        self._sums: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, terms: Terms, labels: torch.Tensor) -> None:
        """Add the terms of one batch."""
        count = len(labels)
        self._images += count
        for name, mean in {self._LOSS: terms.loss, **terms.parts}.items():
            self._sum(name, mean.detach() * count)
        self._sum(self._CORRECT, correct(terms.logits, labels).sum())
        if terms.margins is not None:
            self._sum(self._CERTIFIED, certified(terms.margins).sum())

    def _sum(self, name: str, amount: torch.Tensor) -> None:
        self._sums[name] = self._sums[name] + amount if name in self._sums else amount

    def read(self, model: nn.Module) -> _Figures:
        """Wait for the device once and return the figures."""
        finite = torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()
        *sums, is_finite = torch.stack([*(total.float() for total in self._sums.values()), finite.float()]).tolist()
        means = {name: total / self._images for name, total in zip(self._sums, sums, strict=True)}
        shares = {name: means.pop(name, None) for name in (self._CORRECT, self._CERTIFIED)}
        nominal = shares[self._CORRECT]
        assert nominal is not None
        return _Figures(self._images, means, nominal, shares[self._CERTIFIED], is_finite == 1.0)
