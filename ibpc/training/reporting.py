"""Listeners to the progress of a run."""

from __future__ import annotations

from typing import Protocol

from ibpc.training.records import EpochRecord
from ibpc.training.schedules import Moment, Timeline


class Reporter(Protocol):
    """A listener to the progress of a run. Its arguments are available without waiting for the device."""

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Receive the schedules of a run that starts after `epoch` epochs: more than 0 if it is resumed."""
        ...

    def stepped(self, moment: Moment) -> None:
        """Receive the moment of a step that was queued on the device."""
        ...

    def finished_epoch(self, record: EpochRecord) -> None:
        """Receive the figures of an epoch."""
        ...


class Silent:
    """A reporter that does nothing."""

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Do nothing."""

    def stepped(self, moment: Moment) -> None:
        """Do nothing."""

    def finished_epoch(self, record: EpochRecord) -> None:
        """Do nothing."""


class Several:
    """A reporter that calls several others, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Call `started` of each."""
        for reporter in self._reporters:
            reporter.started(timeline, epoch)

    def stepped(self, moment: Moment) -> None:
        """Call `stepped` of each."""
        for reporter in self._reporters:
            reporter.stepped(moment)

    def finished_epoch(self, record: EpochRecord) -> None:
        """Call `finished_epoch` of each."""
        for reporter in self._reporters:
            reporter.finished_epoch(record)
