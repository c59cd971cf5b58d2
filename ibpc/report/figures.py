"""Figures of a run and of a sweep, as PNG or SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ibpc.report.charts import draw_margins
from ibpc.report.pictures import save_figure
from ibpc.report.style import INKS, styled
from ibpc.report.wording import format_eps
from ibpc.training.records import EpochRecord
from ibpc.training.sweep import Outcome
from ibpc.verify.results import Robustness


def draw_overview(records: Sequence[EpochRecord], result: Robustness, title: str, path: Path) -> None:
    """Draw accuracies over the epochs, with ε, beside the worst-case margins of the certified examples.

    The suffix of `path` selects the format. Raises ArtifactError if it cannot be written.
    """
    with styled():
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_training(left, records, result.eps)
        draw_margins(right, result)
        right.set_title(f"Worst-case margins, ε = {format_eps(result.eps)}")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        save_figure(figure, path)


def _draw_training(axes: Axes, records: Sequence[EpochRecord], eps: float) -> None:
    held = [(record.epoch, record.validation) for record in records if record.validation]
    epochs = [epoch for epoch, _ in held]
    axes.plot(epochs, [v.nominal for _, v in held], color=INKS["nominal"], label="nominal")
    axes.plot(
        epochs, [v.certified for _, v in held], color=INKS["certified"], label=f"certified at ε = {format_eps(eps)}"
    )
    axes.set(title="Training, on held-out images", xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter("{x:.0%}")
    training = axes.twinx()
    training.plot(
        [r.epoch for r in records], [r.eps for r in records], color=INKS["muted"], ls=":", label="ε in training"
    )
    training.set_ylim(0, max([1e-9, *(r.eps for r in records)]) * 1.6)
    training.set_ylabel("ε", color=INKS["muted"])
    training.grid(False)
    training.spines["right"].set_visible(True)
    handles, names = axes.get_legend_handles_labels()
    more, more_names = training.get_legend_handles_labels()
    axes.legend(handles + more, names + more_names, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def draw_front(outcomes: Sequence[Outcome], eps: float, path: Path) -> None:
    """Draw nominal against certified accuracy of the trials of a sweep, with a line through its Pareto front.

    The suffix of `path` selects the format. Raises ArtifactError if it cannot be written.
    """
    done = [
        (outcome.certified, outcome.nominal, outcome)
        for outcome in outcomes
        if outcome.certified is not None and outcome.nominal is not None
    ]
    front = sorted((certified, nominal) for certified, nominal, outcome in done if outcome.on_front)
    with styled():
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.scatter(
            [certified for certified, _, _ in done], [nominal for _, nominal, _ in done], s=18, color=INKS["muted"]
        )
        if front:
            axes.plot(
                *zip(*front, strict=True), color=INKS["certified"], marker="o", ms=5, label="no trial is better in both"
            )
            axes.legend(loc="best")
        for certified, nominal, outcome in done:
            axes.annotate(
                str(outcome.number), (certified, nominal), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
        axes.set(
            title=f"{len(done)} trials, on held-out images",
            xlabel=f"certified accuracy at ε = {format_eps(eps)}",
            ylabel="nominal accuracy",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:.1%}")
        save_figure(figure, path)
