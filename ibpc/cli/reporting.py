"""Commands that show what was done: report, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibpc.cli.options import Bounding, Data, DataRoot, Download, Seed, expect_apart, parse_eps


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of finished training runs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page; its figures go to a folder beside it.")
    ] = Path("report.html"),
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    eps: Annotated[
        float | None,
        typer.Option("--eps", parser=parse_eps, metavar="E", help="L∞ radius; default: the largest of the recipes."),
    ] = None,
    method: Bounding = "ibp",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Only N test images, evenly spread.")] = 200,
) -> None:
    """Write a page on training runs, side by side: curves, accuracies, bounds, margins, images, maps."""
    from ibpc import api
    from ibpc.report import progress

    expect_apart({"--output": output}, (*runs, data))
    dataset = api.load_dataset(data, data_root, download) if data else None
    with progress.stages() as show_stage:
        folder = api.write_report(
            runs, output, data=dataset, data_root=data_root, eps=eps, method=method, limit=limit, progress=show_stage
        )
    typer.echo(f"wrote {output}, figures in {folder}/")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Compile, train and certify a small network on embedded data: about a minute."""
    from ibpc.report import demonstration, progress, terminal

    with progress.training_progress() as reporter:
        shown = demonstration.demonstrate(output, seed, reporter)
    terminal.show_demonstration(shown)
