"""The command line. Each command is a few lines that call the API; nothing else imports typer or prints."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpc.errors import IbpcError, UsageError

if TYPE_CHECKING:
    from ibpc.data import Dataset
    from ibpc.network import Network
    from ibpc.verify.properties import Property

app = typer.Typer(
    name="ibpc",
    help="A compiler for certified neural networks: compile, train, prove.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def parse_eps(text: str) -> float:
    """Return a radius written as `0.1` or `2/255`. Raises typer.BadParameter for anything else."""
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise typer.BadParameter(f"found {text!r}, expected a number such as 0.1 or 2/255") from None
    if value < 0 or value != value or value == float("inf"):
        raise typer.BadParameter(f"found {text!r}, expected a number of at least 0")
    return value


Eps = Annotated[
    float, typer.Option("--eps", parser=parse_eps, metavar="E", help="L∞ radius in pixels of [0, 1]: 0.1 or 2/255.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="NAME|FILE.npz|FOLDER", help="Data set; default: the spec's.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where data sets lie; default: $IBPC_DATA or ~/.cache/ibpc.")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not on disk.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]


class GraphKind(StrEnum):
    """Which graph to export."""

    NOMINAL = "nominal"
    INTERVAL = "interval"
    MARGINS = "margins"


@app.command()
def compile(
    source: Annotated[Path, typer.Argument(help="SPEC.json, MODEL.onnx or MODEL.onnx.gz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the artifact.")] = Path("compiled"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a trained artifact.")] = False,
    seed: Seed = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the import and what each pass does.")] = False,
) -> None:
    """Compile a network into an artifact."""
    from ibpc import api, artifact
    from ibpc.report import terminal

    if artifact.is_trained(output) and not force:
        raise UsageError.at(output, "a trained artifact is there", "another folder", "--force overwrites it")
    network = api.compile(source, seed=seed)
    if verbose:
        terminal.show_compilation(network)
    network.save(output, carry=())
    terminal.show_compiled(network, output)


@app.command()
def show(
    target: Annotated[Path, typer.Argument(help="Artifact, SPEC.json or MODEL.onnx.")],
    text: Annotated[bool, typer.Option("--text", help="Print the IR as text.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print the graph for Graphviz.")] = False,
) -> None:
    """Show a network: operators, shapes, parameters and multiply-accumulates."""
    from ibpc import api
    from ibpc.report import terminal

    network = api.open_network(target)
    if text:
        typer.echo(network.graph.to_text(), nl=False)
    elif dot:
        typer.echo(network.graph.to_dot(), nl=False)
    else:
        terminal.show_network(network)


@app.command()
def ops() -> None:
    """List the operators, and which rules each has."""
    from ibpc.report import terminal

    terminal.show_operators()


@app.command()
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

    network = api.load(target).to(pick_device(device))
    dataset = api.load_dataset(data or hinted_dataset(network, target), data_root, download)
    chosen = api.Recipe.load(recipe) if recipe else api.Recipe.default(method or "ibp", eps, dataset.name)
    changes = {"eps": eps} | ({"method": method} if method else {}) | parse_overrides(overrides or [], epochs)
    with progress.training_progress() as reporter:
        run = api.train(
            network,
            chosen.with_overrides(changes),
            dataset,
            output or target,
            seed=seed,
            resume=resume,
            reporter=reporter,
        )
    terminal.show_run(run)


@app.command()
def certify(
    target: Annotated[Path, typer.Argument(help="Artifact or MODEL.onnx.")],
    vnnlib: Annotated[Path | None, typer.Option("--vnnlib", help="Decide the property in this VNN-LIB file.")] = None,
    point: Annotated[
        Path | None, typer.Option("--input", metavar="X.npy", help="Decide the robustness of this input.")
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option("--eps", parser=parse_eps, metavar="E", help="L∞ radius in pixels of [0, 1]: 0.1 or 2/255."),
    ] = None,
    label: Annotated[
        int | None, typer.Option("--label", min=0, help="Class of --input; default: the network's own answer.")
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N test images.")] = None,
    method: Annotated[str, typer.Option("--method", help="Bounding method.")] = "auto",
    arithmetic: Annotated[
        str, typer.Option("--arithmetic", help="What the bounds hold for: float32 or real.")
    ] = "float32",
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", min=0.0, help="Seconds for one property.")] = 60.0,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Mean per channel, if the network wants (x − mean) / std.")
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="Standard deviation per channel.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write a certificate to this file.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Prove a property of a network, or its robustness on an input or on the test images of a data set."""
    from ibpc import api

    check_question(vnnlib, point, eps, label, data)
    network = api.open_network(target)
    means, stds = parse_numbers("--mean", mean), parse_numbers("--std", std)
    if means or stds:
        network = api.normalized(network, means or [0.0], stds or [1.0])
    network = network.to(pick_device(device))
    claim = parse_arithmetic(arithmetic)
    if vnnlib or point:
        prop = api.ball_property(network, point, eps or 0.0, label) if point else api.load_vnnlib(vnnlib or target)
        decide(
            target, network, prop, (means, stds), output, method=method, arithmetic=claim, timeout=timeout, seed=seed
        )
    else:
        dataset = api.load_dataset(data or hinted_dataset(network, target), data_root, download)
        certify_data(target, network, dataset, (means, stds), output, eps or 0.0, limit, method, claim)


