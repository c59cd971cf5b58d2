"""The page of `ibpc report`: its skeleton, that it is self-contained, its measurements, and folders without runs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from ibpc import api
from ibpc.data import to_unit
from ibpc.errors import ArtifactError, DataError, IbpcError, SpecError, TrainingError, UsageError
from ibpc.interval import Interval
from ibpc.report.measurements import Measurement, Measuring, chosen_examples, evenly, feature_places, layer_widths
from ibpc.report.page import Page, make_page
from ibpc.report.runs import read_runs
from ibpc.report.standings import STANDINGS, class_counts, standing
from ibpc.report.style import INKS
from ibpc.report.wording import class_names, format_seconds, format_short
from ibpc.rounding import Arithmetic
from ibpc.training.runner import train
from ibpc.verify.results import Example, Robustness
from ibpc.verify.verdicts import Verdict
from tests.training import tiny

GOLDEN = Path(__file__).parent / "golden" / "report.txt"
CONVOLUTION = (
    {"type": "Conv2d", "out_channels": 3, "kernel_size": 3},
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 6},
    {"type": "ReLU"},
    {"type": "Linear", "out_features": 3},
)
LIMIT = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two finished runs."""
    where = tmp_path_factory.mktemp("runs")
    for method in ("standard", "ibp"):
        train(tiny.network(CONVOLUTION), tiny.recipe(method=method, epochs=2), tiny.blobs(), where / method)
    return where


@pytest.fixture(scope="module")
def measured(folder) -> list[Measurement]:
    runs = read_runs([folder / "standard", folder / "ibp"])
    return [Measuring(0.02, LIMIT).run(name, run, tiny.blobs()) for name, run in runs.items()]


@pytest.fixture(scope="module")
def report(measured) -> Page:
    return make_page(measured, tiny.blobs())


class Parsed(HTMLParser):
    """A parsed page: its open elements, all elements with their attributes, and the lines of its skeleton."""

    VOID = ("meta", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.lines: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if "svg" not in self.open:
            mark = "".join(f" {key}={attributes[key]}" for key in ("id", "class", "role") if key in attributes)
            self.lines.append("  " * len(self.open) + tag + mark)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_skeleton_is_the_golden_one(report):
    """Rewrite tests/golden/report.txt if a change is intended."""
    parsed = Parsed(report.html)
    assert parsed.open == []
    inside = [line for line in parsed.lines if not re.match(r" *(li|i|tr|th|td|img|figcaption|ul|span)\b", line)]
    assert "\n".join(inside) + "\n" == GOLDEN.read_text("utf-8")


def test_the_page_stands_alone(report):
    parsed = Parsed(report.html)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "link", "iframe"}
    for tag, attributes in parsed.elements:
        address = attributes.get("src") or attributes.get("href") or ""
        assert address.startswith(("data:image/png;base64,", "#")) or not address, f"{tag} asks for {address}"
    assert "http" not in report.html.replace("http://www.w3.org/2000/svg", "").replace(
        "http://www.w3.org/1999/xlink", ""
    )


def test_ids_are_unique_and_references_lead_to_them(report):
    parsed = Parsed(report.html)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {attributes["href"][1:] for _, attributes in parsed.elements if attributes.get("href", "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", report.html))
    assert wanted <= set(ids)


