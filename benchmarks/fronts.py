"""Draw nominal against certified accuracy of every run of a network, and the front that none of them is beyond.

    python benchmarks/fronts.py [-o benchmarks/results/fronts.png]

From the receipts in `results/`: a dot a run by intervals, a diamond the same run by search; the line joins the runs
that no other beats in both, a ring is around the one nearest to the aim, a star. A cross is the published replication.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import HERE, Receipt, _counterpart, _eps, _title
from ibpc.report.pictures import save_figure
from ibpc.report.style import INKS, styled

# Certified and nominal accuracy that were aimed at: for the small networks above a plain training loop, for the mediums
# on MNIST what Gowal et al. released, on CIFAR-10 well above the replication.
AIMS: Final[Mapping[str, tuple[float, float]]] = {
    "mnist_small": (0.970, 0.986),
    "mnist_medium": (0.9708, 0.9894),
    "cifar_small": (0.40, 0.57),
    "cifar_medium": (0.42, 0.58),
}
_RADII: Final = {"mnist": 0.1, "cifar10": 2 / 255}

Point = tuple[float, float]


def front_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in one accuracy without losing in the other, in order."""
    return sorted(p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points))


def nearest(points: Sequence[Point], aim: Point) -> Point:
    """Return the point that lacks least of the aim; what is beyond it counts for nothing."""
    return min(
        points, key=lambda point: hypot(*(max(0.0, wish - share) for wish, share in zip(aim, point, strict=True)))
    )


def draw(axes: Axes, receipts: Sequence[Receipt], aim: Point, published: Mapping[str, Any] | None) -> None:
    """Draw the runs of one network."""
    one = receipts[0]
    runs = [(receipt.certified, receipt.nominal) for receipt in receipts]
    searched = [(receipt.searched, receipt.nominal) for receipt in receipts if receipt.searched is not None]
    front = front_of(runs)
    axes.plot(*zip(*front, strict=True), color=INKS["certified"], lw=1, zorder=1, label="none is better in both")
    axes.scatter(*zip(*runs, strict=True), s=26, color=INKS["certified"], label="by intervals")
    if searched:
        axes.scatter(
            *zip(*searched, strict=True),
            s=30,
            marker="D",
            facecolor="none",
            edgecolor=INKS["nominal"],
            label="by search",
        )
    close = nearest(runs, aim)
    axes.scatter(*close, s=150, facecolor="none", edgecolor=INKS["ink"], lw=1, label="nearest to the aim")
    axes.scatter(*aim, s=90, marker="*", color=INKS["unknown"], label="aim")
    if published:
        place = published["certified"], published["nominal"]
        axes.scatter(*place, s=45, marker="x", color=INKS["wrong"], label="replication")
    title = f"{one.network}, {_title(one.data)}, ε = {_eps(one.eps)}: {len(runs)} runs"
    axes.set(title=title, xlabel="certified", ylabel="nominal")
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "fronts.png")
    options = parser.parse_args()
    receipts = [Receipt.read(path) for path in sorted((HERE / "results").glob("*.json"))]
    replication = json.loads((HERE / "replication.json").read_text("utf-8"))
    with styled():
        figure = Figure(figsize=(10.6, 8.4), layout="constrained")
        panels = figure.subplots(2, 2).flatten()
        for axes, (network, aim) in zip(panels, AIMS.items(), strict=True):
            runs = [one for one in receipts if one.network == network and one.eps == _RADII.get(one.data)]
            draw(axes, runs, aim, _counterpart(runs[0], replication))
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        save_figure(figure, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
