"""Commands that prove, and check what was proved: certify, check."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ibpc.cli.options import (
    BOUNDING_METHODS,
    ArithmeticName,
    Data,
    DataRoot,
    Device,
    Download,
    Label,
    Mean,
    Proving,
    Seed,
    Std,
    TargetClass,
    expect_apart,
    named_dataset,
    parse_eps,
    parse_numbers,
    pick_device,
)
from ibpc.errors import UsageError

if TYPE_CHECKING:
    from ibpc.network import Network
    from ibpc.verify.properties import Property
    from ibpc.verify.results import Example

# How long the processes that share a data set wait for the last of them.
PATIENCE: Final = timedelta(days=30)

Target = Annotated[Path, typer.Argument(help="Artifact or MODEL.onnx.")]
Vnnlib = Annotated[Path | None, typer.Option("--vnnlib", help="Decide the property in this VNN-LIB file.")]
Point = Annotated[Path | None, typer.Option("--input", metavar="X.npy", help="Decide the robustness of this input.")]
MaybeEps = Annotated[
    float | None,
    typer.Option("--eps", parser=parse_eps, metavar="E", help="L∞ radius in pixels of [0, 1]: 0.1 or 2/255."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N test images.")]
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="A:B|I,J,…|random:N",
        help="Only these test images: a range, a list of indices, or a sample by --seed.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option("--method", metavar="NAME", help=f"How: {BOUNDING_METHODS}. Default: auto, and ibp for a data set."),
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="S", min=0.0, help="Seconds by the clock for one property, or one image.")
]
Output = Annotated[
    Path | None,
    typer.Option("--json", help="Write a certificate to this file; for a data set, an interrupted run resumes."),
]
Again = Annotated[
    Path | None,
    typer.Option("--again", metavar="CERTIFICATE", help="Take over its verdicts on the same data; try the rest again."),
]
AttackSteps = Annotated[
    int | None,
    typer.Option(
        "--attack-steps",
        min=0,
        help="Steps of the attack on images that bounds leave open (40); 0: the images as they are.",
    ),
]
Result = Annotated[
    Path | None, typer.Option("--result", help="Write the verdict on a property to this file as VNN-COMP wants it.")
]


def certify(
    target: Target,
    vnnlib: Vnnlib = None,
    point: Point = None,
    eps: MaybeEps = None,
    label: Label = None,
    rival: TargetClass = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    limit: Limit = None,
    images: Images = None,
    again: Again = None,
    attack_steps: AttackSteps = None,
    method: Method = None,
    arithmetic: ArithmeticName = "float32",
    timeout: Timeout = 60.0,
    mean: Mean = None,
    std: Std = None,
    output: Output = None,
    result: Result = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Prove a property of a network, or its robustness on an input or on the test images of a data set."""
    from ibpc import api
    from ibpc.workers import own_device

    question = _Question(vnnlib, point, eps, label, rival)
    question.check(data, result)
    chosen = _Choice(data, data_root, download, limit, images, again, attack_steps)
    chosen.check(question)
    check_files(output, result)
    expect_apart({"--json": output, "--result": result}, (target, vnnlib, point, data))
    normalization = parse_numbers("--mean", mean), parse_numbers("--std", std)
    network = api.normalized(api.open_network(target), *normalization).to(own_device(pick_device(device)))
    if method is None:
        method = api.AUTO if question.is_single else api.QUICK
    proving = Proving(method=method, arithmetic=arithmetic, timeout=timeout, seed=seed)
    job = _Job(target, network, normalization, proving, output)
    if question.is_single:
        decide(job, question.property_of(network), result)
    else:
        certify_data(job, chosen, question.radius)


@dataclass(frozen=True)
class _Job:
    """What is certified, how, and where the certificate goes; `normalization` is what was put in front, per channel."""

    target: Path
    network: Network
    normalization: tuple[list[float] | None, list[float] | None]
    proving: Proving
    output: Path | None


@dataclass(frozen=True)
class _Question:
    """What is asked about: the property in a file, one input, or, with neither, the images of a data set."""

    vnnlib: Path | None
    point: Path | None
    eps: float | None
    label: int | None
    rival: int | None

    @property
    def is_single(self) -> bool:
        """Whether it is about one property, that of an input included."""
        return self.vnnlib is not None or self.point is not None

    @property
    def radius(self) -> float:
        """The ε of a checked question about inputs."""
        assert self.eps is not None
        return self.eps

    def check(self, data: str | None, result: Path | None) -> None:
        """Raise UsageError unless the options ask exactly one question."""
        given = (("--vnnlib", self.vnnlib), ("--input", self.point), ("--data", data))
        asked = [name for name, value in given if value is not None]
        if len(asked) > 1:
            raise UsageError.at("certify", f"found {' and '.join(asked)}", "one of them")
        if self.vnnlib is not None and self.eps is not None:
            raise UsageError.at("--eps", "a VNN-LIB file has its own box", "--vnnlib without --eps")
        if self.vnnlib is None and self.eps is None:
            raise UsageError.at("certify", "no --eps", "--vnnlib FILE, or --eps E with --input or a data set")
        if result is not None and not self.is_single:
            raise UsageError.at("--result", "it is the verdict on one property", "--vnnlib FILE or --input X.npy")
        for option, value in (("--label", self.label), ("--target", self.rival)):
            if value is not None and self.point is None:
                raise UsageError.at(option, "it belongs to --input", f"--input X.npy --eps E {option} K")

    def property_of(self, network: Network) -> Property:
        """Return the property that a checked question is about."""
        from ibpc import api

        if self.vnnlib is not None:
            return api.load_vnnlib(self.vnnlib)
        assert self.point is not None
        return api.ball_property(network, self.point, self.radius, self.label, self.rival)


