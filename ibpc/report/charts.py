"""The charts of a report: each a figure with one panel in the colors of `INKS`, and a sentence that says the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from ibpc.report.measurements import FeatureMap, Measurement, Width
from ibpc.report.pictures import Chart
from ibpc.report.standings import STANDINGS, class_counts, least_margin, standing
from ibpc.report.style import (
    INKS,
    SIZE,
    SQUARE,
    bins_around_zero,
    panel,
    run_ink,
    show_logarithmic,
    show_radii,
    show_shares,
    show_whole_numbers,
)
from ibpc.report.wording import format_eps
from ibpc.verify.results import Robustness


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────
def loss_chart(measurement: Measurement) -> Chart:
    """Draw the terms of the loss over the epochs."""
    records = measurement.run.records
    figure, axes = panel(f"{measurement.name}: loss")
    epochs = [record.epoch for record in records]
    inks = ("ink", "nominal", "certified", "attack", "unknown", "wrong")
    for number, name in enumerate(records[0].losses):
        values = [record.losses.get(name, float("nan")) for record in records]
        width = 2.2 if number == 0 else 1.5
        axes.plot(epochs, values, color=INKS[inks[number % len(inks)]], label=name.replace("_", " "), lw=width)
    axes.set(xlabel="epoch", ylim=(0, None))
    show_whole_numbers(axes)
    axes.legend(loc="best")
    first, last = records[0].losses["loss"], records[-1].losses["loss"]
    alt = f"Line chart: the training loss of {measurement.name} goes from {first:.3g} to {last:.3g}."
    return Chart("loss", alt, figure)


def accuracy_chart(measurement: Measurement) -> Chart:
    """Draw nominal and certified accuracy over the epochs, in training and on held-out images."""
    records = measurement.run.records
    figure, axes = panel(f"{measurement.name}: accuracy")
    epochs = [record.epoch for record in records]
    axes.plot(epochs, [r.nominal_accuracy for r in records], color=INKS["nominal"], ls=":", label="nominal, training")
    bounded = [(r.epoch, r.certified_accuracy) for r in records if r.certified_accuracy is not None]
    if bounded:
        axes.plot(*zip(*bounded, strict=True), color=INKS["certified"], ls=":", label="certified, training")
    held = [(r.epoch, r.validation) for r in records if r.validation]
    marker = "o" if len(held) == 1 else ""
    at = [epoch for epoch, _ in held]
    if held:
        eps = format_eps(held[-1][1].eps)
        axes.plot(at, [v.nominal for _, v in held], marker=marker, color=INKS["nominal"], label="nominal, held out")
        label = f"certified, held out (ε = {eps})"
        axes.plot(at, [v.certified for _, v in held], marker=marker, color=INKS["certified"], label=label)
    show_shares(axes)
    axes.set(xlabel="epoch")
    show_whole_numbers(axes)
    axes.legend(loc="best")
    end = f"{records[-1].nominal_accuracy:.1%} nominal on training images"
    if held:
        end += f", {held[-1][1].nominal:.1%} nominal and {held[-1][1].certified:.1%} certified on held-out images"
    return Chart("accuracy", f"Line chart: accuracy of {measurement.name} over the epochs. At the end {end}.", figure)


def schedule_chart(measurement: Measurement) -> Chart:
    """Draw ε and κ over the epochs."""
    records = measurement.run.records
    figure, axes = panel(f"{measurement.name}: schedule")
    epochs = [record.epoch for record in records]
    axes.plot(epochs, [record.eps for record in records], color=INKS["run1"], label="ε (left)")
    axes.set(xlabel="epoch", ylabel="ε", ylim=(0, max([1e-9, *(record.eps for record in records)]) * 1.15))
    other = axes.twinx()
    other.plot(epochs, [record.kappa for record in records], color=INKS["run2"], ls="--", label="κ (right)")
    other.set(ylabel="κ", ylim=(0, 1.15))
    other.grid(False)
    other.spines["right"].set_visible(True)
    show_whole_numbers(axes)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper center", ncols=2)
    first, last = records[0], records[-1]
    alt = (
        f"Line chart: ε of {measurement.name} goes from {format_eps(first.eps)} to {format_eps(last.eps)}, "
        f"κ from {first.kappa:.2g} to {last.kappa:.2g}."
    )
    return Chart("schedule", alt, figure)


# ── robustness ──────────────────────────────────────────────────────────────────────────────────────────────────
def radius_chart(measurement: Measurement) -> Chart:
    """Draw the three accuracies against ε."""
    figure, axes = panel(f"{measurement.name}: accuracy against ε")
    radii = [result.eps for result in measurement.curve]
    nominal, attack, certified = (
        [_accuracy(result, kind) for result in measurement.curve] for kind in ("nominal", "attack", "certified")
    )
    axes.fill_between(radii, certified, attack, color=INKS["muted"], alpha=0.12, lw=0)
    axes.plot(radii, nominal, color=INKS["nominal"], ls="--", label="nominal")
    axes.plot(radii, attack, color=INKS["attack"], marker="o", ms=4, label="attack")
    axes.plot(radii, certified, color=INKS["certified"], marker="o", ms=4, label="certified")
    show_shares(axes)
    show_radii(axes, radii, measurement.result.eps)
    axes.legend(loc="best")
    parts = [f"{c:.0%} to {a:.0%} at ε = {format_eps(e)}" for e, a, c in zip(radii, attack, certified, strict=True)]
    alt = f"Line chart: certified and attack accuracy of {measurement.name}: {'; '.join(parts)}."
    return Chart("radius", alt, figure)


def comparison_chart(measurements: Sequence[Measurement]) -> Chart:
    """Draw certified accuracy against ε, one line per run."""
    figure, axes = panel("certified accuracy of all runs")
    for number, measurement in enumerate(measurements):
        radii = [result.eps for result in measurement.curve]
        shares = [result.certified_accuracy for result in measurement.curve]
        axes.plot(radii, shares, color=run_ink(number), marker="o", ms=4, label=measurement.name)
    show_shares(axes)
    show_radii(axes, [result.eps for result in measurements[0].curve], measurements[0].result.eps)
    axes.legend(loc="best")
    parts = [f"{measurement.name} {measurement.result.certified_accuracy:.1%}" for measurement in measurements]
    at = format_eps(measurements[0].result.eps)
    return Chart("comparison", f"Line chart: certified accuracy at ε = {at}: {', '.join(parts)}.", figure)


def width_chart(measurements: Sequence[Measurement]) -> Chart:
    """Draw the mean width of the boxes at each layer."""
    widths = [[(w.layer, w.mean) for w in measurement.widths] for measurement in measurements]
    return _layers_chart("widths", "mean width of a box", "width of a box", measurements, widths)


def relative_width_chart(measurements: Sequence[Measurement]) -> Chart:
    """Draw the widths relative to the spread of the activations over the images."""
    widths = [[(w.layer, w.relative) for w in measurement.widths if _is_positive(w)] for measurement in measurements]
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
    figure, axes = panel(title)
    layers = [[width.layer for width in measurement.widths] for measurement in measurements]
    for number, (measurement, row, names) in enumerate(zip(measurements, widths, layers, strict=True)):
        at = [names.index(layer) for layer, _ in row]
        axes.plot(at, [value for _, value in row], color=run_ink(number), marker="o", ms=4, label=measurement.name)
    show_logarithmic(axes, [value for row in widths for _, value in row])
    if all(names == layers[0] for names in layers) and len(layers[0]) <= 24:
        axes.set_xticks(range(len(layers[0])), layers[0], rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel("layer, counted from the input")
        show_whole_numbers(axes)
    if len(measurements) > 1:
        axes.legend(loc="best")
    ends = [
        f"{measurement.name} from {row[0][1]:.2g} at {row[0][0]} to {row[-1][1]:.2g} at {row[-1][0]}"
        for measurement, row in zip(measurements, widths, strict=True)
        if row
    ]
    return Chart(name, f"Line chart, logarithmic: {quantity} layer by layer: {'; '.join(ends)}.", figure)


def margin_chart(measurement: Measurement) -> Chart:
    """Draw the least certified margin of each image."""
    figure, axes = panel(f"{measurement.name}: worst-case margins")
    draw_margins(axes, measurement.result)
    positive = sum(least_margin(example) > 0 for example in measurement.result.examples)
    alt = (
        f"Histogram: the least margin of {measurement.name} is proved positive for {positive:,} of "
        f"{len(measurement.result.examples):,} test images."
    )
    return Chart("margins", alt, figure)


def draw_margins(axes: Axes, result: Robustness) -> None:
    """Draw a histogram of the least certified margin of each image, by standing; margins right of 0 are proofs."""
    groups: dict[str, list[float]] = {name: [] for name in STANDINGS}
    for example in result.examples:
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


def classes_chart(measurement: Measurement, names: Sequence[str]) -> Chart:
    """Draw the standings of the images of each class."""
    counts = class_counts(measurement.result, len(names))
    figure, axes = panel(f"{measurement.name}: class by class", SQUARE if len(names) > 6 else SIZE)
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
        "classes", f"Bar chart: certified share of each class by {measurement.name}: {', '.join(parts)}.", figure
    )


# ── maps ────────────────────────────────────────────────────────────────────────────────────────────────────────
def map_chart(run: str, features: FeatureMap, names: Sequence[str]) -> Chart:
    """Draw features in the plane, colored by class."""
    figure, axes = panel(f"{run}: {features.place}", SQUARE)
    colors = mpl.colormaps["tab10" if len(names) <= 10 else "turbo"]
    for label, name in enumerate(names):
        points = features.points[features.labels == label]
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
    place = features.place.replace(" ", "_")
    count = f"{len(features.labels):,}"
    alt = f"Scatter plot: features {features.place} of {run} for {count} test images, colored by class."
    return Chart(f"map_{place}", alt, figure)


def _accuracy(result: Robustness, kind: str) -> float:
    value: float = getattr(result, f"{kind}_accuracy")
    return value
