"""A sweep: many short runs whose recipes Optuna varies, to explore nominal against certified accuracy.

Everything is in one folder: `sweep.json` (what is swept), `study.journal` (Optuna's log), `trial-NNNN/` (one run each).
Processes started on the same folder share the study. If a process is killed, the next one resumes its trial. The values
of a trial depend on the seed, its number and the trials before it, so a sweep by a single process is reproducible.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from ibpc.data import Split, load_dataset
from ibpc.errors import IbpcError, TrainingError, UsageError, first_line
from ibpc.files import MOST_TEXT, read_regular, write_json
from ibpc.frontends.strict_json import read_json
from ibpc.locking import locked, take
from ibpc.network import Network
from ibpc.progress import ignore
from ibpc.training.methods import reads
from ibpc.training.ranges import Choices, Range, check_ranges
from ibpc.training.recipe import Recipe
from ibpc.training.runner import TrainingRun, train

if TYPE_CHECKING:
    from optuna import Study, Trial

SWEEP: Final = "sweep.json"
JOURNAL: Final = "study.journal"
_LOCK: Final = ".lock"
_LOCKS: Final = ".trials"
_JOURNAL_LOCK: Final = ".journal"
_PROBLEM: Final = "problem"
_STUDY: Final = "sweep"
_RANDOM_TRIALS: Final = 8


@dataclass(frozen=True)
class Outcome:
    """One trial: its values by name, and its two accuracies on the held-out images or what went wrong."""

    number: int
    folder: Path
    values: Mapping[str, Any]
    nominal: float | None
    certified: float | None
    on_front: bool
    problem: str


class Judge(Protocol):
    """Another judge of trained networks than interval bounds, which say little of those that tighter ones are for."""

    def certified(self, network: Network, held: Split, eps: float) -> float:
        """Return the share of held-out images that is proved at the radius `eps`."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what must be the same when a sweep is continued, as JSON data."""
        ...


@dataclass(frozen=True)
class Sweep:
    """What to sweep: an artifact, the recipe to start from, the ranges of its values, the data, and the folder.

    `overrides` are values of the recipe that stay, even if a trial varies the method and its defaults differ. Trials
    are compared by interval bounds of the held-out images, or by a `judge`.
    """

    artifact: Path
    recipe: Recipe
    ranges: tuple[Range, ...]
    data: str
    out: Path
    seed: int = 0
    data_root: Path | None = None
    device: str = "cpu"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    judge: Judge | None = None

    def run(self, trials: int, workers: int = 1, progress: Callable[[Outcome], object] = ignore) -> tuple[Outcome, ...]:
        """Run until the study has `trials` trials, in `workers` processes; return all finished trials.

        These include trials that failed or diverged. `progress` gets each trial that this process finishes. Raises the
        errors of a bad artifact, data set or range, UsageError without Optuna, TrainingError if the folder holds
        another sweep or this one is interrupted.
        """
        check_ranges(self.ranges, self.recipe)
        worker = _Worker(self)
        context = multiprocessing.get_context("spawn")
        helpers = [context.Process(target=_help, args=(self, trials)) for _ in range(workers - 1)]
        for helper in helpers:
            helper.start()
        try:
            worker.work(trials, progress)
        except BaseException:
            # They would start new trials. What they have begun goes on with the same command.
            for helper in helpers:
                helper.terminate()
            raise
        finally:
            for helper in helpers:
                helper.join()
        if any(helper.exitcode for helper in helpers):
            raise TrainingError.at(self.out, "a worker ended early", remedy="the same command goes on")
        return worker.outcomes()


def _help(sweep: Sweep, trials: int) -> None:
    """Work on a sweep in a process of its own."""
    try:
        _Worker(sweep).work(trials, ignore)
    except (IbpcError, KeyboardInterrupt):
        sys.exit(1)


