"""Progress on the terminal: training epochs and certified examples, with what is left of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ibpc.training.records import EpochRecord
from ibpc.training.reporting import Reporter, Silent
from ibpc.training.schedules import Moment, Timeline
from ibpc.workers import ALONE, Workers

_REFRESH_SECONDS = 0.2


class TrainingReporter:
    """Draws a bar over the steps of a run and prints one line an epoch."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("train", total=None)
        self._last = 0.0

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Set the length of the bar and print the head of the table."""
        self._progress.update(self._task, total=timeline.total, completed=epoch * timeline.per_epoch)
        if epoch:
            self._console.print(f"resumed after epoch {epoch} of {timeline.epochs}", style="dim")
        if epoch == timeline.epochs:
            return
        self._console.print(
            f"{'':>33}{'training':>10}{'':>12}held out\n"
            f"epoch      ε     κ     loss   nominal certified   nominal certified  images/s",
            style="bold",
        )

    def stepped(self, moment: Moment) -> None:
        """Move the bar, at most a few times a second."""
        if monotonic() - self._last < _REFRESH_SECONDS:
            return
        self._last = monotonic()
        self._progress.update(self._task, completed=moment.step + 1)

    def finished_epoch(self, record: EpochRecord) -> None:
        """Print the epoch's figures."""
        held = record.validation
        judged = f"{held.nominal:>9.2%} {held.certified:>9.2%}" if held else " " * 19
        certified = "" if record.certified_accuracy is None else f"{record.certified_accuracy:.2%}"
        self._progress.update(self._task, completed=record.step)
        self._console.print(
            f"{record.epoch:>5} {record.eps:>7.4f} {record.kappa:>5.2f} {record.losses['loss']:>8.4f} "
            f"{record.nominal_accuracy:>9.2%} {certified:>9} {judged} {record.images_per_second:>9,.0f}"
        )


@contextmanager
def training_progress(workers: Workers = ALONE) -> Iterator[Reporter]:
    """Yield a reporter that draws on standard error while the block runs; of several processes the first draws."""
    if not workers.is_first:
        yield Silent()
        return
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield TrainingReporter(console, progress)


@contextmanager
def certification_progress(total: int, workers: Workers = ALONE) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes how many of `total` examples are done, and draws a bar on standard error.

    Of several processes the first draws, for its share alone.
    """
    if not workers.is_first:
        yield int
        return
    columns = (
        TextColumn("certify"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("certify", total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yield a function that takes the name of what is being tried, and shows it with the time on standard error."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)
        yield lambda stage: progress.update(task, description=stage)
