"""Peak memory of deciding a property by `auto`, on the largest networks: one Markdown table.

    python benchmarks/memory.py FOLDER [--timeout 60] [--networks N]

FOLDER has `instances.csv`. Its networks with the most values are taken, the first property of each, in a process of
their own, and the process's greatest resident memory is what counts; PyTorch alone takes what the first row says. How
far a search comes within its seconds decides what it stores, so a busy machine may need less than an idle one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.nets import listed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="networks, properties and instances.csv")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a property")
    parser.add_argument("--networks", type=int, default=8, help="so many of the largest")
    options = parser.parse_args()
    first: dict[Path, Path] = {}
    for item in listed(options.folder):
        if item.prop is not None:
            first.setdefault(item.network, item.prop)
    sizes = measured("sizes", *map(str, first))
    largest = sorted((path for path in first if str(path) in sizes), key=lambda path: -sizes[str(path)])
    print("| network | values | verdict | seconds | CPU s | peak MiB |\n|---|---:|---|---:|---:|---:|")
    print(f"| none: the libraries alone | | | | | {measured('nothing')['peak']:,} |", flush=True)
    for network in largest[: options.networks]:
        found = measured("decided", str(network), str(first[network]), options.timeout)
        print(
            f"| {network.relative_to(options.folder)} | {sizes[str(network)]:,} | {found['verdict']} | "
            f"{found['seconds']:.0f} | {found['cpu']:.0f} | {found['peak']:,} |",
            flush=True,
        )


def measured(task: str, *arguments: object) -> dict[str, Any]:
    """Return what a function of this file says in a process of its own."""
    code = f"from benchmarks.memory import {task}; {task}(*{arguments!r})"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise RuntimeError(f"{task}{arguments}: status {done.returncode}: {done.stderr[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# ── in a process of their own ───────────────────────────────────────────────────────────────────────────────────
def sizes(*models: str) -> None:
    """Print how many values each network has, less those that are refused."""
    import ibpc
    from ibpc.errors import IbpcError

    found = {}
    for model in models:
        with suppress(IbpcError):
            found[model] = sum(prod(node.shape[1:]) for node in ibpc.compile(model).graph.order())
    print(json.dumps(found))


def nothing() -> None:
    """Print the memory of the libraries."""
    import_module("ibpc.api")
    print(json.dumps({"peak": peak()}))


def decided(model: str, prop: str, timeout: float) -> None:
    """Decide a property and print what it took."""
    import torch

    import ibpc

    torch.set_num_threads(1)
    decision = ibpc.decide(ibpc.compile(model), ibpc.load_vnnlib(prop), timeout=timeout)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {"verdict": decision.verdict.value, "seconds": decision.seconds, "cpu": used.ru_utime, "peak": peak()}
    print(json.dumps(found))


def peak() -> int:
    """Return this process's greatest resident memory so far, in MiB; the system counts in KiB, macOS in bytes."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found // (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