class _Worker:
    """One process at work on a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self._optuna = _optuna()
        self._sweep = sweep
        self._dataset = load_dataset(sweep.data, sweep.data_root)
        self._network = Network.load(sweep.artifact)
        self._held: dict[int, IO[bytes]] = {}
        held_out = sweep.recipe.validation
        if not len(self._dataset.hold_out(held_out.images, held_out.seed)[1]):
            raise UsageError.at("sweep", "no held-out images to compare trials by", "validation.images above 0")
        self._claim()
        self._study = self._open()

    # ── the folder ──────────────────────────────────────────────────────────────────────────────────────────────
    def _claim(self) -> None:
        """Write the sweep's identity to the folder, or check that the one there is the same."""
        out = self._sweep.out
        if out.exists() and not out.is_dir():
            raise TrainingError.at(out, "not a folder", "a new folder, or one of a sweep")
        if out.is_dir() and not (out / _LOCK).exists() and any(out.iterdir()):
            raise TrainingError.at(out, "the folder holds other files", "a new folder, or one of a sweep")
        for path in (out / _LOCK, out / SWEEP, out / JOURNAL):
            if path.exists() and not path.is_file():
                raise TrainingError.at(path, "not a file", "that of a sweep", "choose another folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / _LOCK).touch()
        except OSError as error:
            raise TrainingError.at(out, f"cannot be written: {error.strerror}", "a writable folder") from error
        with locked(out / _LOCK):
            if not (out / SWEEP).exists():
                write_json(out / SWEEP, self._identity())
            found, wanted = read_json(out / SWEEP), self._identity()
        if found != wanted:
            differing = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
            other = f"a sweep that differs in: {', '.join(differing)}"
            raise TrainingError.at(out, other, "the same sweep, to go on with it", "choose another folder")

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same when a sweep is continued, as JSON data."""
        sweep = self._sweep
        identity = {
            "network": self._network.fingerprint(),
            "data": {"name": self._dataset.name, "sha256": self._dataset.sha256},
            "recipe": sweep.recipe.to_json(),
            "ranges": {entry.key: entry.to_json() for entry in sweep.ranges},
            "seed": sweep.seed,
            **({} if sweep.judge is None else {"judge": sweep.judge.to_json()}),
        }
        plain: dict[str, Any] = json.loads(json.dumps(identity))
        return plain

    def _open(self) -> Study:
        optuna, path = self._optuna, self._sweep.out / JOURNAL
        lock = _JournalLock(self._sweep.out / _JOURNAL_LOCK)
        try:
            _mend(path, lock)
            backend = optuna.storages.journal.JournalFileBackend(str(path), lock)
            study: Study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name=_STUDY,
                directions=["maximize", "maximize"],
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError, IndexError, AssertionError, RecursionError) as error:
            remedy = "restore the file, or choose another folder"
            raise TrainingError.at(path, f"damaged: {first_line(error)}", "the log of a sweep", remedy) from error
        return study

    def _folder(self, number: int) -> Path:
        return self._sweep.out / f"trial-{number:04}"

    def _take(self, number: int) -> bool:
        """Lock a trial for this process until it is given up or the process ends. Return whether that worked."""
        locks = self._sweep.out / _LOCKS
        locks.mkdir(exist_ok=True)
        held = take(locks / f"{number:04}")
        if held is not None:
            self._held[number] = held
        return held is not None

    def _give_up(self, number: int) -> None:
        self._held.pop(number).close()

    # ── trials ──────────────────────────────────────────────────────────────────────────────────────────────────
    def work(self, trials: int, progress: Callable[[Outcome], object]) -> None:
        """Finish abandoned trials, then start new ones until there are enough."""
        for trial in self._left_behind():
            progress(self._finish(trial))
        while (new := self._next(trials)) is not None:
            progress(self._finish(new))

    def _next(self, trials: int) -> Trial | None:
        """Return a new trial with its values, or None if there are enough."""
        with locked(self._sweep.out / _LOCK):
            if len(self._study.get_trials(deepcopy=False)) >= trials:
                return None
            trial = self._study.ask()
            self._take(trial.number)
            seed = _mixed(self._sweep.seed, trial.number)
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_RANDOM_TRIALS, multivariate=False
            )
            for entry in self._sweep.ranges:
                entry.suggest(trial)
        return trial

    def _left_behind(self) -> Iterator[Trial]:
        """Yield the trials whose process ended before it finished them."""
        states = self._optuna.trial.TrialState
        keys = {entry.key for entry in self._sweep.ranges}
        for running in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            with locked(self._sweep.out / _LOCK):
                is_mine = self._take(running.number)
                now = self._study.get_trials(deepcopy=False)[running.number]
            if not is_mine:
                continue
            if now.state.is_finished():
                self._give_up(running.number)
            elif now.params.keys() == keys:
                yield self._optuna.Trial(self._study, now._trial_id)
            else:
                self._study.tell(now.number, state=states.FAIL)
                self._give_up(running.number)

    def _finish(self, trial: Trial) -> Outcome:
        """Train a trial's network and report the result to the study."""
        sweep, folder = self._sweep, self._folder(trial.number)
        try:
            recipe = self._recipe({**sweep.overrides, **self._values(trial.params)})
            network = Network.load(sweep.artifact).to(sweep.device)
            run = train(network, recipe, self._dataset, folder, seed=sweep.seed, resume=True)
        except IbpcError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise TrainingError.at(sweep.out, "interrupted", remedy="the same command goes on") from error
            if isinstance(error.__cause__, OSError):
                remedy = "make room, or make it writable; then the same command goes on with this trial"
                raise TrainingError.at(sweep.out, f"trial {trial.number}: {error}", remedy=remedy) from error
            trial.set_user_attr(_PROBLEM, str(error))
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, self._accuracies(run))
        finally:
            self._give_up(trial.number)
        return next(outcome for outcome in self.outcomes() if outcome.number == trial.number)

    def _accuracies(self, run: TrainingRun) -> list[float]:
        """Return the nominal and the certified accuracy of a trial on the held-out images."""
        assert run.validation is not None
        if self._sweep.judge is None:
            return [run.validation.nominal, run.validation.certified]
        held_out = run.recipe.validation
        _, held = self._dataset.hold_out(held_out.images, held_out.seed)
        return [run.validation.nominal, self._sweep.judge.certified(run.network, held, run.recipe.eps)]

    def _recipe(self, changes: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a trial; where methods vary, each takes the values that it reads."""
        base, method = self._sweep.recipe, changes.get("method")
        is_read = {key: method is None or reads(method, key) for key in changes}
        return base.with_overrides({key: value for key, value in changes.items() if is_read[key]})

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return all finished trials, in order."""
        front = {trial.number for trial in self._study.best_trials}
        ended = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        return tuple(
            Outcome(
                number=trial.number,
                folder=self._folder(trial.number),
                values=self._values(trial.params),
                nominal=trial.values[0] if trial.values else None,
                certified=trial.values[1] if trial.values else None,
                on_front=trial.number in front,
                problem=trial.user_attrs.get(_PROBLEM, "" if trial.values else "abandoned"),
            )
            for trial in ended
        )

    def _values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return a trial's values for the recipe; the study stores choices as JSON text."""
        chosen = {entry.key for entry in self._sweep.ranges if isinstance(entry, Choices)}
        return {key: json.loads(value) if key in chosen else value for key, value in parameters.items()}


class _JournalLock:
    """The lock that Optuna holds while it reads or writes the log. The system frees it if the process is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held.enter_context(locked(self._path))
        return True

    def release(self) -> None:
        """Release the lock."""
        self._held.close()


def _mend(path: Path, lock: _JournalLock) -> None:
    """Remove an incomplete last line, left by a killed process or a full disk, so that the next one starts afresh.

    Raises ValueError or RecursionError if another line is damaged.
    """
    if not path.exists():
        return
    lock.acquire()
    try:
        data = read_regular(path, MOST_TEXT)
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
        for line in data.split(b"\n")[:-1]:
            json.loads(line)
    finally:
        lock.release()


def _mixed(seed: int, number: int) -> int:
    """Return a 32-bit seed that depends on both numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError.at("sweep", "optuna is not installed", remedy="pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