def test_pictures_have_words_and_colors_have_names(report):
    parsed = Parsed(report.html)
    drawn = [attributes for tag, attributes in parsed.elements if tag == "figure" and attributes.get("role") == "img"]
    assert drawn and all(len(attributes["aria-label"]) > 20 for attributes in drawn)
    images = [attributes for tag, attributes in parsed.elements if tag == "img"]
    assert images and all(attributes["alt"].startswith("Test image") for attributes in images)
    figures = "".join(re.findall(r"<svg.*?</svg>", report.html, re.DOTALL))
    assert figures and not [color for color in INKS.values() if color in figures]
    style = report.html[: report.html.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark", 1)
    assert all(f"--{name}:" in light and f"--{name}:" in dark for name in INKS)


def test_the_same_run_gives_the_same_page(measured):
    again = Measuring(0.02, LIMIT).run(measured[0].name, measured[0].run, tiny.blobs())
    assert make_page([again], tiny.blobs()).html == make_page(measured[:1], tiny.blobs()).html


def test_hostile_names_are_text(measured):
    hostile = replace(measured[0], name='<b>"$\\frac{$&_')
    html = make_page([hostile], tiny.blobs()).html
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert Parsed(html).open == []


# ── measurements ────────────────────────────────────────────────────────────────────────────────────────────────
def test_accuracies_fall_as_the_radius_grows(measured):
    for found in measured:
        certified = [result.certified_accuracy for result in found.curve]
        assert certified == sorted(certified, reverse=True)
        assert all(result.certified_accuracy <= result.attack_accuracy for result in found.curve)
        assert found.result in found.curve and found.result.eps == 0.02
        assert found.images == tuple(evenly(LIMIT, 30))


def test_widths_are_those_of_the_boxes():
    network, images = tiny.network(CONVOLUTION), tiny.blobs().test.images[:7]
    widths = layer_widths(network, images, 0.1)
    assert widths[0].layer == "input" and widths[-1].layer == network.graph.outputs[0]
    box = Interval.ball(to_unit(images), 0.1, (0, 1))
    with torch.no_grad():
        output = network.interval(box)
    assert widths[0].mean == pytest.approx(float(box.width.mean()), rel=1e-5)
    assert widths[-1].mean == pytest.approx(float(output.width.mean()), rel=1e-5)
    with torch.no_grad():
        spread = float(network.nominal(to_unit(images)).std(0).mean())
    assert widths[-1].relative == pytest.approx(widths[-1].mean / spread, rel=1e-5)
    assert "flatten1" not in [width.layer for width in widths]


def test_places_of_features():
    convolution, perceptron = tiny.network(CONVOLUTION).graph, tiny.network().graph
    assert feature_places(convolution) == {"after the convolutions": "relu1", "before the last layer": "relu2"}
    assert feature_places(perceptron) == {"before the last layer": "relu1"}
    only = tiny.network(({"type": "Flatten"}, {"type": "Linear", "out_features": 3}))
    assert list(feature_places(only.graph)) in ([], ["before the last layer"])


def example(index: int, verdict: Verdict, label: int = 0, predicted: int = 0) -> Example:
    return Example(index, label, predicted, verdict, (0.0, 1.0, -1.0), "ibp")


def test_standings_and_class_counts():
    rows = [
        example(0, Verdict.VERIFIED),
        example(1, Verdict.UNKNOWN),
        example(2, Verdict.TIMEOUT),
        example(3, Verdict.FALSIFIED),
        example(4, Verdict.FALSIFIED, 1, 2),
    ]
    assert [standing(row) for row in rows] == ["certified", "unknown", "unknown", "attack", "wrong"]
    counts = class_counts(Robustness(0.1, "ibp", Arithmetic.FLOAT32, 0.0, tuple(rows)), 3)
    assert [list(row.values()) for row in counts] == [[1, 2, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert list(counts[0]) == list(STANDINGS)


def test_rare_verdicts_are_among_the_chosen(measured):
    rows = tuple(example(index, Verdict.UNKNOWN if index == 7 else Verdict.VERIFIED) for index in range(9))
    found = replace(measured[0], result=Robustness(0.1, "ibp", Arithmetic.FLOAT32, 0.0, rows))
    assert chosen_examples([found], 3) == [0, 1, 7]
    assert chosen_examples([found], 100) == list(range(9))


def test_words():
    assert [format_short(eps) for eps in (0.1, 0.025, 2 / 255, 0.5 / 255)] == ["0.1", "0.025", "2/255", "0.5/255"]
    assert [format_seconds(seconds) for seconds in (4.2, 600, 9000)] == ["4 s", "10 min", "2.5 h"]
    assert class_names("cifar10", 10)[3] == "cat" and class_names("cifar10", 3) == ("0", "1", "2")
    assert evenly(3, 9) == [0, 3, 6] and evenly(5, 2) == [0, 1]


# ── folders that are no runs ────────────────────────────────────────────────────────────────────────────────────
def damaged(folder: Path, tmp_path: Path, file: str, text: str | None) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder / "ibp", copy)
    path = copy / "training" / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    return copy


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("metrics.jsonl", None, TrainingError),
        ("metrics.jsonl", "", TrainingError),
        ("metrics.jsonl", "{\n", TrainingError),
        ("metrics.jsonl", "[]\n[]\n", TrainingError),
        ("metrics.jsonl", '{"epoch": 1}\n', TrainingError),
        ("metrics.jsonl", "[" * 100_000, TrainingError),
        ("receipt.json", None, TrainingError),
        ("receipt.json", "[1]", TrainingError),
        ("receipt.json", '{"data": 1}', TrainingError),
        ("receipt.json", "{", SpecError),
        ("recipe.json", '{"method": "magic"}', SpecError),
    ],
)
def test_a_damaged_run_is_one_clear_error(folder, tmp_path, file, text, kind):
    with pytest.raises(kind) as caught:
        read_runs([damaged(folder, tmp_path, file, text)])
    assert file in str(caught.value) and len(caught.value.problems) >= 1


