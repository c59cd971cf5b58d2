"""A drill with planted bugs: whether the suite catches a flipped sign, slope or inequality wherever it may slip in.

    python benchmarks/mutation.py [--only WORD] [--log LINES.jsonl] [-o benchmarks/results/mutation.md]

Each bug of `bugs/*.toml` replaces one text in a copy of the project, and the tests that are about it, which all pass
without it, have to notice. A bug whose text is not in its file exactly once is an error: it has to follow the code.
With `--log` outcomes are kept, one JSON line each, and a bug that has one is not planted again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUGS = Path(__file__).with_name("bugs")
COPIED = ("ibpc", "tests", "specs", "examples", "docs", "benchmarks", "pyproject.toml", "README.md")
LONGEST = 600.0


@dataclass(frozen=True)
class Mutation:
    """One planted bug: `old` becomes `new` in `file`, and `tests` (arguments of pytest) have to notice."""

    what: str
    file: str
    old: str
    new: str
    tests: str


@dataclass(frozen=True)
class Outcome:
    """What the tests said: the first that failed, or nothing."""

    mutation: Mutation
    caught_by: str
    seconds: float


def main() -> int:
    """Run the drill, print and write the table; status 1 unless every planted bug was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="only bugs whose description or file has the word")
    parser.add_argument("--log", type=Path, help="JSON lines of what is done")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    mutations = planted()
    chosen = [mutation for mutation in mutations if options.only in f"{mutation.what} {mutation.file}"]
    done = logged(options.log, mutations)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        copied_to(copy)
        for outcome in drilled(copy, [mutation for mutation in chosen if mutation.what not in done]):
            done[outcome.mutation.what] = outcome
            if options.log:
                with options.log.open("a") as file:
                    file.write(json.dumps([outcome.mutation.what, outcome.caught_by, outcome.seconds]) + "\n")
            print(line(outcome), flush=True)
    outcomes = [done[mutation.what] for mutation in chosen]
    caught = sum(bool(outcome.caught_by) for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} caught")
    if options.output:
        options.output.write_text(page(outcomes), encoding="utf-8")
    return 0 if caught == len(outcomes) else 1


def planted() -> list[Mutation]:
    """Return all bugs, in the order of their files."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(BUGS.glob("*.toml"))]
    return [Mutation(**bug) for text in texts for bug in tomllib.loads(text)["bug"]]


def logged(path: Path | None, mutations: Sequence[Mutation]) -> dict[str, Outcome]:
    """Return the outcomes in a log by bug, those of bugs that are still planted."""
    if path is None or not path.exists():
        return {}
    known = {mutation.what: mutation for mutation in mutations}
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return {what: Outcome(known[what], caught, seconds) for what, caught, seconds in lines if what in known}


def copied_to(copy: Path) -> None:
    """Copy what the tests need, without caches."""
    for name in COPIED:
        source, target = ROOT / name, copy / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy2(source, target)


def mutated(mutation: Mutation, text: str) -> str:
    """Return a file's text with the bug in it. Raises ValueError unless the text to replace is there exactly once."""
    count = text.count(mutation.old)
    if count != 1:
        raise ValueError(f"{mutation.file}: {mutation.old!r} is there {count} times; the mutation has to follow it")
    return text.replace(mutation.old, mutation.new)


def drilled(copy: Path, mutations: Sequence[Mutation]) -> Iterator[Outcome]:
    """Yield the outcome of each mutation, applied alone. Raises ValueError where tests fail without a bug."""
    healthy: set[str] = set()
    for mutation in mutations:
        path = copy / mutation.file
        text = path.read_text(encoding="utf-8")
        changed = mutated(mutation, text)
        if mutation.tests not in healthy:
            failed = first_failure(copy, mutation.tests)
            if failed:
                raise ValueError(f"{failed} fails without a planted bug")
            healthy.add(mutation.tests)
        started = time.monotonic()
        path.write_text(changed, encoding="utf-8")
        try:
            failed = first_failure(copy, mutation.tests)
        finally:
            path.write_text(text, encoding="utf-8")
        yield Outcome(mutation, failed, time.monotonic() - started)


def first_failure(copy: Path, tests: str) -> str:
    """Return the first test that fails, "" if all pass. Raises ValueError where none are run."""
    arguments = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            arguments, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return "the tests do not end"
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if failed is None:
        raise ValueError(f"pytest {tests} ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    return failed[1]


def line(outcome: Outcome) -> str:
    """Return the row of the table."""
    mutation = outcome.mutation
    caught = f"`{short(outcome.caught_by)}`" if outcome.caught_by else "**missed**"
    return f"| {mutation.what} | `{mutation.file.removeprefix('ibpc/')}` | {caught} | {outcome.seconds:.0f} |"


def short(test: str) -> str:
    """Return a test's name, cut where its parameters are long."""
    name = test.removeprefix("tests/").replace("|", "¦")
    return name if len(name) <= 110 else f"{name[:109]}…"


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the table as a page of Markdown."""
    caught = sum(bool(outcome.caught_by) for outcome in outcomes)
    head = (
        "# Planted bugs\n\n"
        "`python benchmarks/mutation.py`: one bug at a time in a copy of the project, and the first "
        "test that fails.\n\n"
        f"**{caught} of {len(outcomes)} caught.**\n\n"
        "| planted bug | file | caught by | seconds |\n|---|---|---|---:|\n"
    )
    return head + "\n".join(map(line, outcomes)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
