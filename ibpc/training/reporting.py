"""Who wants to know how a run goes on."""

from __future__ import annotations

from typing import Protocol

from ibpc.training.records import EpochRecord
from ibpc.training.schedules import Moment, Timeline


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


class Several:
    """The reporter that passes everything on to others, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Pass it on."""
        for reporter in self._reporters:
            reporter.started(timeline, epoch)

    def stepped(self, moment: Moment) -> None:
        """Pass it on."""
        for reporter in self._reporters:
            reporter.stepped(moment)

    def finished_epoch(self, record: EpochRecord) -> None:
        """Pass it on."""
        for reporter in self._reporters:
            reporter.finished_epoch(record)
