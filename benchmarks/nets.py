"""Networks that others made: imports and sampled soundness. One Markdown table each; `vnncomp.py` has the verdicts.

A folder holds `instances.csv` with the columns network, property, timeout_s and known (`sat`, `unsat` or empty).
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import ibpc
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.errors import IbpcError
from ibpc.interval import Interval
from ibpc.verify.properties import Property
from ibpc.verify.replay import Replay


@dataclass(frozen=True)
class Instance:
    """One line of the list; `prop` is None for a network without a property."""

    network: Path
    prop: Path | None
    known: str


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=["imports", "soundness"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=1_000_000, help="soundness: points over all networks")
    parser.add_argument("--only", default="", help="networks and properties whose path contains this")
    options = parser.parse_args()
    instances = [
        instance for instance in listed(options.folder) if options.only in f"{instance.network} {instance.prop}"
    ]
    lines = (
        imports(options.folder, instances)
        if options.table == "imports"
        else soundness(options.folder, instances, options.points)
    )
    for line in lines:
        print(line, flush=True)


def listed(folder: Path) -> list[Instance]:
    """Return the lines of a folder's list."""
    with (folder / "instances.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        Instance(folder / row["network"], folder / row["property"] if row["property"] else None, row["known"] or "")
        for row in rows
    ]


def stated(folder: Path, only: str) -> list[tuple[str, Path, Instance]]:
    """Return the lines with a property whose paths contain `only`, each behind its network's name and the property."""
    return [
        (str(instance.network.relative_to(folder)), instance.prop, instance)
        for instance in listed(folder)
        if instance.prop is not None and only in f"{instance.network} {instance.prop}"
    ]


# ── imports ─────────────────────────────────────────────────────────────────────────────────────────────────────
def imports(folder: Path, instances: Sequence[Instance]) -> Iterator[str]:
    """Yield the table of imports, each in a process of its own."""
    yield "| network | nodes | parameters | seconds | peak MiB | agrees with | error |"
    yield "|---|---:|---:|---:|---:|---|---:|"
    for path in sorted({instance.network for instance in instances}):
        command = [sys.executable, "-c", f"from benchmarks.nets import one; one({str(path)!r})"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
        name = path.relative_to(folder)
        if done.returncode:
            yield f"| {name} | refused: {done.stderr.strip().splitlines()[-1]} | | | | | |"
            continue
        found = json.loads(done.stdout)
        yield (
            f"| {name} | {found['nodes']:,} | {found['parameters']:,} | {found['seconds']:.2f} | "
            f"{found['mebibytes']:,.0f} | {', '.join(found['judges'])} | {found['error']:.1e} |"
        )


def one(path: str) -> None:
    """Import one network and print what it took as JSON; what importing the libraries takes is left out."""
    import onnx2torch  # noqa: F401
    import onnxruntime  # noqa: F401

    from ibpc.frontends.onnx import import_onnx

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    try:
        found = import_onnx(path)
    except IbpcError as error:
        sys.exit(" / ".join(str(problem) for problem in error.problems))
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "nodes": len(found.graph),
                "parameters": sum(value.numel() for value in found.graph.state.values()),
                "seconds": seconds,
                "mebibytes": (after - before) / 1024,
                "judges": [judgement.judge for judgement in found.validation.judgements],
                "error": max(judgement.error for judgement in found.validation.judgements),
            }
        )
    )


# ── sampled soundness ───────────────────────────────────────────────────────────────────────────────────────────
def soundness(folder: Path, instances: Sequence[Instance], points: int) -> Iterator[str]:
    """Yield the table of points, computed by ONNX Runtime, against float32 bounds over the box of the property."""
    yield "| network | points | outside |"
    yield "|---|---:|---:|"
    first: dict[Path, Path] = {}
    for instance in instances:
        if instance.prop is not None:
            first.setdefault(instance.network, instance.prop)
    total, outside = 0, 0
    for number, (path, prop) in enumerate(first.items()):
        share = (points - total) // (len(first) - number)
        try:
            done, bad = sampled(ibpc.compile(path), ibpc.load_vnnlib(prop), share)
        except IbpcError as error:
            yield f"| {path.relative_to(folder)} | {error} | |"
            continue
        total, outside = total + done, outside + bad
        yield f"| {path.relative_to(folder)} | {done:,} | {bad:,} |"
    yield f"| all | {total:,} | {outside:,} |"


def sampled(network: ibpc.Network, prop: Property, points: int, seconds: float = 60.0) -> tuple[int, int]:
    """Return how many points of the boxes were sampled, at most for `seconds`, and how many outputs left the bounds."""
    shapes = [network.graph.node(name).shape[1:] for name in network.graph.inputs]
    bound = METHODS["ibp"].bounder(
        walk_of(network.snapshot(), network.device), torch.eye(prop.output_count), ibpc.Arithmetic.FLOAT32
    )
    replay, generator = Replay.of(network), torch.Generator().manual_seed(0)
    started, done, bad = time.monotonic(), 0, 0
    while done < points and time.monotonic() - started < seconds:
        for case in prop.cases:
            ends = case.box.inner
            boxes = [prop.split(end[None], shapes) for end in ends]
            found = bound(*(Interval.bounds(low, high) for low, high in zip(*boxes, strict=True)))
            for number in range(min(max(1, points // len(prop.cases)), 1000, points - done)):
                noise = torch.rand(ends[0].shape, generator=generator)
                noise = noise.round() if number % 2 else noise
                x = (ends[0] + noise * (ends[1] - ends[0])).clamp(*ends)
                y = replay([part[0] for part in prop.split(x[None], shapes)])
                beyond = (y < found.lower[0].double()) | (y > found.upper[0].double())  # a NaN bound claims nothing
                done, bad = done + 1, bad + int(beyond.any())
            if done >= points or time.monotonic() - started >= seconds:
                break
    return done, bad


if __name__ == "__main__":
    main()
