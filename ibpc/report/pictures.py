"""Charts as files and as parts of a page: PNG, SVG, and SVG elements whose colors follow the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from ibpc.files import write_atomically
from ibpc.report.style import INKS


@dataclass(frozen=True)
class Chart:
    """A figure, the name of its files, and its alternative text."""

    name: str
    alt: str
    figure: Figure = field(repr=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the path's suffix."""
    buffer = BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 160}
    figure.savefig(buffer, format=path.suffix.lstrip("."), **options)
    write_atomically(path, buffer.getvalue())


def picture_files(chart: Chart) -> Iterator[tuple[str, bytes]]:
    """Yield the suffix and the bytes of a file for each format, SVG and PNG, on a white background."""
    for ending in ("svg", "png"):
        buffer = BytesIO()
        options: dict[str, Any] = {"metadata": {"Date": None}} if ending == "svg" else {"dpi": 160}
        chart.figure.savefig(buffer, format=ending, facecolor="white", **options)
        yield ending, buffer.getvalue()


_NAMES: Final = {color: f"var(--{name})" for name, color in INKS.items()}
_REFERENCE: Final = re.compile(r'(\bid="|url\(#|href="#)')


def inline_svg(chart: Chart, prefix: str) -> str:
    """Return the chart as an SVG element for a page: text stays text, colors are variables of the page.

    Ids begin with `prefix`, so that one page can hold several charts.
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
