"""Certified accuracy of one network by several methods: one Markdown table.

    python benchmarks/certified.py MODEL --eps 0.1 --folder REPORTS [--methods ibp crown alpha-crown bab] [--timeout 30]

MODEL is an artifact or an ONNX file. `--indices` names a file with the test images to take. One thread;
seconds are CPU seconds, so a busy machine does not count, and the clock that `--timeout` looks at is that of the
process, too. Every verdict is kept in `--folder` as it comes: the same command goes on where it was interrupted, and
counts the seconds of all its parts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch

import ibpc
from ibpc.api import load_dataset, normalized, open_network
from ibpc.cli.options import parse_eps
from ibpc.verify.results import Robustness
from ibpc.verify.verdicts import Verdict


def main() -> None:
    """Certify by each method and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="mnist", help="a data set, as for `ibpc certify`")
    parser.add_argument("--eps", type=parse_eps, required=True)
    parser.add_argument("--methods", nargs="+", default=["ibp", "crown", "alpha-crown", "bab"])
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds an image, for bab and auto")
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--indices", type=Path, help="test images to take, whitespace between")
    parser.add_argument("--batch", type=int, default=25, help="images bounded together")
    parser.add_argument("--mean", type=float, nargs="+", default=[])
    parser.add_argument("--std", type=float, nargs="+", default=[])
    parser.add_argument("--folder", type=Path, required=True, help="where verdicts are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    vars(time)["monotonic"] = time.process_time
    network = open_network(options.model)
    if options.mean or options.std:
        network = normalized(network, options.mean or [0.0], options.std or [1.0])
    data = load_dataset(options.data)
    choice = f":{options.limit or ''}" if options.indices is None else numbers(options.indices)
    images = ibpc.chosen_images(choice, len(data.test))
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{options.model.name}, ε = {options.eps:g}, {len(images)} images\n")
    print("| method | nominal | not falsified | certified | by | left open | CPU s an image |")
    print("|---|---:|---:|---:|---|---:|---:|", flush=True)
    for method in options.methods:
        report = options.folder / f"{method}.json"
        clock = Clock(options.folder / f"{method}.seconds.json")
        result = ibpc.certify(
            network,
            data,
            options.eps,
            method=method,
            timeout=options.timeout,
            images=images,
            batch=options.batch,
            report=report,
            progress=clock.note,
        )
        print(row(method, result, clock.seconds), flush=True)


class Clock:
    """CPU seconds of all runs of one job, kept in a file at every verdict."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(json.loads(path.read_text())) if path.exists() else 0.0
        self._started = time.process_time()
        self.seconds = self._before

    def note(self, _: int) -> None:
        """Write down the seconds so far."""
        self.seconds = self._before + time.process_time() - self._started
        self._path.write_text(json.dumps(self.seconds))


def numbers(path: Path) -> list[int]:
    """Return the whole numbers in a file."""
    return [int(word) for word in path.read_text().split()]


def row(method: str, result: Robustness, seconds: float) -> str:
    """Return a row of the table."""
    counts = Counter(example.method for example in result.examples if example.verdict is Verdict.VERIFIED)
    by = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    still = sum(example.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT) for example in result.examples)
    return (
        f"| {method} | {result.nominal_accuracy:.1%} | {result.attack_accuracy:.1%} | "
        f"**{result.certified_accuracy:.1%}** | {by} | {still} | {seconds / len(result.examples):.2f} |"
    )


if __name__ == "__main__":
    main()
