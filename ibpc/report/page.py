"""The page of a report: one self-contained HTML file without scripts, for light and dark screens of any width."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from math import isfinite, sqrt
from pathlib import Path
from typing import Final

import torch
from matplotlib.image import imsave

from ibpc.data import Dataset, to_unit
from ibpc.files import beside
from ibpc.passes.base import listed
from ibpc.report import charts
from ibpc.report.measurements import PLACES, Measurement, chosen_examples
from ibpc.report.pictures import Chart, inline_svg, picture_files
from ibpc.report.standings import STANDINGS, class_counts, least_margin, standing
from ibpc.report.style import styled
from ibpc.report.wording import class_names, format_eps, format_seconds

EXAMPLES: Final = 12
_SIGNS: Final = {"certified": "✓ certified", "unknown": "? not certified", "attack": "✗ falsified", "wrong": "✗ wrong"}


@dataclass(frozen=True)
class Page:
    """The HTML of a page, and the charts on it with the names of their files."""

    html: str
    charts: tuple[tuple[str, Chart], ...]

    def figures(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the bytes of each figure file: SVG and PNG."""
        with styled():
            for name, chart in self.charts:
                for ending, data in picture_files(chart):
                    yield f"{name}.{ending}", data


@dataclass(frozen=True)
class _Section:
    id: str
    title: str
    text: str
    body: str


def make_page(measurements: Sequence[Measurement], dataset: Dataset) -> Page:
    """Return the page about runs that were measured on the same images of a data set."""
    names = class_names(dataset.name, dataset.classes)
    with styled():
        groups = _charts(measurements, names)
        drawn = {
            name: _grid([_figure(chart, f"{prefix}-{chart.name}") for prefix, chart in group], len(measurements))
            for name, group in groups.items()
        }
    sections = [section for section in _sections(measurements, dataset, names, drawn) if section.body]
    named = tuple((_file_name(prefix, chart), chart) for group in groups.values() for prefix, chart in group)
    return Page(_html(measurements, dataset, sections), named)


def _charts(measurements: Sequence[Measurement], names: Sequence[str]) -> dict[str, list[tuple[str, Chart]]]:
    """Return the charts of each section, with a prefix that tells the runs apart."""
    numbered = [(f"run{number}", measurement) for number, measurement in enumerate(measurements, 1)]
    training = (charts.loss_chart, charts.accuracy_chart, charts.schedule_chart)
    together = [("all", charts.comparison_chart(measurements))] if len(measurements) > 1 else []
    widths = [charts.width_chart(measurements), charts.relative_width_chart(measurements)]
    return {
        "training": [(prefix, draw(measurement)) for draw in training for prefix, measurement in numbered],
        "radius": [(prefix, charts.radius_chart(measurement)) for prefix, measurement in numbered] + together,
        "widths": [("all", chart) for chart in widths],
        "margins": [(prefix, charts.margin_chart(measurement)) for prefix, measurement in numbered],
        "classes": [(prefix, charts.classes_chart(measurement, names)) for prefix, measurement in numbered],
        "maps": [
            (prefix, charts.map_chart(measurement.name, features, names))
            for place in PLACES
            for prefix, measurement in numbered
            for features in measurement.maps
            if features.place == place
        ],
    }


def _file_name(prefix: str, chart: Chart) -> str:
    return chart.name if prefix == "all" else f"{prefix}_{chart.name}"


# ── sections ────────────────────────────────────────────────────────────────────────────────────────────────────
def _sections(
    measurements: Sequence[Measurement], dataset: Dataset, names: Sequence[str], drawn: dict[str, str]
) -> Iterable[_Section]:
    yield from _on_accuracy(measurements, drawn)
    yield from _on_bounds(measurements, drawn)
    yield from _on_images(measurements, dataset, names, drawn)
    yield _Section("receipts", "How it was made", "Everything needed to make the runs again.", _receipts(measurements))


def _on_accuracy(measurements: Sequence[Measurement], drawn: Mapping[str, str]) -> Iterable[_Section]:
    result = measurements[0].result
    images, eps = f"{len(result.examples):,}", format_eps(result.eps)
    yield _Section(
        "results",
        "Results",
        f"Shares of {images} test images, evenly spread, so known to about ±{_uncertainty(len(result.examples)):.0f} "
        "percentage points. <em>Nominal</em>: classified correctly. <em>Attack</em>: no counterexample was found "
        f"within ε = {eps}. <em>Certified</em>: proved to be classified correctly at every point within ε, for every "
        f"float32 execution ({escape(result.method)}). The share that could at best be certified lies between the "
        "last two.",
        _cards(measurements) + _facts(measurements),
    )
    yield _Section(
        "training",
        "Training",
        "The terms of the loss, accuracy on training and on held-out images, and the radius ε and the nominal weight κ "
        "that the schedule sets.",
        drawn["training"],
    )
    yield _Section(
        "radius",
        "Accuracy against ε",
        "The shaded band is what is neither certified nor falsified. The dotted line is the ε of this report.",
        drawn["radius"],
    )


