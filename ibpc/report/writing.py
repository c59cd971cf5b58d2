"""Writing the report on training runs: the page and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ibpc.data import Dataset, load_dataset
from ibpc.errors import UsageError
from ibpc.files import write_atomically
from ibpc.report.measurements import Measuring
from ibpc.report.page import figures_folder, make_page
from ibpc.report.runs import check_data, common_data, read_runs
from ibpc.training.runner import TrainingRun


def write_report(
    runs: Sequence[Path],
    out: Path,
    data: Dataset | str | None,
    data_root: str | Path | None,
    eps: float | None,
    method: str,
    limit: int,
    progress: Callable[[str], object],
) -> Path:
    """Measure the runs, write the page `out` and its figures, and return their folder; see `ibpc.write_report`."""
    if not runs or limit < 1:
        raise UsageError.at("report", f"{len(runs)} runs, {limit} images", "at least one of each")
    folder = figures_folder(out)
    if out.is_dir():
        raise UsageError.at(out, "a folder", "the name of the page, such as report.html")
    named = read_runs(runs)
    dataset = _dataset(named, data, data_root)
    measuring = Measuring(_radius(named, eps), limit, method)
    measurements = [measuring.run(name, run, dataset, progress) for name, run in named.items()]
    progress("draw")
    page = make_page(measurements, dataset)
    write_atomically(out, page.html.encode(errors="replace"))
    for name, content in page.figures():
        write_atomically(folder / name, content)
    return folder


def _dataset(runs: Mapping[str, TrainingRun], data: Dataset | str | None, data_root: str | Path | None) -> Dataset:
    """Return the data set to measure on, by default that of the runs. Raises DataError where it does not fit them."""
    chosen = common_data(runs) if data is None else data
    dataset = chosen if isinstance(chosen, Dataset) else load_dataset(chosen, data_root)
    check_data(runs, dataset)
    return dataset


def _radius(runs: Mapping[str, TrainingRun], eps: float | None) -> float:
    """Return the radius of the report, by default the largest of the recipes. Raises UsageError."""
    radius = max(run.recipe.eps for run in runs.values()) if eps is None else eps
    if not 0 < radius <= 1:
        raise UsageError.at("eps", f"found {radius:g}", "a radius above 0, at most 1", "the runs' own is the default")
    return radius
