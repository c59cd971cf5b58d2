"""The look of figures: colors by name, the common style, and helpers for axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ibpc.report.wording import format_short

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Every color has a name; pages map the names to colors that suit a light or a dark background.
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
SIZE: Final = (4.9, 3.3)
SQUARE: Final = (4.9, 4.2)
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
_BINS: Final = 40


def run_ink(number: int) -> str:
    """Return the color of a run by its number."""
    return INKS[f"run{number % _RUNS + 1}"]


def styled() -> Any:
    """Return the context manager in which charts are to be drawn and written."""
    return mpl.rc_context(_STYLE)


def panel(title: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return a figure of one panel."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def show_shares(axes: Axes) -> None:
    """Show shares from 0 to 1 in percent on the vertical axis."""
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter("{x:.0%}")


def show_radii(axes: Axes, radii: Sequence[float], eps: float) -> None:
    """Show radii on the horizontal axis, with a line at `eps`."""
    axes.axvline(eps, color=INKS["muted"], lw=1, ls=":")
    axes.set_xticks([radii[0], *radii[2:]], [format_short(value) for value in (radii[0], *radii[2:])])
    axes.set_xlabel("ε, in pixels of [0, 1]")


def show_logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic with plain numbers, three per decade if it spans few decades."""
    positive = [value for value in values if value > 0]
    axes.set_yscale("log")
    if not positive:
        return
    decades = log10(max(positive) / min(positive))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def show_whole_numbers(axes: Axes) -> None:
    """Show only whole numbers on the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def bins_around_zero(values: Sequence[float]) -> list[float]:
    """Return about forty bin edges over the finite values; one edge is 0, so that no bar mixes proofs with others."""
    finite = [value for value in values if isfinite(value)]
    least, greatest = min([0.0, *finite]), max([0.0, *finite])
    width = (greatest - least) / _BINS or 1.0
    first, last = floor(least / width), max(ceil(greatest / width), 1)
    return [number * width for number in range(first, last + 1)]
