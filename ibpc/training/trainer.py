"""A run in progress: its state between two epochs, and the steps from one to the next.

Several processes (`ibpc.workers`) hold the same state. In each step, every process computes the gradient of its own
rows of the batch; the gradients are averaged, so all take the same step. This takes one exchange after the backward
passes instead of DistributedDataParallel, which hooks into the backward pass of a single module: a step runs several
graphs over one tree of parameters.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from math import log
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from ibpc.data import Augmentation, Dataset, augment, fit_images, to_unit
from ibpc.errors import TrainingError
from ibpc.files import write_json
from ibpc.frontends.initialization import initialize
from ibpc.hints import are_fresh
from ibpc.network import Network
from ibpc.training.averaging import POPULATION, WeightAverage, population_statistics
from ibpc.training.checkpoint import Checkpoint, Identity, Pace
from ibpc.training.constraints import bake, constrain
from ibpc.training.draws import Draws
from ibpc.training.engine import Engine, arrange
from ibpc.training.figures import LOSS, Figures, Totals
from ibpc.training.graphs import Accuracy, TrainingGraphs
from ibpc.training.methods import Terms, method_named
from ibpc.training.recipe import AUTO, KEEP, Recipe
from ibpc.training.records import CHECKPOINT, RECIPE, EpochRecord, append_record, keep_records, read_records
from ibpc.training.regularizers import L1, l1_norm
from ibpc.training.reporting import Reporter
from ibpc.training.schedules import Moment, Timeline
from ibpc.workers import Workers

_FRESH_SCHEME: Final = "ibp"
_EVALUATION_BATCH: Final = 500
# A run diverges when its loss exceeds that of a constant prediction this many times.
_DIVERGED: Final = 1000.0


class Trainer:
    """The state of a run and the steps that change it."""

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        dataset: Dataset,
        seed: int,
        workers: Workers,
        reporter: Reporter,
        engine: Engine = Engine.EAGER,
    ) -> None:
        torch.manual_seed(seed)
        bake(network)
        _initialize(network, recipe, seed)
        constrain(network)
        arrange(network.parameters.parameters())
        training, validation = dataset.hold_out(recipe.validation.images, recipe.validation.seed)
        self.network, self.recipe, self.dataset, self.seed = network, recipe, dataset, seed
        self.workers, self.reporter = workers, reporter
        self.training, self.validation = training.to(network.device), validation.to(network.device)
        self.augmentation = _augmentation(recipe, dataset)
        self.batch_size = _batch_size(recipe, len(training), workers)
        self.timeline = timeline_of(recipe, len(training), workers)
        self.engine, self.graphs = engine, TrainingGraphs(network, workers, engine, recipe.precision)
        self.objective = method_named(recipe.method).build(self.graphs, recipe)
        self.optimizer = recipe.optimizer.build(network.parameters.parameters())
        self.average = WeightAverage(recipe.averaging, network.parameters, self.timeline.total)
        self.generator = torch.Generator(network.device).manual_seed(seed)
        self.epoch = self.kept = 0
        self._pace = Pace()
        self.seconds = 0.0

    # ── starting and stopping ───────────────────────────────────────────────────────────────────────────────────
    def begin(self, folder: Path) -> list[EpochRecord]:
        """Restore the checkpoint in the folder, or write the first one. Return the records up to it.

        The first process goes first; the others read what it wrote.
        """
        if not self.workers.is_first:
            self.workers.wait()
        path = folder / CHECKPOINT
        if path.exists():
            self._restore(Checkpoint.read(path), path)
        records = read_records(folder, self.epoch)
        if self.workers.is_first:
            self._prepare(folder)
            self.workers.wait()
        self.workers.agree(chain(self.network.parameters.parameters(), self.network.parameters.buffers()))
        self.reporter.started(self.timeline, self.epoch)
        return records

    def _restore(self, stored: Checkpoint, path: Path) -> None:
        stored.expect(self.identity(), path.parent)
        if stored.epoch > self.recipe.epochs:
            raise TrainingError.at(path, f"{stored.epoch} epochs", f"at most {self.recipe.epochs}, those of the recipe")
        model, optimization = self.network.parameters, self.recipe.optimizer
        stored.restore(model, optimization, self.optimizer, self.generator, self.average, path)
        self.epoch = self.kept = stored.epoch
        self.seconds = stored.seconds

    def _prepare(self, folder: Path) -> None:
        """Remove the partial files of a killed run, and write the files that a new run starts with."""
        for leftover in folder.glob(".*.partial"):
            with suppress(OSError):
                leftover.unlink()
        write_json(folder / RECIPE, self.recipe.to_json())
        if not (folder / CHECKPOINT).exists():
            self._write(folder)
        keep_records(folder, self.epoch)

    def keep(self, folder: Path, record: EpochRecord) -> None:
        """Write an epoch's line of metrics, and a checkpoint if one is due.

        A resumed run drops the lines of epochs after its checkpoint and trains these epochs again.
        """
        if not self.workers.is_first:
            return
        append_record(folder, record)
        if self._pace.is_due() or self.epoch == self.recipe.epochs:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        checkpoint = self.checkpoint()
        checkpoint.write(folder / CHECKPOINT)
        self._pace.wrote(checkpoint.size())
        self.kept = self.epoch

    @property
    def kept_until(self) -> str:
        """When the last checkpoint was written, in words; only the first process knows the epoch."""
        return f"after epoch {self.kept}" if self.workers.is_first else "after the last epoch kept"

    def identity(self) -> Identity:
        """Return what must be the same when the run is resumed."""
        graph = hashlib.sha256(self.network.graph.structure().encode()).hexdigest()
        return Identity(self.recipe.to_json(), self.seed, self.dataset.sha256, graph)

    def checkpoint(self) -> Checkpoint:
        """Return the state between two epochs."""
        model = self.network.parameters
        return Checkpoint.take(
            self.identity(), self.epoch, self.seconds, model, self.optimizer, self.generator, self.average
        )

    # ── one epoch ───────────────────────────────────────────────────────────────────────────────────────────────
    def run_epoch(self) -> EpochRecord:
        """Train on every image once, in a new random order. An incomplete last batch is left out.

        The host does not wait for the device: figures are summed on the device and read once at the end.
        """
        started = time.monotonic()
        self.network.parameters.train()
        order = torch.randperm(len(self.training), generator=self.generator, device=self.network.device)
        totals = Totals()
        first = self.epoch * self.timeline.per_epoch
        for number in range(self.timeline.per_epoch):
            moment = self.timeline.at(first + number)
            self.step(order[number * self.batch_size : (number + 1) * self.batch_size], moment, totals)
            self.average.update(moment.step)
            self.reporter.stepped(moment)
        figures = totals.read(self.network.parameters, self.workers)
        self._expect_convergence(figures)
        seconds = time.monotonic() - started
        self.epoch += 1
        if self.epoch == self.recipe.epochs:
            self.settle()
        record = self._record(moment, figures, seconds)
        self.seconds += time.monotonic() - started
        return record

    def step(self, index: torch.Tensor, moment: Moment, totals: Totals) -> None:
        """Take one gradient step on the batch of an index (B,), in micro-batches.

        Every micro-batch draws its random numbers from the state that the generator had before the first one.
        """
        x, labels = self.batch(index)
        count, parts = self.recipe.accumulate, self.recipe.accumulate * self.workers.count
        self.optimizer.zero_grad(set_to_none=True)
        state = self.generator.get_state()
        for part in range(count * self.workers.rank, count * (self.workers.rank + 1)):
            self.generator.set_state(state)
            own_x, own_labels = (rows.tensor_split(parts)[part] for rows in (x, labels))
            terms = self.regularized(self.objective(own_x, own_labels, moment, Draws(self.generator, part, parts)))
            torch.autograd.backward(terms.loss / count)
            totals.add(terms, own_labels)
            if part % count == 0 and count > 1:
                own_gradients(self.network.parameters.parameters())
        self.descend(moment)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return augmented images (B, …), float32 in [0, 1] in the network's layout, and labels (B,)."""
        images = augment(self.training.images[index], self.augmentation, self.generator)
        return fit_images(to_unit(images), self.network.input_shape), self.training.labels[index]

    def regularized(self, terms: Terms) -> Terms:
        """Return the terms with the recipe's penalty on the weights, if any, added to the loss and its parts."""
        strength = self.recipe.regularization.l1
        if strength == 0:
            return terms
        penalty = strength * l1_norm(p for p in self.network.parameters.parameters() if p.dim() > 1)
        return replace(terms, loss=terms.loss + penalty, parts={**terms.parts, L1: penalty})

    def descend(self, moment: Moment) -> None:
        """Update the parameters by their gradients, averaged over the processes."""
        for group in self.optimizer.param_groups:
            group["lr"] = moment.learning_rate
        self.workers.average_gradients(self.network.parameters.parameters())
        if self.recipe.clip_norm is not None:
            clip_grad_norm_(self.network.parameters.parameters(), self.recipe.clip_norm)
        self.optimizer.step()

    def settle(self) -> None:
        """At the end of the run, replace the weights by their mean, and the running statistics to match."""
        is_mean = self.average.apply()
        if is_mean or self.recipe.averaging.statistics == POPULATION:
            count = self.timeline.per_epoch * self.batch_size
            parts = torch.split(self.training.images[:count], self.batch_size)
            batches = (fit_images(to_unit(images), self.network.input_shape) for images in parts)
            population_statistics(self.network, batches)

    # ── after an epoch ──────────────────────────────────────────────────────────────────────────────────────────
    def _record(self, moment: Moment, figures: Figures, seconds: float) -> EpochRecord:
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

    def _expect_convergence(self, figures: Figures) -> None:
        """Raise TrainingError if a figure is not finite, or if a constant prediction would have a far lower loss."""
        loss, constant = figures.losses.get("nominal_loss", figures.losses[LOSS]), log(max(self.network.classes, 2))
        if figures.is_finite and loss <= _DIVERGED * constant:
            return
        found = f"the nominal loss is {loss:.3g}, that of a constant answer {constant:.3g}"
        if not figures.is_finite:
            found = "the loss or a weight is no longer finite"
        remedy = (
            "lower optimizer.learning_rate or clip_norm, or lengthen schedule.ramp; "
            f"the weights {self.kept_until} are in {CHECKPOINT}"
        )
        raise TrainingError.at(f"epoch {self.epoch + 1} of {self.recipe.epochs}", found, "a run that converges", remedy)


