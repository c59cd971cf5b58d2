"""The charts of a report: each one figure of one panel, in the colours of `Ink`, with a sentence that says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from math import isfinite, log10
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ibpc.report.figures import bins_around_zero
from ibpc.report.measurements import FeatureMap, Measurement, Width
from ibpc.report.runs import Run
from ibpc.report.wording import format_eps
from ibpc.verify.examples import Example, Robustness
from ibpc.verify.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Every colour has a name; pages turn names into colours that suit a light or a dark background.
INKS: Final[Mapping[str, str]] = {
    "ink": "#1f2430",
    "muted": "#667085",
    "line": "#d9dde5",
    "paper": "#fefefe",
    "nominal": "#1b6ca8",
    "attack": "#8455b8",
    "certified": "#1a8754",
    "unknown": "#c99a1e",
    "wrong": "#c1440e",
    "run1": "#2f62c9",
    "run2": "#d9602b",
    "run3": "#12877f",
    "run4": "#a3388f",
    "run5": "#7d7a15",
    "run6": "#5b4bb2",
}
_RUNS: Final = 6
_SIZE: Final = (4.9, 3.3)
_SQUARE: Final = (4.9, 4.2)
_STYLE: Final[dict[RcKeyType, Any]] = {
    "font.size": 10,
    "text.color": INKS["ink"],
    "axes.labelcolor": INKS["ink"],
    "axes.edgecolor": INKS["muted"],
    "xtick.color": INKS["muted"],
    "ytick.color": INKS["muted"],
    "xtick.labelcolor": INKS["ink"],
    "ytick.labelcolor": INKS["ink"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INKS["line"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.9,
    "svg.hashsalt": "ibpc",
    "text.parse_math": False,
}
STANDINGS: Final[Mapping[str, str]] = {
    "certified": "certified",
    "unknown": "correct, not certified",
    "attack": "correct, falsified",
    "wrong": "misclassified",
}


@dataclass(frozen=True)
class Chart:
    """A figure, the name of its files, and the text for those who do not see it."""

    name: str
    alt: str
    figure: Figure = field(repr=False)


def standing(example: Example) -> str:
    """Return what is known of an example, a key of `STANDINGS`."""
    if example.predicted != example.label:
        return "wrong"
    return {Verdict.VERIFIED: "certified", Verdict.FALSIFIED: "attack"}.get(example.verdict, "unknown")


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────
def loss_chart(run: Run) -> Chart:
    """Draw the terms of the loss over the epochs."""
    figure, axes = _panel(f"{run.name}: loss")
    epochs = [record.epoch for record in run.records]
    inks = ("ink", "nominal", "certified", "attack", "unknown", "wrong")
    for number, name in enumerate(run.records[0].losses):
        values = [record.losses.get(name, float("nan")) for record in run.records]
        width = 2.2 if number == 0 else 1.5
        axes.plot(epochs, values, color=INKS[inks[number % len(inks)]], label=name.replace("_", " "), lw=width)
    axes.set(xlabel="epoch", ylim=(0, None))
    _whole_ticks(axes)
    axes.legend(loc="best")
    first, last = run.records[0].losses["loss"], run.records[-1].losses["loss"]
    return Chart("loss", f"Line chart: the training loss of {run.name} goes from {first:.3g} to {last:.3g}.", figure)


def accuracy_chart(run: Run) -> Chart:
    """Draw nominal and certified accuracy over the epochs, in training and on held-out images."""
    figure, axes = _panel(f"{run.name}: accuracy")
    epochs = [record.epoch for record in run.records]
    axes.plot(
        epochs, [r.nominal_accuracy for r in run.records], color=INKS["nominal"], ls=":", label="nominal, training"
    )
    bounded = [(r.epoch, r.certified_accuracy) for r in run.records if r.certified_accuracy is not None]
    if bounded:
        axes.plot(*zip(*bounded, strict=True), color=INKS["certified"], ls=":", label="certified, training")
    held = [(r.epoch, r.validation) for r in run.records if r.validation]
    marker = "o" if len(held) == 1 else ""
    at = [epoch for epoch, _ in held]
    if held:
        eps = format_eps(held[-1][1].eps)
        axes.plot(at, [v.nominal for _, v in held], marker=marker, color=INKS["nominal"], label="nominal, held out")
        label = f"certified, held out (ε = {eps})"
        axes.plot(at, [v.certified for _, v in held], marker=marker, color=INKS["certified"], label=label)
    _shares(axes)
    axes.set(xlabel="epoch")
    _whole_ticks(axes)
    axes.legend(loc="best")
    end = f"{run.records[-1].nominal_accuracy:.1%} nominal on training images"
    if held:
        end += f", {held[-1][1].nominal:.1%} nominal and {held[-1][1].certified:.1%} certified on held-out images"
    return Chart("accuracy", f"Line chart: accuracy of {run.name} over the epochs. At the end {end}.", figure)


def schedule_chart(run: Run) -> Chart:
    """Draw ε and κ over the epochs."""
    figure, axes = _panel(f"{run.name}: schedule")
    epochs = [record.epoch for record in run.records]
    axes.plot(epochs, [record.eps for record in run.records], color=INKS["run1"], label="ε (left)")
    axes.set(xlabel="epoch", ylabel="ε", ylim=(0, max([1e-9, *(record.eps for record in run.records)]) * 1.15))
    other = axes.twinx()
    other.plot(epochs, [record.kappa for record in run.records], color=INKS["run2"], ls="--", label="κ (right)")
    other.set(ylabel="κ", ylim=(0, 1.15))
    other.grid(False)
    other.spines["right"].set_visible(True)
    _whole_ticks(axes)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper center", ncols=2)
    first, last = run.records[0], run.records[-1]
    alt = (
        f"Line chart: ε of {run.name} goes from {format_eps(first.eps)} to {format_eps(last.eps)}, "
        f"κ from {first.kappa:.2g} to {last.kappa:.2g}."
    )
    return Chart("schedule", alt, figure)


# ── robustness ──────────────────────────────────────────────────────────────────────────────────────────────────
def radius_chart(found: Measurement) -> Chart:
    """Draw the three accuracies against ε."""
    figure, axes = _panel(f"{found.run.name}: accuracy against ε")
    radii = [result.eps for result in found.curve]
    nominal, attack, certified = (
        [_accuracy(result, kind) for result in found.curve] for kind in ("nominal", "attack", "certified")
    )
    axes.fill_between(radii, certified, attack, color=INKS["muted"], alpha=0.12, lw=0)
    axes.plot(radii, nominal, color=INKS["nominal"], ls="--", label="nominal")
    axes.plot(radii, attack, color=INKS["attack"], marker="o", ms=4, label="attack")
    axes.plot(radii, certified, color=INKS["certified"], marker="o", ms=4, label="certified")
    _shares(axes)
    _radii(axes, radii, found.result.eps)
    axes.legend(loc="best")
    parts = [f"{c:.0%} to {a:.0%} at ε = {format_eps(e)}" for e, a, c in zip(radii, attack, certified, strict=True)]
    alt = f"Line chart: certified and attack accuracy of {found.run.name}: {'; '.join(parts)}."
    return Chart("radius", alt, figure)


def comparison_chart(measurements: Sequence[Measurement]) -> Chart:
    """Draw certified accuracy against ε, one line a run."""
    figure, axes = _panel("certified accuracy of all runs")
    for number, found in enumerate(measurements):
        radii = [result.eps for result in found.curve]
        shares = [result.certified_accuracy for result in found.curve]
        axes.plot(radii, shares, color=run_ink(number), marker="o", ms=4, label=found.run.name)
    _shares(axes)
    _radii(axes, [result.eps for result in measurements[0].curve], measurements[0].result.eps)
    axes.legend(loc="best")
    parts = [f"{found.run.name} {found.result.certified_accuracy:.1%}" for found in measurements]
    at = format_eps(measurements[0].result.eps)
    return Chart("comparison", f"Line chart: certified accuracy at ε = {at}: {', '.join(parts)}.", figure)


def width_chart(measurements: Sequence[Measurement]) -> Chart:
    """Draw the mean width of the boxes at each layer."""
    widths = [[(w.layer, w.mean) for w in found.widths] for found in measurements]
    return _layers_chart("widths", "mean width of a box", "width of a box", measurements, widths)


def relative_width_chart(measurements: Sequence[Measurement]) -> Chart:
    """Draw the widths in units of how much the activations differ between images."""
    widths = [[(w.layer, w.relative) for w in found.widths if _is_positive(w)] for found in measurements]
    return _layers_chart("relative_widths", "width in units of the spread", "relative width", measurements, widths)


def _is_positive(width: Width) -> bool:
    return isfinite(width.relative) and width.relative > 0


def _layers_chart(
    name: str,
    title: str,
    quantity: str,
    measurements: Sequence[Measurement],
    widths: Sequence[Sequence[tuple[str, float]]],
) -> Chart:
    figure, axes = _panel(title)
    layers = [[width.layer for width in found.widths] for found in measurements]
    for number, (found, row, names) in enumerate(zip(measurements, widths, layers, strict=True)):
        at = [names.index(layer) for layer, _ in row]
        axes.plot(at, [value for _, value in row], color=run_ink(number), marker="o", ms=4, label=found.run.name)
    _logarithmic(axes, [value for row in widths for _, value in row])
    if all(names == layers[0] for names in layers) and len(layers[0]) <= 24:
        axes.set_xticks(range(len(layers[0])), layers[0], rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel("layer, counted from the input")
        _whole_ticks(axes)
    if len(measurements) > 1:
        axes.legend(loc="best")
    ends = [
        f"{found.run.name} from {row[0][1]:.2g} at {row[0][0]} to {row[-1][1]:.2g} at {row[-1][0]}"
        for found, row in zip(measurements, widths, strict=True)
        if row
    ]
    return Chart(name, f"Line chart, logarithmic: {quantity} layer by layer: {'; '.join(ends)}.", figure)


def margin_chart(found: Measurement) -> Chart:
    """Draw the least certified margin of each image, by what is known of it: right of 0 is a proof."""
    figure, axes = _panel(f"{found.run.name}: worst-case margins")
    groups: dict[str, list[float]] = {name: [] for name in STANDINGS}
    for example in found.result.examples:
        groups[standing(example)].append(least_margin(example))
    finite = {name: [value for value in values if isfinite(value)] for name, values in groups.items()}
    order = [name for name in STANDINGS if finite[name]]
    axes.hist(
        [finite[name] for name in order],
        bins=bins_around_zero([value for values in finite.values() for value in values]),
        stacked=True,
        color=[INKS[name] for name in order],
        label=[f"{STANDINGS[name]} ({len(groups[name]):,})" for name in order],
    )
    axes.axvline(0, color=INKS["ink"], lw=1)
    axes.set(xlabel="lower bound of z_label − z_other", ylabel="test images")
    axes.legend(loc="best")
    positive = sum(value > 0 for values in groups.values() for value in values)
    alt = (
        f"Histogram: the least margin of {found.run.name} is proved positive for {positive:,} of "
        f"{len(found.result.examples):,} test images."
    )
    return Chart("margins", alt, figure)


def least_margin(example: Example) -> float:
    """Return the least lower bound over the other classes."""
    return min((value for j, value in enumerate(example.margin_lower) if j != example.label), default=0.0)


def classes_chart(found: Measurement, names: Sequence[str]) -> Chart:
    """Draw, class by class, how many images are certified, only correct, or wrong."""
    counts = class_counts(found.result, len(names))
    figure, axes = _panel(f"{found.run.name}: class by class", _SQUARE if len(names) > 6 else _SIZE)
    totals = [max(1, sum(row.values())) for row in counts]
    left = np.zeros(len(names))
    for key, label in STANDINGS.items():
        shares = np.array([row[key] / total for row, total in zip(counts, totals, strict=True)])
        if shares.any():
            axes.barh(range(len(names)), shares, left=left, color=INKS[key], label=label, height=0.72)
        left += shares
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(False)
    axes.set_xlabel("share of the class's test images")
    figure.legend(loc="outside lower center", ncols=2)
    parts = [f"{name} {row['certified'] / total:.0%}" for name, row, total in zip(names, counts, totals, strict=True)]
    return Chart(
        "classes", f"Bar chart: certified share of each class by {found.run.name}: {', '.join(parts)}.", figure
    )


def class_counts(result: Robustness, classes: int) -> list[dict[str, int]]:
    """Return for each class how many of its images stand where."""
    counts = [dict.fromkeys(STANDINGS, 0) for _ in range(classes)]
    for example in result.examples:
        counts[example.label][standing(example)] += 1
    return counts


# ── maps ────────────────────────────────────────────────────────────────────────────────────────────────────────
def map_chart(run: Run, found: FeatureMap, names: Sequence[str]) -> Chart:
    """Draw features in the plane, a colour a class."""
    figure, axes = _panel(f"{run.name}: {found.place}", _SQUARE)
    colors = mpl.colormaps["tab10" if len(names) <= 10 else "turbo"]
    for label, name in enumerate(names):
        points = found.points[found.labels == label]
        if not len(points):
            continue
        color = colors(label if len(names) <= 10 else label / (len(names) - 1))
        axes.scatter(points[:, 0], points[:, 1], s=9, color=color, lw=0, alpha=0.85)
        if len(names) <= 20:
            x, y = np.median(points, axis=0)
            axes.annotate(
                name,
                (x, y),
                ha="center",
                va="center",
                fontsize=9,
                bbox={"boxstyle": "round,pad=0.25", "fc": INKS["paper"], "ec": color, "lw": 1.2},
            )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    place = found.place.replace(" ", "_")
    alt = f"Scatter plot: features {found.place} of {run.name} for {len(found.labels):,} test images, a colour a class."
    return Chart(f"map_{place}", alt, figure)


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────
def run_ink(number: int) -> str:
    """Return the colour of a run by its place."""
    return INKS[f"run{number % _RUNS + 1}"]


def styled() -> Any:
    """Return the context in which charts are drawn and written."""
    return mpl.rc_context(_STYLE)


def _panel(title: str, size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _accuracy(result: Robustness, kind: str) -> float:
    value: float = getattr(result, f"{kind}_accuracy")
    return value


def _shares(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter("{x:.0%}")


def _radii(axes: Axes, radii: Sequence[float], eps: float) -> None:
    axes.axvline(eps, color=INKS["muted"], lw=1, ls=":")
    axes.set_xticks([radii[0], *radii[2:]], [format_short(value) for value in (radii[0], *radii[2:])])
    axes.set_xlabel("ε, in pixels of [0, 1]")


def format_short(eps: float) -> str:
    """Return a radius with three digits where those are enough, else in 255ths."""
    short = f"{eps:.3g}"
    return short if abs(float(short) - eps) < 1e-12 else f"{eps * 255:.3g}/255"


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Set a logarithmic axis with plain numbers, three a decade where there are few."""
    positive = [value for value in values if value > 0]
    axes.set_yscale("log")
    if not positive:
        return
    decades = log10(max(positive) / min(positive))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _whole_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────
def picture_files(chart: Chart) -> Iterator[tuple[str, bytes]]:
    """Yield an ending and the bytes of a file for each format: SVG and PNG, on white."""
    for ending in ("svg", "png"):
        buffer = BytesIO()
        options: dict[str, Any] = {"metadata": {"Date": None}} if ending == "svg" else {"dpi": 160}
        chart.figure.savefig(buffer, format=ending, facecolor="white", **options)
        yield ending, buffer.getvalue()


_NAMES: Final = {color: f"var(--{name})" for name, color in INKS.items()}
_REFERENCE: Final = re.compile(r'(\bid="|url\(#|href="#)')


def inline_svg(chart: Chart, prefix: str) -> str:
    """Return the chart as an SVG element for a page: text stays text, colours are the page's variables.

    Ids begin with `prefix`, so that several charts can stand on one page.
    """
    buffer = StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        chart.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = _REFERENCE.sub(rf"\1{prefix}-", svg)
    return re.sub("|".join(_NAMES), lambda match: _NAMES[match[0]], svg)
