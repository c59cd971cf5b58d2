"""Commands that take a network apart or hand it on: compile, show, ops, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibpc.cli.options import ArithmeticName, Mean, Seed, Std, expect_apart, parse_numbers
from ibpc.errors import UsageError


def compile(
    source: Annotated[Path, typer.Argument(help="SPEC.json, MODEL.onnx or MODEL.onnx.gz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the artifact.")] = Path("compiled"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a trained artifact.")] = False,
    seed: Seed = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the import and what each pass does.")] = False,
    mean: Mean = None,
    std: Std = None,
) -> None:
    """Compile a network into an artifact, with (x − mean) / std in front where it wants that."""
    from ibpc import api, artifact
    from ibpc.report import terminal

    if artifact.is_trained(output) and not force:
        raise UsageError.at(output, "a trained artifact is there", "another folder", "--force overwrites it")
    numbers = parse_numbers("--mean", mean), parse_numbers("--std", std)
    network = api.normalized(api.compile(source, seed=seed), *numbers)
    network.save(output, artifact.OldRun.DROP)
    if verbose:
        terminal.show_compilation(network)
    terminal.show_compiled(network, output)


def show(
    target: Annotated[Path, typer.Argument(help="Artifact, SPEC.json or MODEL.onnx.")],
    text: Annotated[bool, typer.Option("--text", help="Print the IR as text.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print the graph for Graphviz.")] = False,
) -> None:
    """Show a network: operators, shapes, parameters and multiply-accumulates."""
    from ibpc import api
    from ibpc.report import terminal

    if text and dot:
        raise UsageError.at("show", "found --text and --dot", "one of them")
    network = api.open_network(target)
    if text:
        typer.echo(network.graph.to_text(), nl=False)
    elif dot:
        typer.echo(network.graph.to_dot(), nl=False)
    else:
        terminal.show_network(network)


def ops() -> None:
    """List the operators, and which rules each has."""
    from ibpc.report import terminal

    terminal.show_operators()


def export(
    target: Annotated[Path, typer.Argument(help="Artifact, SPEC.json or MODEL.onnx.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.onnx, or FILE.pt2 for torch.export.")],
    graph: Annotated[str, typer.Option("--graph", help="nominal, interval or margins.")] = "nominal",
    arithmetic: ArithmeticName = "float32",
) -> None:
    """Export a network or its bounds as ONNX or as a torch.export program."""
    from ibpc import api

    expect_apart({"--output": output}, (target,))
    api.export(api.open_network(target), output, graph, arithmetic)
    typer.echo(f"wrote the {graph} graph to {output}")
