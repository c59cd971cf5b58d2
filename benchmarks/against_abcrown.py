"""Verdicts on properties that others made, beside those of α,β-CROWN on the same machine: one Markdown table.

    python -m benchmarks.against_abcrown FOLDER PYTHON CHECKOUT PATHS [--timeout 60] [--each N] [--log LINES.jsonl]

PYTHON is the interpreter of an environment for α,β-CROWN, CHECKOUT its repository, PATHS what its PYTHONPATH needs
(auto_LiRPA and onnx2pytorch). Each property is judged by both in turn, each by its command in a process of its own, on
one thread of the CPU: `ibpc certify` as anyone calls it, and `abcrown.py` with the configuration that its authors made
for the benchmark, with 256 subdomains at once (theirs are chosen for GPUs). Seconds are CPU seconds of whole processes,
starting Python included; the limit is by the clock.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.log import Log
from benchmarks.nets import Instance, stated

WORDS: Final = {"verified": "unsat", "falsified": "sat"}
KNOWN: Final = ("sat", "unsat")
BATCH: Final = "256"
# The configuration for each benchmark, by a word in the path of the property or, failing that, of the network.
CONFIGURATIONS: Final[Mapping[str, str]] = {
    "test_prop": "vnncomp21/acasxu.yaml",
    "acasxu": "vnncomp21/acasxu.yaml",
    "cifar10_resnet": "vnncomp21/cifar10-resnet.yaml",
    "eran": "vnncomp21/eran_sigmoid.yaml",
    "marabou-cifar10": "vnncomp21/marabou_cifar10.yaml",
    "mnistfc": "vnncomp22/mnistfc_small.yaml",
    # Its own asks for cuts by CPLEX, which is not free.
    "oval21": "vnncomp21/cifar10-resnet.yaml",
    "vnncomp2021/test": "vnncomp21/test.yaml",
    "verivital": "vnncomp21/verivital.yaml",
    "carvana": "vnncomp22/carvana-unet-all.yaml",
    "biasfield": "vnncomp22/cifar_biasfield.yaml",
    "collins": "vnncomp23/collins-rul-cnn.yaml",
    "nn4sys": "vnncomp23/nn4sys.yaml",
    "reach_prob": "vnncomp22/reach_probability.yaml",
    "cartpole": "vnncomp22/cartpole.yaml",
    "sri_resnet_a": "vnncomp22/resnet_A.yaml",
    "tllverify": "vnncomp23/tllVerifyBench.yaml",
    "cctsdb": "vnncomp23/cctsdb_yolo.yaml",
    "cgan": "vnncomp23/cgan.yaml",
    "dist_shift": "vnncomp23/dist-shift.yaml",
    "ml4acopf": "vnncomp23/ml4acopf.yaml",
    "traffic": "vnncomp23/gtrsb.yaml",
    "/vit/": "vnncomp23/vit.yaml",
    "/yolo/": "vnncomp24/yolo-xiangruzh.yaml",
    "cora": "vnncomp24/cora.yaml",
    "lsnc": "vnncomp24/lsnc.yaml",
    "safenlp": "vnncomp24/safenlp.yaml",
}


@dataclass(frozen=True)
class Outcome:
    """What both said of one property, and their CPU seconds."""

    network: str
    prop: str
    known: str
    ours: str
    seconds: float
    theirs: str
    their_seconds: float


def main() -> None:
    """Run what is not in the log yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with instances.csv")
    parser.add_argument("python", help="interpreter of an environment with α,β-CROWN's dependencies")
    parser.add_argument("checkout", type=Path, help="its repository")
    parser.add_argument("paths", help="PYTHONPATH for it")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a property, by the clock")
    parser.add_argument("--only", default="", help="networks and properties whose path contains this")
    parser.add_argument("--each", type=int, default=99, help="at most so many properties of each network")
    parser.add_argument("--log", type=Path, help="JSON lines of what is done")
    options = parser.parse_args()
    log = Log(options.log, Outcome)
    done = {(outcome.network, outcome.prop): outcome for outcome in log.entries()}
    outcomes: list[Outcome] = []
    for name, prop, instance in stated(options.folder, options.only):
        if sum(outcome.network == name for outcome in outcomes) >= options.each:
            continue
        if (name, prop.name) not in done:
            outcome = judged(name, prop, instance, options)
            log.add(outcome)
            print(outcome, file=sys.stderr, flush=True)
            done[name, prop.name] = outcome
        outcomes.append(done[name, prop.name])
    for line in table(outcomes):
        print(line)