@dataclass(frozen=True)
class _Choice:
    """Which images of which data set, how long they are attacked, and an earlier certificate of them."""

    data: str | None
    root: Path | None
    download: bool
    limit: int | None
    images: str | None
    again: Path | None
    attack_steps: int | None

    def check(self, question: _Question) -> None:
        """Raise UsageError for options that contradict each other or that a single property would not heed."""
        if self.limit is not None and self.images is not None:
            raise UsageError.at("certify", "found --limit and --images", "one of them")
        given = {
            "--data-root": self.root,
            "--download": self.download or None,
            "--limit": self.limit,
            "--images": self.images,
            "--again": self.again,
            "--attack-steps": self.attack_steps,
        }
        for option in (name for name, value in given.items() if value is not None and question.is_single):
            raise UsageError.at(option, "it belongs to a data set", "no --vnnlib and no --input beside it")


def check_files(output: Path | None, result: Path | None) -> None:
    """Raise UsageError where a folder is in the place of a file that is to be written in the end."""
    for option, path in (("--json", output), ("--result", result)):
        if path is not None and path.is_dir():
            raise UsageError.at(option, f"{path} is a folder", "the name of a file")


def decide(job: _Job, prop: Property, result: Path | None) -> None:
    """Decide one property, write the competition's result and the certificate, and show the verdict."""
    from ibpc import api
    from ibpc.report import progress, terminal

    with progress.stages() as show_stage:
        decision = api.decide(job.network, prop, progress=show_stage, **job.proving)
    if result:
        api.write_result(result, decision)
    if job.output:
        api.write_certificate(job.output, job.target, job.network, prop, decision, *job.normalization)
    terminal.show_decision(job.target, prop, decision)


def certify_data(job: _Job, chosen: _Choice, eps: float) -> None:
    """Certify images, show the accuracies and write the certificate; of several processes the first does, for all."""
    from ibpc import api
    from ibpc.report import progress, terminal
    from ibpc.workers import joined

    named = named_dataset(chosen.data, job.network, job.target)
    dataset = api.load_dataset(named, chosen.root, chosen.download)
    attack = api.Attack() if chosen.attack_steps is None else api.Attack(steps=chosen.attack_steps)
    arithmetic, seed = job.proving["arithmetic"], job.proving["seed"]
    earlier: Sequence[Example] = ()
    with joined(job.network.device, PATIENCE) as workers:
        choice = f":{chosen.limit or ''}" if chosen.images is None else chosen.images
        indices = api.chosen_images(choice, len(dataset.test), seed)
        if chosen.again:
            earlier = api.earlier_verdicts(chosen.again, job.target, dataset, eps, arithmetic, *job.normalization)
        with _resumable(job.output), progress.certification_progress(len(indices), workers) as show_progress:
            result = api.certify(
                job.network,
                dataset,
                eps,
                attack=attack,
                images=indices,
                report=job.output,
                progress=show_progress,
                earlier=earlier,
                **job.proving,
            )
        if not workers.is_first:
            return
        if job.output:
            api.write_verdicts(job.output, job.target, job.network, dataset, result, *job.normalization)
        terminal.show_robustness(job.target, job.network, dataset, result)
        if job.output:
            typer.echo(f"next: {check_command(job.output, named, chosen.root)}")


def check_command(certificate: Path, data: str, data_root: Path | None) -> str:
    """Return the command that checks a certificate of a data set: a path is known by the folder that it lies in."""
    is_path = Path(data).name != data or data.endswith(".npz")
    root = Path(data).parent if is_path else data_root
    is_beside = root is None or (is_path and root.resolve() == certificate.parent.resolve())
    return shlex.join(["ibpc", "check", str(certificate), *([] if is_beside else ["--data-root", str(root)])])


@contextmanager
def _resumable(output: Path | None) -> Iterator[None]:
    """Say, where Ctrl-C ends the block, whether what it had decided is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"the same command goes on with {output}" if output else "nothing is kept without --json FILE"
        typer.echo(f"interrupted; {kept}", err=True)
        raise typer.Exit(130) from None


def check(
    certificate: Annotated[Path, typer.Argument(help="CERTIFICATE.json, written by certify --json.")],
    data_root: DataRoot = None,
) -> None:
    """Check every claim of a certificate again, by other means, on the model file."""
    from ibpc import api
    from ibpc.report import terminal

    claims = api.check(certificate, data_root)
    terminal.show_claims(certificate, claims)
    if not all(claim.holds for claim in claims):
        sys.exit(2)