def _on_bounds(measurements: Sequence[Measurement], drawn: Mapping[str, str]) -> Iterable[_Section]:
    eps = format_eps(measurements[0].result.eps)
    yield _Section(
        "widths",
        "Bounds through the layers",
        "How wide interval bounds are after each layer, and how wide beside the spread of its activations over the "
        "images: where the relative width is far above 1, the box tells nothing about the image any more.",
        drawn["widths"],
    )
    yield _Section(
        "margins",
        "Margins",
        f"The lower bound, at ε = {eps}, of the least margin between the label and another class. Right of 0 is a "
        "proof.",
        drawn["margins"],
    )


def _on_images(
    measurements: Sequence[Measurement], dataset: Dataset, names: Sequence[str], drawn: Mapping[str, str]
) -> Iterable[_Section]:
    yield _Section(
        "classes",
        "Certified or not, class by class",
        f"What is known of the {len(measurements[0].result.examples):,} images, for each class.",
        drawn["classes"] + "".join(_class_table(measurement, names) for measurement in measurements),
    )
    yield _Section(
        "images",
        "Images and their verdicts",
        "Chosen so that every combination of verdicts is seen; they are not typical. The number is the "
        "least margin that is proved.",
        _images(measurements, dataset, names),
    )
    yield _Section(
        "maps",
        "Maps of features",
        "t-SNE of the features of test images: images that the network holds to be alike lie close together.",
        drawn["maps"],
    )


def _uncertainty(images: int) -> float:
    """Return the half-width of a 95% interval around a share of one half, in percentage points."""
    return 196 * sqrt(0.25 / images)


def _cards(measurements: Sequence[Measurement]) -> str:
    return _grid([_card(measurement) for measurement in measurements], len(measurements))


def _card(measurement: Measurement) -> str:
    result, run = measurement.result, measurement.run
    shares = (
        ("nominal", result.nominal_accuracy),
        ("attack", result.attack_accuracy),
        ("certified", result.certified_accuracy),
    )
    rows = "".join(f"<div><dt>{name}</dt><dd>{share:.1%}</dd></div>" for name, share in shares)
    counts = {key: sum(standing(example) == key for example in result.examples) for key in STANDINGS}
    parts = "".join(
        f'<i style="width:{100 * count / len(result.examples):.2f}%;background:var(--{key})"></i>'
        for key, count in counts.items()
    )
    keys = "".join(
        f'<li><i style="background:var(--{key})"></i>{STANDINGS[key]}: {count:,}</li>'
        for key, count in counts.items()
        if count
    )
    about = f"{escape(run.network.name)}, method {escape(run.recipe.method)}, ε = {format_eps(result.eps)}"
    return (
        f'<article class="card"><h3>{escape(measurement.name)}</h3>\n<div class="of">{about}</div>\n'
        f'<dl class="shares">{rows}</dl>\n<div class="bar" aria-hidden="true">{parts}</div>\n'
        f'<ul class="key">{keys}</ul></article>\n'
    )


def _facts(measurements: Sequence[Measurement]) -> str:
    runs = [measurement.run for measurement in measurements]
    rows = (
        ("network", [run.network.name for run in runs]),
        ("parameters", [f"{run.network.parameter_count():,}" for run in runs]),
        ("method", [run.recipe.method for run in runs]),
        ("ε of the recipe", [format_eps(run.recipe.eps) for run in runs]),
        ("epochs", [f"{run.recipe.epochs:,}" for run in runs]),
        ("training time", [format_seconds(float(run.receipt["seconds"])) for run in runs]),
        ("threads", [str(run.receipt["hardware"]["threads"]) for run in runs]),
        ("seed", [str(run.receipt.get("seed", "")) for run in runs]),
    )
    return _table("The runs", [measurement.name for measurement in measurements], rows)


