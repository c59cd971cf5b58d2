"""Steps that take turns, each in a process of its own: what is compared shares the machine's slow and fast moments.

A contestant is a script that prints a line when it is ready, then does one step for each line that it reads and prints
the seconds that it took: of CPU time (of all its threads, and of processes that it started and that ended: waiting for
a busy machine does not count), and by the clock. It may run in an environment of its own, so that a rival's
dependencies stay out of ours.

On a GPU all take turns in one process (`take_turns`), and what counts is the time from an idle device to an idle one.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

WARM_UP = 2
TURN_SECONDS = 0.1


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a step: of CPU time, and by the clock."""

    cpu: float
    wall: float


def compete(commands: Mapping[str, Sequence[str]], rounds: int, warm_up: int = WARM_UP) -> dict[str, Cost]:
    """Return the median cost of each contestant's step over the rounds, in which all take turns."""
    processes = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    for process in processes.values():
        _answer(process)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(warm_up + rounds):
        for name, process in processes.items():
            assert process.stdin
            print("step", file=process.stdin, flush=True)
            cpu, wall = map(float, _answer(process))
            if number >= warm_up:
                costs[name].append(Cost(cpu * 1e3, wall * 1e3))
    for process in processes.values():
        process.communicate()
    return {name: _median(found) for name, found in costs.items()}


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(cost.cpu for cost in costs), statistics.median(cost.wall for cost in costs))


def _answer(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("contest "):
            return line.split()[1:]
    raise RuntimeError(f"a contestant ended with status {process.wait()}")


def perform(step: Callable[[], object]) -> None:
    """Be a contestant."""
    for _ in turns():
        step()


def turns() -> Iterator[None]:
    """Be a contestant whose step is what happens from one item to the next. Ends with the contest."""
    print("contest ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = _cpu_seconds(), time.perf_counter()
        yield
        print(f"contest {_cpu_seconds() - cpu} {time.perf_counter() - wall}", flush=True)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process, its threads, and those of its children that it has waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def take_turns(steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median milliseconds of each step over the rounds, in which all take turns in this process.

    A turn is as many steps in a row as take a tenth of a second.
    """
    counts: dict[str, int] = {}
    for name, step in steps.items():
        for _ in range(WARM_UP):
            once = _elapsed(step, 1, device)
        counts[name] = max(1, round(TURN_SECONDS / once))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(_elapsed(step, counts[name], device) / counts[name] * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def _elapsed(step: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the seconds of so many steps, from when the device is idle to when it is again."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
