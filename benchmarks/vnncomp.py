"""Verdicts on properties that others made, beside the known ones: one Markdown table.

    python benchmarks/vnncomp.py FOLDER [--timeout 60] [--jobs 2] [--clock cpu] [--device cuda] [--log LINES.jsonl]

Each property runs in a process of its own, from importing the file to the verdict within the time limit; one that does
not end by itself is killed. With `--clock cpu` seconds, those of the limit too, are CPU seconds: what else the machine
does counts less, and nothing is killed. With `--log` finished properties are kept, one JSON line each, and are not run
again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.log import Log
from benchmarks.nets import Instance, stated

EXPECTED = {"unsat": "verified", "sat": "falsified"}
GRACE = 1.5


@dataclass(frozen=True)
class Outcome:
    """What became of one property: `stages` lists what was tried; `bound` is the least margin that is still open."""

    network: str
    prop: str
    known: str
    verdict: str
    by: str
    seconds: float
    bound: str
    certificate: str = ""

    @property
    def contradicts(self) -> bool:
        """Whether the verdict is known to be wrong."""
        return self.known in EXPECTED and self.verdict in EXPECTED.values() and self.verdict != EXPECTED[self.known]


def main() -> None:
    """Run what is not in the log yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with instances.csv")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a property")
    parser.add_argument("--jobs", type=int, default=1, help="properties at once")
    parser.add_argument("--threads", type=int, default=1, help="threads a property")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="what seconds are")
    parser.add_argument("--method", default="auto", help="how to bound")
    parser.add_argument("--arithmetic", default="float32", choices=["float32", "real"], help="what bounds hold for")
    parser.add_argument("--device", default="cpu", help="where to bound and attack")
    parser.add_argument("--only", default="", help="networks and properties whose path contains this")
    parser.add_argument("--certificates", type=Path, help="write certificates here and check them")
    parser.add_argument("--log", type=Path, help="JSON lines of what is done")
    options = parser.parse_args()
    log = Log(options.log, Outcome)
    done = {(outcome.network, outcome.prop): outcome for outcome in log.entries()}

    def run(item: tuple[str, Path, Instance]) -> Outcome:
        name, prop, instance = item
        if (name, prop.name) in done:
            return done[name, prop.name]
        outcome = judged(name, prop, instance, options)
        log.add(outcome)
        print(f"{name} {prop.name}: {outcome.verdict} in {outcome.seconds:.1f} s", file=sys.stderr, flush=True)
        return outcome

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(run, stated(options.folder, options.only)))
    for line in table(outcomes):
        print(line)


# ── one property ────────────────────────────────────────────────────────────────────────────────────────────────
def judged(name: str, prop: Path, instance: Instance, options: argparse.Namespace) -> Outcome:
    """Return the outcome of one property in a process of its own."""
    certificates, timeout = str(options.certificates or ""), options.timeout
    arguments = (
        str(instance.network),
        str(prop),
        options.method,
        options.arithmetic,
        timeout,
        options.threads,
        certificates,
        options.clock,
        options.device,
    )
    command = [sys.executable, "-c", f"from benchmarks.vnncomp import one; one(*{arguments!r})"]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[1],
            timeout=None if certificates or options.clock == "cpu" else GRACE * timeout + 10,
        )
    except subprocess.TimeoutExpired:
        return Outcome(name, prop.name, instance.known, "killed", "", time.monotonic() - started, "")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return Outcome(name, prop.name, instance.known, "refused", "", time.monotonic() - started, last[0])
    return Outcome(name, prop.name, instance.known, **json.loads(done.stdout.splitlines()[-1]))


def one(
    model: str,
    prop: str,
    method: str,
    arithmetic: str,
    timeout: float,
    threads: int,
    certificates: str,
    clock: str,
    device: str,
) -> None:
    """Decide one property and print the outcome as JSON; importing the libraries is not counted."""
    if clock == "cpu":
        vars(time)["monotonic"] = time.process_time
    import torch

    import ibpc
    from ibpc.errors import IbpcError

    torch.set_num_threads(threads)
    started = time.monotonic()
    try:
        network, wanted = ibpc.compile(model).to(torch.device(device)), ibpc.load_vnnlib(prop)
        left = timeout - (time.monotonic() - started)
        decision = ibpc.decide(network, wanted, method=method, arithmetic=ibpc.Arithmetic(arithmetic), timeout=left)
    except IbpcError as error:
        sys.exit(" / ".join(str(problem) for problem in error.problems))
    seconds = time.monotonic() - started
    checked = ""
    if certificates and decision.verdict.value in EXPECTED.values():
        path = Path(certificates) / f"{Path(model).name}-{Path(prop).name}.json"
        ibpc.write_certificate(path, Path(model), network, wanted, decision)
        failed = [claim for claim in ibpc.check(path) if not claim.holds]
        no_proof = all("there is no proof" in claim.detail for claim in failed)
        checked = "confirmed" if not failed else "no proof" if no_proof else "FAILED"
    margins = [margin for case in decision.margins for margin in case]
    bound = f"{min(margins):.3g}" if margins and decision.verdict.value not in EXPECTED.values() else ""
    print(
        json.dumps(
            {
                "verdict": decision.verdict.value,
                "by": decision.method,
                "seconds": seconds,
                "bound": bound,
                "certificate": checked,
            }
        )
    )


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────
def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the table, and what it comes to over the properties whose verdict is undisputed."""
    yield "| network | property | known | verdict | by | seconds | open margin | certificate |"
    yield "|---|---|---|---|---|---:|---:|---|"
    for outcome in outcomes:
        verdict = f"{outcome.verdict}{' CONTRADICTION' if outcome.contradicts else ''}"
        yield (
            f"| {outcome.network} | {outcome.prop} | {outcome.known} | {verdict} | {outcome.by} | "
            f"{outcome.seconds:.1f} | {outcome.bound} | {outcome.certificate} |"
        )
    counts = Counter(outcome.verdict for outcome in outcomes)
    undisputed = [outcome for outcome in outcomes if outcome.known in EXPECTED]
    decided = sum(outcome.verdict == EXPECTED[outcome.known] for outcome in undisputed)
    yield ""
    wrong = sum(outcome.contradicts for outcome in outcomes)
    yield (
        f"{', '.join(f'{count} {verdict}' for verdict, count in sorted(counts.items()))}. "
        f"Of {len(undisputed)} undisputed properties {decided} are decided; {wrong} contradictions."
    )


if __name__ == "__main__":
    main()