# ── one property ────────────────────────────────────────────────────────────────────────────────────────────────
def judged(name: str, prop: Path, instance: Instance, options: argparse.Namespace) -> Outcome:
    """Return what both say of a property."""
    with tempfile.TemporaryDirectory() as folder:
        model, stated_as = (unpacked(path, Path(folder)) for path in (Path(instance.network), prop))
        ours, seconds = by_ibpc(model, stated_as, options.timeout, Path(folder))
        theirs, their_seconds = by_abcrown(name, model, stated_as, options, Path(folder))
    return Outcome(name, prop.name, instance.known, ours, seconds, theirs, their_seconds)


def unpacked(path: Path, folder: Path) -> Path:
    """Return a copy of a file in a folder, unpacked if it is gzipped: α,β-CROWN writes beside what it reads."""
    target = folder / path.name.removesuffix(".gz")
    if path.suffix != ".gz":
        return Path(shutil.copy(path, target))
    with gzip.open(path) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    return target


def by_ibpc(model: Path, prop: Path, timeout: float, folder: Path) -> tuple[str, float]:
    """Return the word of `ibpc certify` and its CPU seconds."""
    report = folder / "ibpc.json"
    command = [sys.executable, "-m", "ibpc", "certify", str(model), "--vnnlib", str(prop)]
    seconds = measured([*command, "--timeout", str(timeout), "--json", str(report)], Path.cwd(), os.environ)
    verdict = json.loads(report.read_text())["verdict"] if report.exists() else "refused"
    return WORDS.get(verdict, verdict), seconds


def by_abcrown(name: str, model: Path, prop: Path, options: argparse.Namespace, folder: Path) -> tuple[str, float]:
    """Return the word of α,β-CROWN and its CPU seconds; "failed" where it leaves none."""
    configuration = next(
        (value for where in (prop.name, name) for key, value in CONFIGURATIONS.items() if key in where), None
    )
    report = folder / "abcrown.txt"
    command = [options.python, "abcrown.py", "--device", "cpu", "--onnx_path", str(model), "--vnnlib_path", str(prop)]
    command += ["--timeout", str(options.timeout), "--results_file", str(report), "--batch_size", BATCH]
    command += [] if configuration is None else ["--config", f"exp_configs/{configuration}"]
    environment = {**os.environ, "PYTHONPATH": options.paths}
    seconds = measured(command, options.checkout / "complete_verifier", environment)
    return (report.read_text().split()[0] if report.exists() else "failed"), seconds


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> float:
    """Run a command on one thread and return the CPU seconds of it and all that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    single = {**environment, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=single, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ── table ───────────────────────────────────────────────────────────────────────────────────────────────────────
def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the table and what it adds up to."""
    lines = [
        "| network | property | known | ibpc | CPU seconds | α,β-CROWN | CPU seconds |",
        "|---|---|---|---|---:|---|---:|",
    ]
    lines += [
        f"| {o.network} | {o.prop} | {o.known} | {o.ours} | {o.seconds:.1f} | {o.theirs} | {o.their_seconds:.1f} |"
        for o in outcomes
    ]
    both = [o for o in outcomes if o.ours in KNOWN and o.theirs in KNOWN]
    words = {side: Counter(getattr(o, side) in KNOWN for o in outcomes)[True] for side in ("ours", "theirs")}
    ratios = sorted(o.their_seconds / o.seconds for o in both)
    return [
        *lines,
        "",
        f"Decided: {words['ours']} by ibpc, {words['theirs']} by α,β-CROWN, {len(both)} by both "
        f"({sum(o.ours != o.theirs for o in both)} contradictions), of {len(outcomes)}. "
        f"Where both decide, α,β-CROWN takes {sum(o.their_seconds for o in both):.0f} CPU seconds and ibpc "
        f"{sum(o.seconds for o in both):.0f}; the median ratio is {ratios[len(ratios) // 2]:.2f}.",
    ]


if __name__ == "__main__":
    main()
