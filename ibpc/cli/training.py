"""Commands that train: train, sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ibpc.cli.options import (
    BOUNDING_METHODS,
    TRAINING_METHODS,
    Data,
    DataRoot,
    Device,
    Download,
    Seed,
    named_dataset,
    parse_eps,
    pick_device,
)
from ibpc.errors import UsageError

if TYPE_CHECKING:
    from ibpc.data import Dataset
    from ibpc.training.recipe import Recipe
    from ibpc.workers import Workers

# From this share of its target on, a run's last ε is near enough.
_NEAR: Final = 0.9

MethodName = Annotated[
    str | None, typer.Option("--method", metavar="NAME", help=f"Training method: {TRAINING_METHODS}. Default: ibp.")
]
TrainedEps = Annotated[
    float | None,
    typer.Option(
        "--eps", parser=parse_eps, metavar="EPS", help="L∞ radius in pixels, 0.1 or 2/255; default: the recipe's."
    ),
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Recipe file; default: the data set's.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any value of the recipe.")
]


def train(
    target: Annotated[Path, typer.Argument(help="Artifact to train.")],
    eps: TrainedEps = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    method: MethodName = None,
    recipe: RecipeFile = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder; default: the artifact itself.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option("--compile", metavar="ENGINE", help="auto, eager, inductor or cuda-graph.")
    ] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files to the run folder's training/tensorboard/.")
    ] = False,
) -> None:
    """Train a network so that its boxes stay tight."""
    from ibpc import api, artifact
    from ibpc.report import progress, terminal
    from ibpc.report.tensorboard import tensorboard_reporter
    from ibpc.training.methods import method_named
    from ibpc.training.reporting import Several
    from ibpc.workers import joined, own_device

    where = own_device(pick_device(device))
    network = api.load(target).to(where)
    dataset = api.load_dataset(named_dataset(data, network, target), data_root, download)
    chosen = chosen_recipe(method, recipe, eps, dataset.name, parse_overrides(overrides or [], epochs))
    chosen_method, out = method_named(chosen.method), output or target
    notes = [recipe_note(chosen, recipe, dataset.name), *chosen_method.advice(network.graph)]
    if resume and not (out / artifact.TRAINING).exists():
        notes.append(f"{out} has no run to go on with: a new one begins")
    with ExitStack() as stack:
        workers = stack.enter_context(joined(where))
        notes += schedule_notes(chosen, dataset, workers)
        if workers.is_first:
            terminal.show_notes(notes)
        reporter = stack.enter_context(progress.training_progress(workers))
        if tensorboard and workers.is_first:
            reporter = Several(reporter, stack.enter_context(tensorboard_reporter(out, network, dataset, chosen)))
        run = api.train(network, chosen, dataset, out, seed=seed, resume=resume, reporter=reporter, engine=engine)
    if workers.is_first:
        terminal.show_run(run, data)


def sweep(
    target: Annotated[Path, typer.Argument(help="Artifact to train, once a trial; it is left as it is.")],
    eps: TrainedEps = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="KEY=LOW..HIGH[log]", help="A value of the recipe to vary; or KEY=A,B,C."),
    ] = None,
    ranges_file: Annotated[Path | None, typer.Option("--ranges", help="A JSON file of ranges.")] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials in all, those done before included.")] = 20,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the trials.")] = 1,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    method: MethodName = None,
    recipe: RecipeFile = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sweep.")] = Path("sweep"),
    device: Device = "auto",
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="NAME", help=f"Compare trials by {BOUNDING_METHODS} on held-out images; default: ibp."
        ),
    ] = None,
    judged: Annotated[
        int | None, typer.Option("--judged", min=1, help="So many held-out images for --judge; default: 500.")
    ] = None,
) -> None:
    """Vary a recipe: which nominal and certified accuracies can be had together, on held-out images."""
    from ibpc import api
    from ibpc.report import figures, terminal
    from ibpc.training.ranges import load_ranges, parse_range
    from ibpc.workers import ALONE

    if judged is not None and judge is None:
        raise UsageError.at("--judged", "it belongs to --judge", "--judge NAME --judged N")
    name = named_dataset(data, api.load(target), target)
    dataset = api.load_dataset(name, data_root, download)
    kept = parse_overrides(overrides or [], epochs)
    base = chosen_recipe(method, recipe, eps, dataset.name, kept)
    terminal.show_notes([recipe_note(base, recipe, dataset.name), *schedule_notes(base, dataset, ALONE)])
    plan = api.Sweep(
        target,
        base,
        (*(load_ranges(ranges_file) if ranges_file else ()), *map(parse_range, ranges or ())),
        name,
        output,
        seed,
        data_root,
        str(pick_device(device)),
        kept,
        None if judge is None else api.Judge(judge, judged or 500),
    )
    outcomes = plan.run(trials, workers, terminal.show_outcome)
    figures.draw_front(outcomes, base.eps, output / "front.svg")
    figures.draw_front(outcomes, base.eps, output / "front.png")
    terminal.show_sweep(output, outcomes)


def chosen_recipe(
    method: str | None, file: Path | None, eps: float | None, dataset: str, changes: Mapping[str, Any]
) -> Recipe:
    """Return the recipe of a file, or that of the method for the data set, with what options change.

    Another method than the file's takes the values that the file states. Raises UsageError without a radius.
    """
    from ibpc.training.recipe import Recipe

    if file is not None:
        given = {} if eps is None else {"eps": eps}
        return Recipe.load(file, method).with_overrides({**given, **changes})
    if eps is None:
        raise UsageError.at("--eps", "missing", "a radius, such as 0.1 or 2/255, or --recipe with one")
    return Recipe.default(method or "ibp", eps, dataset).with_overrides(dict(changes))


def recipe_note(chosen: Recipe, file: Path | None, dataset: str) -> str:
    """Return where the values of a recipe come from, and whether they were chosen for another radius."""
    from ibpc.report.wording import format_eps
    from ibpc.training.recipe import Recipe, shipped_recipe

    source = file or shipped_recipe(chosen.method, dataset, chosen.eps)
    if source is None:
        return f"recipe: the defaults of {chosen.method}; ibpc ships none for {dataset}"
    made_for = Recipe.load(source).eps
    other = "" if made_for == chosen.eps else f", made for ε = {format_eps(made_for)}, now at {format_eps(chosen.eps)}"
    return f"recipe: {source.name}{other}"


def schedule_notes(recipe: Recipe, dataset: Dataset, workers: Workers) -> list[str]:
    """Return a note where a run ends before ε has come near its target, as a short one does."""
    from ibpc.report.wording import format_eps
    from ibpc.training.trainer import timeline_of

    images = len(dataset.train) - dataset.held_out(recipe.validation.images)
    if images < 1 or recipe.eps == 0 or recipe.method == "standard":
        return []
    timeline = timeline_of(recipe, images, workers)
    if timeline.reached >= _NEAR:
        return []
    target = recipe.eps * recipe.schedule.eps_multiplier
    steps = "1 step" if timeline.total == 1 else f"{timeline.total:,} steps"
    return [
        f"ε comes only to {format_eps(timeline.reached * target)} of {format_eps(target)} in this run of {steps}: "
        "set more --epochs, a smaller batch_size, or shorter schedule.warmup and schedule.ramp"
    ]


def parse_overrides(pairs: list[str], epochs: int | None) -> dict[str, Any]:
    """Return `--set key=value` options as a dict; values are JSON, or text where they are not."""
    changes: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UsageError.at("--set", f"found {pair!r}", "KEY=VALUE")
        changes[key] = _parsed(value)
    return changes


def _parsed(text: str) -> Any:
    """Return the value that text means as JSON or as a Python number, such as .5; else the text."""
    for parse in (json.loads, float):
        try:
            return parse(text)
        except (ValueError, RecursionError):
            continue
    return text
