"""Steps that take turns, each in a process of its own: what is compared shares the machine's slow and fast moments.

A contestant is a script that prints a line when it is ready, then does one step for each line that it reads and prints
the seconds of CPU time that it took (of one thread: waiting for a busy machine does not count). It may run in an
environment of its own, so that a rival's dependencies stay out of ours.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

WARM_UP = 2


def compete(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each contestant's step over the rounds, in which all take turns."""
    processes = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    for process in processes.values():
        _answer(process)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(WARM_UP + rounds):
        for name, process in processes.items():
            assert process.stdin
            print("step", file=process.stdin, flush=True)
            seconds = float(_answer(process))
            if number >= WARM_UP:
                times[name].append(seconds * 1e3)
    for process in processes.values():
        process.communicate()
    return {name: statistics.median(found) for name, found in times.items()}


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("contest "):
            return line.split()[1]
    raise RuntimeError(f"a contestant ended with status {process.wait()}")


def perform(step: Callable[[], object]) -> None:
    """Be a contestant."""
    print("contest ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        step()
        print(f"contest {time.process_time() - started}", flush=True)