def own_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Copy gradients to memory of their own before further gradients are added to them.

    The gradients of a captured graph lie in memory that its next replay overwrites.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()


def _initialize(network: Network, recipe: Recipe, seed: int) -> None:
    """Draw fresh weights if the recipe asks for them."""
    scheme = recipe.initialization
    if scheme == AUTO:
        is_fresh = are_fresh(network.graph.hints) and not network.is_changed
        scheme = _FRESH_SCHEME if is_fresh else KEEP
    if scheme != KEEP:
        network.assign(initialize(network.graph, scheme, seed).state)


def _augmentation(recipe: Recipe, dataset: Dataset) -> Augmentation:
    return dataset.augmentation if recipe.augmentation == AUTO else Augmentation(recipe.augmentation)


def timeline_of(recipe: Recipe, images: int, workers: Workers) -> Timeline:
    """Return the schedules of a run on so many images. Raises TrainingError where processes cannot share them."""
    per_epoch = images // _batch_size(recipe, images, workers)
    rate = recipe.optimizer.learning_rate
    return Timeline(recipe.schedule, recipe.learning_rate, recipe.eps, rate, recipe.epochs, per_epoch)


def _batch_size(recipe: Recipe, images: int, workers: Workers) -> int:
    """Return the images per step. Raises TrainingError unless micro-batches and processes get equal parts."""
    size, parts = min(recipe.batch_size, images), recipe.accumulate * workers.count
    if size % parts:
        expected = f"a multiple of {parts}: {workers.count} processes with {recipe.accumulate} micro-batches each"
        raise TrainingError.at("batch_size", f"{size} images a step", expected, "set batch_size or accumulate")
    return size