def check_question(
    vnnlib: Path | None, point: Path | None, eps: float | None, label: int | None, data: str | None
) -> None:
    """Raise UsageError unless the options ask exactly one question."""
    asked = [name for name, value in (("--vnnlib", vnnlib), ("--input", point), ("--data", data)) if value is not None]
    if len(asked) > 1:
        raise UsageError.at("certify", f"found {' and '.join(asked)}", "one of them")
    if vnnlib is not None and eps is not None:
        raise UsageError.at("--eps", "a VNN-LIB file has its own box", "--vnnlib without --eps")
    if vnnlib is None and eps is None:
        raise UsageError.at("certify", "no --eps", "--vnnlib FILE, or --eps E with --input or a data set")
    if label is not None and point is None:
        raise UsageError.at("--label", "it belongs to --input", "--input X.npy --eps E --label K")


def decide(
    target: Path,
    network: Network,
    prop: Property,
    normalization: tuple[list[float] | None, list[float] | None],
    output: Path | None,
    **options: Any,
) -> None:
    """Decide one property, show the verdict and write the certificate."""
    from ibpc import api
    from ibpc.report import progress, terminal

    with progress.stages() as show_stage:
        decision = api.decide(network, prop, progress=show_stage, **options)
    if output:
        api.write_certificate(output, target, network, prop, decision, *normalization)
    terminal.show_decision(target, prop, decision)


def certify_data(
    target: Path,
    network: Network,
    dataset: Dataset,
    normalization: tuple[list[float] | None, list[float] | None],
    output: Path | None,
    eps: float,
    limit: int | None,
    method: str,
    arithmetic: Any,
) -> None:
    """Certify a data set, show the accuracies and write the certificate."""
    from ibpc import api
    from ibpc.report import progress, terminal

    total = min(limit or len(dataset.test), len(dataset.test))
    with progress.certification_progress(total) as show_progress:
        result = api.certify(
            network, dataset, eps, method=method, arithmetic=arithmetic, limit=limit, progress=show_progress
        )
    if output:
        api.write_verdicts(output, target, network, dataset, result, *normalization)
    terminal.show_robustness(target, dataset, result)


@app.command()
def check(
    certificate: Annotated[Path, typer.Argument(help="CERTIFICATE.json, written by certify --json.")],
    data_root: DataRoot = None,
) -> None:
    """Check a certificate again, trusting nothing but the model file."""
    from ibpc import api
    from ibpc.report import terminal

    claims = api.check(certificate, data_root)
    terminal.show_claims(certificate, claims)
    if not all(claim.holds for claim in claims):
        sys.exit(2)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="Artifact, SPEC.json or MODEL.onnx.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.onnx, or FILE.pt2 for torch.export.")],
    graph: Annotated[
        GraphKind, typer.Option("--graph", help="The network, its interval graph, or its certified class margins.")
    ] = GraphKind.NOMINAL,
    arithmetic: Annotated[
        str, typer.Option("--arithmetic", help="What exported bounds hold for: float32 or real.")
    ] = "float32",
) -> None:
    """Export a network or its bounds as ONNX or as a torch.export program."""
    from ibpc import api

    api.export(api.open_network(target), output, graph.value, parse_arithmetic(arithmetic))
    typer.echo(f"wrote the {graph.value} graph to {output}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Compile, train and certify a small network on embedded data: about a minute."""
    from ibpc.report import demonstration, progress, terminal

    with progress.training_progress() as reporter:
        shown = demonstration.demonstrate(output, seed, reporter)
    terminal.show_demonstration(shown)


def hinted_dataset(network: Network, target: Path) -> str:
    """Return the data set that the network names. Raises UsageError if it names none."""
    hint = network.graph.hints.get("dataset")
    if not hint:
        raise UsageError.at(target, "it names no data set", "--data NAME|FILE.npz|FOLDER")
    return str(hint)


def pick_device(name: str) -> Any:
    """Return the torch device of an option. Raises UsageError if it is unknown or not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError.at("--device", f"found {name!r} ({reason})", "auto, cpu, cuda, cuda:N or mps") from None
    return device


def parse_arithmetic(name: str) -> Any:
    """Return the arithmetic of an option. Raises UsageError for an unknown one."""
    from ibpc.rounding import Arithmetic

    if name not in [arithmetic.value for arithmetic in Arithmetic]:
        raise UsageError.at("--arithmetic", f"found {name!r}", "float32 or real")
    return Arithmetic(name)


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """Return comma-separated numbers, None for no text. Raises UsageError for anything else."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError.at(option, f"found {text!r}", "numbers separated by commas") from None


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


def main() -> None:
    """Run the command line: one clear line and status 2 for bad input, never a traceback for it."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(0)
    except IbpcError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
