"""Processes that share one job, as started by `torchrun`: their numbers, and what they exchange.

They communicate through torch.distributed's default group: gloo between CPUs, NCCL between GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, TypeVar

import torch
from torch import distributed

from ibpc.errors import TrainingError, UsageError, first_line

T = TypeVar("T")

_COUNT: Final = "WORLD_SIZE"
_LOCAL: Final = "LOCAL_RANK"


@dataclass(frozen=True)
class Workers:
    """`count` processes, of which this one is number `rank`, from 0. With one process, exchanges cost nothing."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this process's part of rows (B, …): the shares differ by at most one row."""
        return torch.tensor_split(rows, self.count)[self.rank]

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, bit-identical in each. Raises TrainingError if one is gone."""
        if self.count == 1:
            return tensor
        result = tensor.detach().clone()
        try:
            distributed.all_reduce(result)
        except RuntimeError as error:
            raise self._lost(error) from error
        return result

    def agree(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.count == 1:
            return
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)

    def gathered(self, item: T) -> list[T]:
        """Return the items of all processes, ordered by rank. Raises TrainingError if one is gone."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(items, item)
        except RuntimeError as error:
            raise self._lost(error) from error
        return items

    def wait(self) -> None:
        """Wait until every process gets here. Raises TrainingError if one is gone."""
        self.total(torch.zeros(1, device=_exchange_device()) if self.count > 1 else torch.zeros(1))

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, with one flat tensor per dtype and device."""
        if self.count == 1:
            return
        buckets: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                buckets.setdefault((parameter.dtype, parameter.device), []).append(parameter.grad)
        for gradients in buckets.values():
            flat = self.total(torch.cat([gradient.flatten() for gradient in gradients])) / self.count
            for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def _lost(self, error: RuntimeError) -> TrainingError:
        where = f"process {self.rank} of {self.count}"
        found = f"it lost the others: {first_line(error)}"
        return TrainingError.at(
            where, found, remedy="run it again with --resume: it goes on after the last whole epoch"
        )


ALONE: Final = Workers()


def present() -> Workers:
    """Return the processes of torch.distributed's default group, or this one alone if there is none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Workers(distributed.get_rank(), distributed.get_world_size())


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process; processes on the same machine get a GPU each."""
    local = os.environ.get(_LOCAL)
    if device.type != "cuda" or device.index is not None or local is None:
        return device
    if int(local) >= torch.cuda.device_count():
        raise UsageError.at("torchrun", f"process {local} on a machine of {torch.cuda.device_count()} GPUs", "one each")
    return torch.device("cuda", int(local))


@contextmanager
def joined(device: torch.device, patience: timedelta | None = None) -> Iterator[Workers]:
    """Join the processes that torchrun started, to exchange tensors of `device`, and leave the group at the end.

    `patience` is the longest time to wait for the others (default: torch.distributed's own limit). Without torchrun,
    this process is alone. Raises UsageError if the others cannot be reached.

    Functions of `torch.distributed.nn` take the default group as a default argument when that module is imported, which
    the first step of an optimizer does. Importing it before the group exists keeps it from holding on to the group:
    otherwise the group's threads would outlive it and now and then abort the process at exit.
    """
    if int(os.environ.get(_COUNT, "1")) == 1 or present().count > 1:
        yield present()
        return
    import_module("torch.distributed.nn")
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(backend, timeout=patience)
    except (RuntimeError, ValueError) as error:
        found = f"{backend} cannot be reached: {first_line(error)}"
        raise UsageError.at("torchrun", found, "processes that reach each other") from error
    try:
        yield present()
        present().wait()  # a process that leaves early would break what the others still exchange
    finally:
        distributed.destroy_process_group()


def _exchange_device() -> torch.device:
    return torch.device("cuda") if distributed.get_backend() == "nccl" else torch.device("cpu")
