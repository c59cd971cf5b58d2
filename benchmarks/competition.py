"""The competition's scripts over a whole list of instances, as its harness runs them: one Markdown table.

    python -m benchmarks.competition FOLDER [--timeout 60] [--only WORD] [--log LINES.jsonl]

Each instance is prepared and run by the scripts of `vnncomp/` in processes of their own, with wall-clock seconds. What
they leave behind is read back as a harness does: the first word of the result file, and behind `sat` a counterexample,
which ONNX Runtime evaluates on the file itself: its outputs have to be those that are written, and inputs and outputs
a counterexample. With `--log` finished instances are kept, one JSON line each, and are not run again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import ibpc
from benchmarks.log import Log
from benchmarks.nets import Instance, stated
from ibpc.verify.replay import Replay, runnable_model

SCRIPTS = Path(__file__).parents[1] / "vnncomp"
WORDS = ("sat", "unsat", "unknown", "timeout", "error")


@dataclass(frozen=True)
class Result:
    """What the scripts left behind for an instance; `counterexample` is `valid`, or what is wrong with it."""

    network: str
    prop: str
    known: str
    word: str
    seconds: float
    counterexample: str = ""

    @property
    def contradicts(self) -> bool:
        """Whether the word is known to be wrong."""
        return {self.known, self.word} == {"sat", "unsat"}


def main() -> None:
    """Run what is not in the log yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with instances.csv")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds an instance")
    parser.add_argument("--only", default="", help="networks and properties whose path contains this")
    parser.add_argument("--log", type=Path, help="JSON lines of what is done")
    options = parser.parse_args()
    log = Log(options.log, Result)
    done = {(result.network, result.prop): result for result in log.entries()}
    results = []
    for name, prop, instance in stated(options.folder, options.only):
        result = done.get((name, prop.name))
        if result is None:
            result = ran(name, prop, instance, options.timeout)
            log.add(result)
            print(f"{name} {prop.name}: {result.word} in {result.seconds:.1f} s", file=sys.stderr, flush=True)
        results.append(result)
    print("\n".join(table(results)))


def ran(name: str, prop: Path, instance: Instance, timeout: float) -> Result:
    """Return what the scripts say of an instance."""
    category = Path(name).parts[-2]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.txt"
        if script("prepare_instance.sh", category, str(instance.network), str(prop)):
            return Result(name, prop.name, instance.known, "not prepared", 0.0)
        started = time.monotonic()
        status = script("run_instance.sh", category, str(instance.network), str(prop), str(file), f"{timeout:g}")
        seconds = time.monotonic() - started
        word, _, rest = file.read_text().partition("\n") if file.exists() else ("", "", "")
    if word not in WORDS:
        return Result(name, prop.name, instance.known, f"status {status}, no result", seconds)
    judged = judgement(instance.network, prop, rest) if word == "sat" else ""
    return Result(name, prop.name, instance.known, word, seconds, judged)


def script(name: str, *arguments: str) -> int:
    """Run one of the scripts and return its status."""
    command = ["bash", str(SCRIPTS / name), "v1", *arguments]
    environment = os.environ | {"IBPC_PYTHON": sys.executable}
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def judgement(network: Path, prop: Path, text: str) -> str:
    """Return what a counterexample is worth: `valid`, or what is wrong."""
    numbers = {key: float(value) for key, value in re.findall(r"\((\w+) ([^()\s]+)\)", text)}
    x, y = (torch.tensor([v for key, v in numbers.items() if key[0] == side]).double() for side in "XY")
    wanted, model = ibpc.load_vnnlib(prop), ibpc.compile(network)
    shapes = [model.graph.node(name).shape[1:] for name in model.graph.inputs]
    computed = Replay(runnable_model(network))(wanted.split(x.float()[None], shapes)).double().flatten()
    if not torch.allclose(computed, y, rtol=1e-5, atol=1e-5):
        return "other outputs"
    return "valid" if wanted.violated(x, computed) else "not one"


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table, and what it comes to."""
    yield "| network | property | known | result | seconds | counterexample |"
    yield "|---|---|---|---|---:|---|"
    for one in results:
        word = f"{one.word}{' CONTRADICTION' if one.contradicts else ''}"
        yield f"| {one.network} | {one.prop} | {one.known} | {word} | {one.seconds:.1f} | {one.counterexample} |"
    counts = ", ".join(f"{sum(one.word == word for one in results)} {word}" for word in WORDS)
    undisputed = [one for one in results if one.known in ("sat", "unsat")]
    right = sum(one.word == one.known for one in undisputed)
    wrong = sum(one.contradicts for one in results)
    valid = sum(one.counterexample == "valid" for one in results)
    yield ""
    yield (
        f"{counts}. Of {len(undisputed)} undisputed instances {right} are decided; {wrong} contradictions; "
        f"{valid} of {sum(one.word == 'sat' for one in results)} counterexamples are valid."
    )


if __name__ == "__main__":
    main()