@pytest.mark.parametrize(
    "change",
    [
        {"losses": {}},
        {"losses": 3},
        {"losses": {"loss": 1.0, "\ud800": 1.0}},
        {"eps": "x"},
        {"kappa": float("nan")},
        {"kappa": 10**400},
        {"epoch": 2},
    ],
)
def test_a_damaged_line_is_named(folder, tmp_path, change):
    lines = (folder / "ibp" / "training" / "metrics.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | change)
    with pytest.raises(TrainingError, match="line 1: damaged"):
        read_runs([damaged(folder, tmp_path, "metrics.jsonl", "\n".join(lines) + "\n")])


def test_metrics_without_end_are_one_clear_error(folder, tmp_path):
    run = damaged(folder, tmp_path, "metrics.jsonl", "")
    with (run / "training" / "metrics.jsonl").open("wb") as stream:
        stream.truncate(2**36)
    with pytest.raises(TrainingError, match="where 268,435,456 is the most"):
        read_runs([run])


def test_a_name_that_is_no_text_is_escaped(folder, tmp_path):
    """Folders may have any bytes as their names."""
    odd = damaged(folder, tmp_path, "receipt.json", (folder / "ibp/training/receipt.json").read_text())
    assert list(read_runs([odd.rename(tmp_path / "odd\udcff")])) == ["odd\\udcff"]


def test_what_does_not_belong_together_is_refused(folder, tmp_path):
    run, data = folder / "ibp", tiny.blobs()
    cases: list[tuple[type[IbpcError], str, dict]] = [
        (UsageError, "named twice", {"runs": [run, run]}),
        (ArtifactError, "no such folder", {"runs": [tmp_path / "nothing"]}),
        (TrainingError, "no folder training", {"runs": [tmp_path]}),
        (DataError, "other images", {"data": replace(data, sha256="1" * 64)}),
        (DataError, "4 classes", {"data": replace(data, classes=4)}),
        (DataError, "network's input", {"data": replace(tiny.blobs(shape=(1, 5, 5)), name="other")}),
        (UsageError, "radius above 0", {"eps": 0.0}),
        (UsageError, "at most 1", {"eps": 3.0}),
        (UsageError, "0 images", {"limit": 0}),
        (UsageError, "a folder; expected the name of the page", {"out": folder}),
        (ArtifactError, "without a name of its own", {"out": "."}),
    ]
    for kind, words, changes in cases:
        options = {"runs": [run], "out": tmp_path / "report.html", "data": data, "limit": 2} | changes
        with pytest.raises(kind, match=words):
            api.write_report(**options)
    assert list(tmp_path.iterdir()) == []


def test_different_data_sets_need_a_choice(folder, tmp_path):
    receipt = json.loads((folder / "ibp" / "training" / "receipt.json").read_text())
    receipt["data"]["name"] = "elsewhere"
    other = damaged(folder, tmp_path, "receipt.json", json.dumps(receipt))
    with pytest.raises(DataError, match="different data sets: ibp on blobs, copy on elsewhere"):
        api.write_report([folder / "ibp", other], tmp_path / "report.html")
