"""Commands that show what was done: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibpc.cli.options import Seed


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Compile, train and certify a small network on embedded data: about a minute."""
    from ibpc.report import demonstration, progress, terminal

    with progress.training_progress() as reporter:
        shown = demonstration.demonstrate(output, seed, reporter)
    terminal.show_demonstration(shown)
