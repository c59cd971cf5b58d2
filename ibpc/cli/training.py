"""The command that trains: train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ibpc.cli.options import Data, DataRoot, Device, Download, Eps, Seed, hinted_dataset, pick_device
from ibpc.errors import UsageError


def train(
    target: Annotated[Path, typer.Argument(help="Artifact to train.")],
    eps: Eps,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    method: Annotated[str | None, typer.Option("--method", help="Training method; default: ibp.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Recipe file; default: the data set's.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any value of the recipe.")
    ] = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder; default: the artifact itself.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    device: Device = "auto",
) -> None:
    """Train a network so that its boxes stay tight."""
    from ibpc import api
    from ibpc.report import progress, terminal
    from ibpc.workers import joined, own_device

    where = own_device(pick_device(device))
    network = api.load(target).to(where)
    dataset = api.load_dataset(data or hinted_dataset(network, target), data_root, download)
    chosen = api.Recipe.load(recipe) if recipe else api.Recipe.default(method or "ibp", eps, dataset.name)
    changes = {"eps": eps} | ({"method": method} if method else {}) | parse_overrides(overrides or [], epochs)
    with joined(where) as workers, progress.training_progress(workers) as reporter:
        run = api.train(
            network,
            chosen.with_overrides(changes),
            dataset,
            output or target,
            seed=seed,
            resume=resume,
            reporter=reporter,
        )
    if workers.is_first:
        terminal.show_run(run)


def parse_overrides(pairs: list[str], epochs: int | None) -> dict[str, Any]:
    """Return `--set key=value` options as a dict; values are JSON, or text where they are not."""
    changes: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UsageError.at("--set", f"found {pair!r}", "KEY=VALUE")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    return changes
