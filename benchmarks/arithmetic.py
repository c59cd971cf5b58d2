"""What bounds for every float32 execution cost over plain ones: processor time of IBP over a batch, in one run."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import ibpc
from ibpc.bounds import METHODS, Bounder
from ibpc.bounds.values import walk_of
from ibpc.interval import Interval
from ibpc.margins import class_differences

SPECS = Path(__file__).parents[1] / "specs"


def main() -> None:
    """Print a table of the specs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specs", nargs="+", type=Path, default=sorted(SPECS.glob("*.json")))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {options.rounds} rounds,")
    print(
        f"ms of processor time a batch of {options.batch} boxes\n\n"
        "| spec | real | float32 | ratio |\n|---|---:|---:|---:|"
    )
    for path in options.specs:
        real, float32 = milliseconds(ibpc.compile(path), options.batch, options.rounds)
        print(f"| {path.stem} | {real:.1f} | {float32:.1f} | {float32 / real:.3f} |", flush=True)


def milliseconds(network: ibpc.Network, batch: int, rounds: int) -> tuple[float, float]:
    """Return the median milliseconds of a batch of boxes in real and in float32 arithmetic, taken in turns."""
    matrix = class_differences(network.classes)
    bounders = [
        METHODS["ibp"].bounder(walk_of(network.snapshot()), matrix, arithmetic)
        for arithmetic in (ibpc.Arithmetic.REAL, ibpc.Arithmetic.FLOAT32)
    ]
    box = Interval.ball(torch.rand(batch, *network.input_shape), 2 / 255, (0, 1))
    for bounder in bounders:
        bounder(box)
    times = [[clock(bounder, box) for bounder in bounders] for _ in range(rounds)]
    real, float32 = (statistics.median(column) for column in zip(*times, strict=True))
    return real, float32


def clock(bounder: Bounder, box: Interval) -> float:
    """Return the milliseconds of processor time of one call: other processes on the machine do not count."""
    started = time.process_time()
    bounder(box)
    return 1000 * (time.process_time() - started)


if __name__ == "__main__":
    main()
