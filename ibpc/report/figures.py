"""Figures of a run and of a certification, as PNG or SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import ceil, floor, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ibpc.files import write_atomically
from ibpc.report.wording import format_eps
from ibpc.training.records import EpochRecord
from ibpc.training.sweep import Outcome
from ibpc.verify.examples import Robustness
from ibpc.verify.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

NOMINAL: Final = "#1b6ca8"
CERTIFIED: Final = "#1a8754"
FALSIFIED: Final = "#c1440e"
UNKNOWN: Final = "#b8a03c"
MUTED: Final = "#6b7280"
_BINS: Final = 40
_STYLE: Final[dict[RcKeyType, Any]] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "ibpc",
}


def draw_overview(records: Sequence[EpochRecord], result: Robustness, title: str, path: Path) -> None:
    """Draw accuracies over the epochs, with ε, beside the worst-case margins of the certified examples.

    The ending of `path` chooses the format. Raises ArtifactError where it cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_training(left, records, result.eps)
        _draw_margins(right, result)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        save_figure(figure, path)


def _draw_training(axes: Axes, records: Sequence[EpochRecord], eps: float) -> None:
    held = [(record.epoch, record.validation) for record in records if record.validation]
    epochs = [epoch for epoch, _ in held]
    axes.plot(epochs, [v.nominal for _, v in held], color=NOMINAL, label="nominal")
    axes.plot(epochs, [v.certified for _, v in held], color=CERTIFIED, label=f"certified at ε = {format_eps(eps)}")
    axes.set(title="Training, on held-out images", xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter("{x:.0%}")
    training = axes.twinx()
    training.plot([r.epoch for r in records], [r.eps for r in records], color=MUTED, ls=":", label="ε in training")
    training.set_ylim(0, max([1e-9, *(r.eps for r in records)]) * 1.6)
    training.set_ylabel("ε", color=MUTED)
    training.spines["right"].set_visible(True)
    handles, names = axes.get_legend_handles_labels()
    more, more_names = training.get_legend_handles_labels()
    axes.legend(handles + more, names + more_names, loc="lower right")


def _draw_margins(axes: Axes, result: Robustness) -> None:
    """Draw the least certified margin of each example, by verdict: right of 0 is a proof."""
    groups: dict[Verdict, list[float]] = {verdict: [] for verdict in Verdict}
    for example in result.examples:
        others = [value for j, value in enumerate(example.margin_lower) if j != example.label]
        groups[example.verdict].append(min(others))
    colors = {Verdict.VERIFIED: CERTIFIED, Verdict.FALSIFIED: FALSIFIED, Verdict.UNKNOWN: UNKNOWN}
    order = [verdict for verdict in Verdict if groups[verdict]]
    axes.hist(
        [groups[verdict] for verdict in order],
        bins=bins_around_zero([value for values in groups.values() for value in values]),
        stacked=True,
        color=[colors[verdict] for verdict in order],
        label=[f"{verdict.value} ({len(groups[verdict]):,})" for verdict in order],
    )
    axes.axvline(0, color="black", lw=0.8)
    axes.set(
        title=f"Worst-case margins, ε = {format_eps(result.eps)}",
        xlabel="lower bound of the least margin z_label − z_other",
        ylabel="test images",
    )
    axes.legend(loc="upper left")


def draw_front(outcomes: Sequence[Outcome], eps: float, path: Path) -> None:
    """Draw nominal against certified accuracy of the trials of a sweep, and the line that no trial is beyond.

    The ending of `path` chooses the format. Raises ArtifactError where it cannot be written.
    """
    done = [
        (found.certified, found.nominal, found)
        for found in outcomes
        if found.certified is not None and found.nominal is not None
    ]
    front = sorted((certified, nominal) for certified, nominal, found in done if found.on_front)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.scatter([certified for certified, _, _ in done], [nominal for _, nominal, _ in done], s=18, color=MUTED)
        if front:
            axes.plot(*zip(*front, strict=True), color=CERTIFIED, marker="o", ms=5, label="no trial is better in both")
            axes.legend(loc="best")
        for certified, nominal, found in done:
            axes.annotate(
                str(found.number), (certified, nominal), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
        axes.set(
            title=f"{len(done)} trials, on held-out images",
            xlabel=f"certified accuracy at ε = {format_eps(eps)}",
            ylabel="nominal accuracy",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:.1%}")
        save_figure(figure, path)


def bins_around_zero(values: Sequence[float]) -> list[float]:
    """Return about forty bin edges over finite values, one of them 0, so that no bar mixes proofs with others."""
    finite = [value for value in values if isfinite(value)]
    least, greatest = min([0.0, *finite]), max([0.0, *finite])
    width = (greatest - least) / _BINS or 1.0
    first, last = floor(least / width), max(ceil(greatest / width), 1)
    return [number * width for number in range(first, last + 1)]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's ending, whole or not at all."""
    buffer = BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 160}
    figure.savefig(buffer, format=path.suffix.lstrip("."), **options)
    write_atomically(path, buffer.getvalue())
