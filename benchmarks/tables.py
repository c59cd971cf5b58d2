"""Write the tables of results into the documents, from the receipts in benchmarks/results.

    python benchmarks/tables.py            # write
    python benchmarks/tables.py --check    # only say, by status 1, which document is not up to date

The receipts in `results/`, `results/methods/` and `results/constraints/` are what `record.py` writes. A document marks
where a table goes by `<!-- table: NAME -->` and `<!-- end of table -->`; NAME is `best`, `all`, `methods` or
`constraints`. Receipts that differ in their seed alone make one row: means, ± the standard deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
DOCUMENTS: Final = ("README.md", "benchmarks/training.md", "docs/training.md")
TITLES: Final = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "svhn": "SVHN"}
USUAL_IMAGES: Final = 10_000
USUAL_CERTIFIER: Final = "ibp, float32"
BLOCK: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Receipt:
    """One trained and certified network; accuracies are shares, seconds those of the training steps.

    `chosen` are the indices of its images, none if these are the first of the data.
    """

    path: Path
    network: str
    parameters: int
    data: str
    eps: float
    images: int
    chosen: tuple[int, ...]
    certifier: str
    method: str
    epochs: int
    seconds: float
    cpu_seconds: float | None
    machine: str
    nominal: float
    attack: float
    certified: float
    searched: float | None
    searcher: str | None
    recipe: str

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Return the receipt of a file. Raises ValueError, with the file's name, for anything that is none."""
        try:
            data = json.loads(path.read_text("utf-8"))
            training, proof = data["training"], data["certification"]
            recipe, hardware = training["recipe"], training["hardware"]
            return cls(
                path=path,
                network=training["network"],
                parameters=int(training["parameters"]),
                data=proof["data"],
                eps=float(proof["eps"]),
                images=int(proof["n"]),
                chosen=tuple(proof.get("images", ())),
                certifier=f"{proof['method']}, {proof['arithmetic']}",
                method=recipe["method"],
                epochs=int(recipe["epochs"]),
                seconds=float(training["seconds"]),
                cpu_seconds=data.get("cpu_seconds"),
                machine=hardware["gpu"] or _threads(hardware["threads"]),
                nominal=float(proof["nominal_accuracy"]),
                attack=float(proof["attack_accuracy"]),
                certified=float(proof["certified_accuracy"]),
                searched=_searched_of(data),
                searcher=data.get("search", {}).get("method"),
                recipe=json.dumps(recipe, sort_keys=True),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a receipt that record.py wrote ({error!r})") from error

    @property
    def proved(self) -> float:
        """The share that is certified, in whichever way."""
        return max(self.certified, self.searched or 0.0)

    @property
    def task(self) -> tuple[Any, ...]:
        """What was asked: data, known names first, ε, and the network by size."""
        known = list(TITLES)
        place = known.index(self.data) if self.data in known else len(known)
        return place, self.data, self.eps, self.parameters, self.network


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _searched_of(data: Mapping[str, Any]) -> float | None:
    """Return the share that a search certified of the same images, None if there was none."""
    if "search" not in data:
        return None
    asked = ("data_sha256", "split", "n", "images", "eps", "arithmetic")
    if any(data["search"].get(key) != data["certification"].get(key) for key in asked):
        raise ValueError("the search was about something else")
    return float(data["search"]["certified_accuracy"])


@dataclass(frozen=True)
class Row:
    """Receipts that differ in their seed alone."""

    receipts: tuple[Receipt, ...]

    @property
    def first(self) -> Receipt:
        """Any of them, for what they share."""
        return self.receipts[0]

    def mean(self, value: Callable[[Receipt], float]) -> float:
        """Return the mean of a figure."""
        return mean(map(value, self.receipts))

    def share(self, value: Callable[[Receipt], float]) -> str:
        """Return the mean of a share, with its standard deviation where there are several."""
        text = f"{self.mean(value):.2%}"
        if len(self.receipts) == 1:
            return text
        return f"{text} ± {100 * stdev(map(value, self.receipts)):.2f}"

    def seconds_an_epoch(self, seconds: Callable[[Receipt], float]) -> str:
        """Return the mean seconds of an epoch."""
        return f"{self.mean(seconds) / self.first.epochs:.1f}"


def rows_of(receipts: Iterable[Receipt]) -> list[Row]:
    """Return the rows, by task, within one the greatest share that is proved first."""
    same = lambda one: (*one.task, one.recipe, one.images, one.chosen, one.certifier, one.machine)  # noqa: E731
    rows = [Row(tuple(group)) for _, group in groupby(sorted(receipts, key=lambda one: (same(one), one.path)), same)]
    return sorted(rows, key=lambda row: (row.first.task, -row.mean(lambda one: one.proved), row.first.path))


def best_of(rows: Iterable[Row], replication: Mapping[str, Any]) -> list[Row]:
    """Return for every task the first row that beats the replication in both accuracies by any bounds, else the first.

    Those of networks that the replication has come first.
    """
    found = []
    for _, group in groupby(rows, lambda row: row.first.task):
        those = list(group)
        found.append(next((row for row in those if _beats(row, replication)), those[0]))
    return sorted(found, key=lambda row: _counterpart(row.first, replication) is None)


def _beats(row: Row, replication: Mapping[str, Any]) -> bool:
    other = _counterpart(row.first, replication)
    if other is None:
        return True
    ours = row.mean(lambda one: one.nominal), row.mean(lambda one: one.proved)
    return ours[0] > other["nominal"] and ours[1] > other["certified"]


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────
def best_table(rows: Sequence[Row], document: Path, replication: Mapping[str, Any]) -> str:
    """Return the table of the best trained networks, narrow enough for a front page."""
    heads = "network|data, ε|nominal|certified by intervals|by search|replication: nominal, certified|trained"
    lines = [_line(heads.split("|")), _line(["---"] * 2 + ["---:"] * 3 + ["---"] * 2)]
    for row in rows:
        one = row.first
        seconds = f"{row.mean(lambda found: found.seconds):,.0f} s"
        cells = [_names(row, document), f"{_data(one)}, {_eps(one.eps)}", row.share(lambda found: found.nominal)]
        certified, searched = _certified(row), _searched(row)
        proofs = [certified.replace("**", ""), f"**{searched}**"] if searched else [certified, ""]
        cells += [*proofs, _replicated(one, replication)]
        lines.append(_line([*cells, f"{one.method}, {one.epochs} epochs, {seconds} on {one.machine}"]))
    return "\n".join(lines) + "\n"


def results_table(rows: Sequence[Row], document: Path, replication: Mapping[str, Any]) -> str:
    """Return the table of trained networks, with links that work from the document."""
    heads = "network|data|ε|method|epochs|seconds|on|nominal|attack|certified|by search"
    lines = [_line([*heads.split("|"), "replication: nominal, certified"]), _line(["---"] * 4 + ["---:"] * 7 + ["---"])]
    for row in rows:
        one = row.first
        cells = [_names(row, document), _data(one), _eps(one.eps), one.method, str(one.epochs)]
        cells += [f"{row.mean(lambda found: found.seconds):,.0f}", one.machine]
        cells += [row.share(lambda found: found.nominal), row.share(lambda found: found.attack)]
        cells += [_certified(row), _searched(row), _replicated(one, replication)]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def methods_table(rows: Sequence[Row], document: Path) -> str:
    """Return one table for every network, data set and ε: a row a method.

    Raises ValueError where its last column would be about something else than CROWN.
    """
    odd = [one.path for row in rows for one in row.receipts if one.searcher not in (None, "crown")]
    if odd:
        raise ValueError(f"{odd[0]}: the table of methods says what CROWN proves")
    parts, asked = [], lambda row: (row.first.task, row.first.images, row.first.chosen)
    for _, group in groupby(sorted(rows, key=asked), asked):
        found = list(group)
        one = found[0].first
        lines = [f"`{one.network}` on {_title(one.data)}, ε = {_eps(one.eps)}, {_count(one)} test images:", ""]
        heads = "method|epochs|nominal|attack|certified|by CROWN|seconds an epoch|on"
        lines += [_line(heads.split("|")), _line(["---"] + ["---:"] * 7)]
        for row in found:
            cells = [f"[`{row.first.method}`]({_link(row.first.path, document)})", str(row.first.epochs)]
            cells += [row.share(lambda it: it.nominal), row.share(lambda it: it.attack)]
            cells += [_certified(row), _searched(row)]
            seconds = row.seconds_an_epoch(lambda it: it.cpu_seconds or it.seconds)
            lines.append(_line([*cells, seconds, row.first.machine]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n" if parts else ""


def constraints_table(rows: Sequence[Row], document: Path) -> str:
    """Return a table with a row a network and method; a constrained network is named NETWORK_CONSTRAINT."""
    heads = "network|method|epochs|nominal|attack|certified|CPU seconds an epoch"
    lines = [_line(heads.split("|")), _line(["---"] * 2 + ["---:"] * 5)]
    for row in sorted(rows, key=lambda row: (row.first.method, row.first.network)):
        one = row.first
        cells = [f"[`{one.network}`]({_link(one.path, document)})", one.method, str(one.epochs)]
        cells += [row.share(lambda it: it.nominal), row.share(lambda it: it.attack), _certified(row)]
        lines.append(_line([*cells, row.seconds_an_epoch(lambda it: it.cpu_seconds or it.seconds)]))
    return "\n".join(lines) + "\n" if rows else ""


def beside(constrained: Sequence[Receipt], plain: Sequence[Receipt]) -> list[Receipt]:
    """Return the constrained receipts, and the plain ones of their networks and methods."""
    wanted = {(one.network.rpartition("_")[0], one.method, one.data, one.eps, one.epochs) for one in constrained}
    return [*constrained, *(it for it in plain if (it.network, it.method, it.data, it.eps, it.epochs) in wanted)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _names(row: Row, document: Path) -> str:
    """Return the network's name, as a link to the first receipt, and a number for each other."""
    links = [f"[`{row.first.network}`]({_link(row.first.path, document)})"]
    links += [f"[{number}]({_link(more.path, document)})" for number, more in enumerate(row.receipts[1:], 2)]
    return " ".join(links)


def _link(path: Path, document: Path) -> str:
    return Path(os.path.relpath(path, document.parent)).as_posix()


def _data(one: Receipt) -> str:
    is_usual = one.images == USUAL_IMAGES and not one.chosen
    return _title(one.data) if is_usual else f"{_title(one.data)} ({_count(one)} images)"


def _count(one: Receipt) -> str:
    return f"{one.images:,} chosen" if one.chosen else f"{one.images:,}"


def _certified(row: Row) -> str:
    share = f"**{row.share(lambda one: one.certified)}**"
    return share if row.first.certifier == USUAL_CERTIFIER else f"{share} ({row.first.certifier})"


def _searched(row: Row) -> str:
    found = [one.searched for one in row.receipts if one.searched is not None]
    return f"{mean(found):.2%}" if len(found) == len(row.receipts) else ""


def _title(data: str) -> str:
    return TITLES.get(data, data)


def _eps(eps: float) -> str:
    steps = round(eps * 255)
    return f"{steps}/255" if 0 < steps < 255 and abs(steps / 255 - eps) < 1e-12 else f"{eps:g}"


def _replicated(one: Receipt, replication: Mapping[str, Any]) -> str:
    row = _counterpart(one, replication)
    return "" if row is None else f"{row['nominal']:.2%}, {row['certified']:.2%}"


def _counterpart(one: Receipt, replication: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the replication's row for the same network, data and ε, if it has one."""
    for row in replication["rows"]:
        if one.network in row["networks"] and one.data == row["data"] and abs(one.eps - row["eps"]) < 1e-12:
            found: Mapping[str, Any] = row
            return found
    return None


# ── documents ───────────────────────────────────────────────────────────────────────────────────────────────────
def written(text: str, document: Path, results: Path) -> str:
    """Return the text of a document with its tables as the receipts in `results` have them."""
    rows = rows_of(Receipt.read(path) for path in sorted(results.glob("*.json")))
    plain = [Receipt.read(path) for path in sorted((results / "methods").glob("*.json"))]
    constrained = [Receipt.read(path) for path in sorted((results / "constraints").glob("*.json"))]
    methods, constraints = rows_of(plain), rows_of(beside(constrained, plain))
    replication = json.loads((HERE / "replication.json").read_text("utf-8"))
    tables: Mapping[str, Callable[[], str]] = {
        "best": lambda: best_table(best_of(rows, replication), document, replication),
        "all": lambda: results_table(rows, document, replication),
        "methods": lambda: methods_table(methods, document),
        "constraints": lambda: constraints_table(constraints, document),
    }

    def block(match: re.Match[str]) -> str:
        if match[2] not in tables:
            raise ValueError(f"{document}: table {match[2]!r}; expected one of {', '.join(tables)}")
        return match[1] + tables[match[2]]() + match[3]

    return BLOCK.sub(block, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = []
    for document in (ROOT / name for name in DOCUMENTS):
        before = document.read_text("utf-8")
        after = written(before, document, HERE / "results")
        if after != before:
            stale.append(document.relative_to(ROOT).as_posix())
            if not options.check:
                document.write_text(after, "utf-8")
    if stale:
        print(f"{'not up to date' if options.check else 'wrote'}: {', '.join(stale)}")
    sys.exit(1 if stale and options.check else 0)


if __name__ == "__main__":
    main()