def _class_table(measurement: Measurement, names: Sequence[str]) -> str:
    counts = class_counts(measurement.result, len(names))
    rows = [(name, [f"{row[key]:,}" for key in STANDINGS]) for name, row in zip(names, counts, strict=True)]
    total = [f"{sum(row[key] for row in counts):,}" for key in STANDINGS]
    table = _table(f"{measurement.name}: images", list(STANDINGS.values()), [*rows, ("all", total)], "class")
    return f"<details><summary>{escape(measurement.name)} as a table</summary>{table}</details>\n"


def _table(caption: str, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], corner: str = "") -> str:
    first = f'<th scope="col">{corner}</th>' if corner else "<td></td>"
    head = first + "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for name, cells in rows
    )
    return (
        f'<div class="card scroll"><table><caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────
def _grid(figures: Sequence[str], runs: int) -> str:
    """Return figures in a grid, which has two columns on a wide screen, or three for three runs."""
    columns = 3 if runs == 3 else 2
    inside = "".join(figures)
    return f'<div class="grid columns{columns}">\n{inside}</div>\n' if inside else ""


def _figure(chart: Chart, prefix: str) -> str:
    return f'<figure role="img" aria-label="{escape(chart.alt)}">{inline_svg(chart, prefix)}</figure>\n'


def _images(measurements: Sequence[Measurement], dataset: Dataset, names: Sequence[str]) -> str:
    places = chosen_examples(measurements, EXAMPLES)
    figures = "".join(_image(place, measurements, dataset, names) for place in places)
    return f'<div class="images">\n{figures}</div>\n'


def _image(place: int, measurements: Sequence[Measurement], dataset: Dataset, names: Sequence[str]) -> str:
    index = measurements[0].images[place]
    label = names[int(dataset.test.labels[index])]
    verdicts = "".join(_verdict(measurement, place, names, len(measurements)) for measurement in measurements)
    return (
        f'<figure><img src="{_picture(dataset.test.images[index])}" alt="Test image {index}, of class {escape(label)}">'
        f"<figcaption>image {index}, class {escape(label)}<ul>{verdicts}</ul></figcaption></figure>\n"
    )


def _verdict(measurement: Measurement, place: int, names: Sequence[str], runs: int) -> str:
    example = measurement.result.examples[place]
    key, least = standing(example), least_margin(example)
    who = f"{escape(measurement.name)}: " if runs > 1 else ""
    seen = f" as {escape(names[example.predicted])}" if key == "wrong" else ""
    margin = f"{least:+.2f}".replace("-", "−") if isfinite(least) else "no bound"
    return f'<li>{who}<span class="verdict {key}">{_SIGNS[key]}{seen}</span> {margin}</li>'


def _picture(image: torch.Tensor) -> str:
    """Return an image (C, H, W), uint8 or float in [0, 1], as a data URL: in color if C is 3, else channel 0."""
    plane = to_unit(image) if image.shape[0] == 3 else to_unit(image[:1]).expand(3, -1, -1)
    buffer = BytesIO()
    imsave(buffer, plane.permute(1, 2, 0).contiguous().numpy(), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _receipts(measurements: Sequence[Measurement]) -> str:
    return "".join(
        f"<details><summary>{escape(measurement.name)}</summary>"
        f"<pre>{escape(json.dumps(measurement.run.receipt, indent=2, ensure_ascii=False))}</pre></details>\n"
        for measurement in measurements
    )


# ── the whole page ──────────────────────────────────────────────────────────────────────────────────────────────
def _html(measurements: Sequence[Measurement], dataset: Dataset, sections: Sequence[_Section]) -> str:
    names = [measurement.name for measurement in measurements]
    title = f"How robust {'is' if len(names) == 1 else 'are'} {listed(names)}?"
    result = measurements[0].result
    versions = {str(measurement.run.receipt["versions"]["ibpc"]) for measurement in measurements}
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    links = "".join(f'<li><a href="#{section.id}">{escape(section.title)}</a></li>' for section in sections)
    body = "".join(
        f'<section id="{section.id}" aria-labelledby="{section.id}-title">\n<h2 id="{section.id}-title">'
        f"{escape(section.title)}</h2>\n<p>{section.text}</p>\n{section.body}</section>\n"
        for section in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(dataset.name)}, {len(result.examples):,} test images, "
        f"ε = {format_eps(result.eps)}.</p>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>\n<main>\n{body}</main>\n'
        f"<footer>Written by ibpc {escape(', '.join(sorted(versions)))}; t-SNE and attacks are seeded, so the same "
        "runs give the same page.</footer>\n</body>\n</html>\n"
    )


def figures_folder(page: Path) -> Path:
    """Return the folder for the figures of a page. Raises ArtifactError if the page has no name."""
    return beside(page, f"{page.stem}_figures")
