"""The command that measures: radius."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpc.cli.certifying import check_files
from ibpc.cli.options import (
    ArithmeticName,
    Bounding,
    Data,
    DataRoot,
    Device,
    Download,
    Label,
    Mean,
    Proving,
    Seed,
    Std,
    expect_apart,
    named_dataset,
    parse_eps,
    parse_numbers,
    pick_device,
)
from ibpc.errors import UsageError

if TYPE_CHECKING:
    from ibpc.verify.balls import Ball
    from ibpc.verify.radius import Radius


def radius(
    target: Annotated[Path, typer.Argument(help="Artifact or MODEL.onnx.")],
    point: Annotated[
        Path | None, typer.Option("--input", metavar="X.npy", help="This input; default: test images.")
    ] = None,
    label: Label = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many test images, spread evenly.")] = 10,
    most: Annotated[
        float, typer.Option("--most", parser=parse_eps, metavar="E", help="No radius above this one is tried.")
    ] = 0.5,
    tolerance: Annotated[
        float, typer.Option("--tolerance", parser=parse_eps, metavar="E", help="How exact the answer has to be.")
    ] = 0.001,
    method: Bounding = "auto",
    arithmetic: ArithmeticName = "float32",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.0, help="Seconds for one radius of one input.")
    ] = 10.0,
    seed: Seed = 0,
    mean: Mean = None,
    std: Std = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the radii to this file.")] = None,
    device: Device = "auto",
) -> None:
    """Find the largest radius at which inputs are certified, and the smallest at which they are falsified."""
    from ibpc import api
    from ibpc.files import write_json
    from ibpc.report import progress, terminal
    from ibpc.verify.certificates.certificate import ModelFile

    if point is not None and data is not None:
        raise UsageError.at("radius", "found --input and --data", "one of them")
    if label is not None and point is None:
        raise UsageError.at("--label", "it belongs to --input", "--input X.npy --label K")
    check_files(output, None)
    expect_apart({"--json": output}, (target, point, data))
    normalization = parse_numbers("--mean", mean), parse_numbers("--std", std)
    network = api.normalized(api.open_network(target), *normalization).to(pick_device(device))
    how = Proving(method=method, arithmetic=arithmetic, timeout=timeout, seed=seed)
    asked: dict[str, Any] = {"most": most, "tolerance": tolerance, **how}
    if point is not None:
        asked |= {"input": str(point)}
        balls = [("input", api.ball(network, point, label))]
    else:
        dataset = api.load_dataset(named_dataset(data, network, target), data_root, download)
        asked |= {"data": dataset.name, "data_sha256": dataset.sha256, "split": "test"}
        balls = [(f"image {ball.index}", ball) for ball in api.spread_balls(network, dataset, limit)]
    found, rows = [], []
    with progress.stages() as show_stage:
        for name, ball in balls:
            show_stage(name)
            started = time.monotonic()
            largest = api.radius(network, ball, most=most, tolerance=tolerance, **how)
            found.append((name, largest))
            index = None if point is not None else ball.index
            rows.append({"index": index, **_row(ball, largest, time.monotonic() - started)})
    if output is not None:
        write_json(output, {**ModelFile.of(target, *normalization).to_json(), **asked, "radii": rows})
    terminal.show_radii(target, method, found)


def _row(ball: Ball, radius: Radius, seconds: float) -> dict[str, Any]:
    """Return what is known of one input as plain JSON data; radii in pixels of [0, 1]."""
    return {
        "label": ball.label,
        "certified": radius.certified,
        "falsified": radius.falsified,
        "decisions": radius.decisions,
        "seconds": round(seconds, 3),
    }
