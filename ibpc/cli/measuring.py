"""The command that measures: radius."""

from __future__ import annotations

import time
from dataclasses import dataclass
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
    from collections.abc import Iterator, Sequence

    from ibpc.network import Network
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
    from ibpc.report import terminal
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
    found = list(_measured(network, balls, most, tolerance, how))
    if output is not None:
        rows = [_row(each, None if point is not None else each.ball.index) for each in found]
        write_json(output, {**ModelFile.of(target, *normalization).to_json(), **asked, "radii": rows})
    terminal.show_radii(target, method, [(each.name, each.radius) for each in found])


@dataclass(frozen=True)
class _Measured:
    """The radius of one input, and the seconds that it took."""

    name: str
    ball: Ball
    radius: Radius
    seconds: float


def _measured(
    network: Network, balls: Sequence[tuple[str, Ball]], most: float, tolerance: float, how: Proving
) -> Iterator[_Measured]:
    """Yield the radius of each input, with its progress shown."""
    from ibpc import api
    from ibpc.report import progress

    with progress.stages() as show_stage:
        for name, ball in balls:
            show_stage(name)
            started = time.monotonic()
            found = api.radius(network, ball, most=most, tolerance=tolerance, **how)
            yield _Measured(name, ball, found, time.monotonic() - started)


def _row(found: _Measured, index: int | None) -> dict[str, Any]:
    """Return what is known of one input as plain JSON data; radii in pixels of [0, 1]."""
    return {
        "index": index,
        "label": found.ball.label,
        "certified": found.radius.certified,
        "falsified": found.radius.falsified,
        "decisions": found.radius.decisions,
        "seconds": round(found.seconds, 3),
    }
