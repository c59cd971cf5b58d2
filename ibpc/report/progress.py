"""Progress on the terminal: training epochs and certified examples, with the remaining time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

from ibpc.progress import ignore
from ibpc.training.records import EpochRecord
from ibpc.training.reporting import Reporter, Silent
from ibpc.training.schedules import Moment, Timeline
from ibpc.workers import ALONE, Workers

_REFRESH_SECONDS = 0.2


class TrainingReporter:
    """Draws a bar over the steps of a run, with the current ε and κ, and prints one line per epoch."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("train", total=None, state="")
        self._last = 0.0
        self._terms: tuple[str, ...] = ()

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Set the length of the bar."""
        self._progress.update(self._task, total=timeline.total, completed=epoch * timeline.per_epoch)
        if epoch:
            self._console.print(f"resumed after epoch {epoch} of {timeline.epochs}", style="dim")

    def stepped(self, moment: Moment) -> None:
        """Move the bar, at most a few times a second."""
        if monotonic() - self._last < _REFRESH_SECONDS:
            return
        self._last = monotonic()
        state = f"ε {moment.eps:.4f}  κ {moment.kappa:.2f}"
        self._progress.update(self._task, completed=moment.step + 1, state=state)

    def finished_epoch(self, record: EpochRecord) -> None:
        """Print the epoch's figures, and before them a new table head if the loss has new terms."""
        self._progress.update(self._task, completed=record.step)
        if not set(record.losses) <= set(self._terms):
            self._terms = tuple(record.losses)
            self._console.print(head_of(self._terms), style="bold", soft_wrap=True)
        self._console.print(line_of(record, self._terms), soft_wrap=True)


def head_of(terms: Sequence[str]) -> str:
    """Return the head of a table of epochs: two lines, one column for each of the `terms` of the loss."""
    names = "".join(f"{_short(name):>{_width(name)}}" for name in terms)
    blank = " " * (20 + len(names))
    return (
        f"{blank}{'training':>19}{'held out':>20}\n"
        f"epoch       ε     κ {names}{'nominal':>10}{'certified':>10}{'nominal':>10}{'certified':>10}  images/s"
    )


def line_of(record: EpochRecord, terms: Sequence[str]) -> str:
    """Return the line of an epoch below `head_of`, with blanks for missing terms, bounds and validation."""
    held = record.validation
    losses = [record.losses.get(name) for name in terms]
    shares = [record.nominal_accuracy, record.certified_accuracy, *((held.nominal, held.certified) if held else ())]
    cells = [
        ("" if loss is None else _loss(loss)).rjust(_width(name)) for name, loss in zip(terms, losses, strict=True)
    ]
    cells += [" " * 10 if share is None else f"{share:>10.2%}" for share in shares]
    return (
        f"{record.epoch:>5} {record.eps:>7.4f} {record.kappa:>5.2f} "
        f"{''.join(cells).ljust(sum(map(_width, terms)) + 40)} {record.images_per_second:>9,.0f}"
    )


def _loss(loss: float) -> str:
    """Return a loss in at most eight characters."""
    return f"{loss:.4f}" if loss < 1000 else f"{loss:.2e}"


def _width(name: str) -> int:
    """Return the width of the column for a term of the loss."""
    return max(9, len(_short(name)) + 1)


def _short(name: str) -> str:
    return name.removesuffix("_loss").replace("_", " ")


@contextmanager
def training_progress(workers: Workers = ALONE) -> Iterator[Reporter]:
    """Yield a reporter that draws on standard error while the block runs; only the first process draws."""
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
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield TrainingReporter(console, progress)


@contextmanager
def certification_progress(total: int, workers: Workers = ALONE) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes the number of finished examples, of `total`, and draws a bar on standard error.

    If there are several processes, only the first draws, and only for its share.
    """
    if not workers.is_first:
        yield ignore
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
    """Yield a function that takes the name of a stage, and shows it with the elapsed time on standard error."""
    columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)
        yield lambda stage: progress.update(task, description=stage)
