"""The Python API: what `import ibpc` offers. Each function takes what the command line takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ibpc.bounds import METHODS, QUICK, affine, nodes
from ibpc.bounds.affine import AffineBounds, AffineForms
from ibpc.bounds.enclosure import Encloser, boxes_given, outer_ball
from ibpc.data import Dataset, arrays_of, chosen_images, dataset_of, load_dataset, to_unit
from ibpc.errors import UsageError
from ibpc.exports import Claimed, export_bounds, export_nominal, export_program
from ibpc.files import write_atomically, write_json
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.opening import compile, load, normalized, open_network
from ibpc.progress import ignore
from ibpc.rounding import Arithmetic
from ibpc.training.constraints import bake, constrain
from ibpc.training.recipe import Recipe
from ibpc.training.runner import TrainingRun, train
from ibpc.training.sweep import Sweep
from ibpc.verify.attack import Attack
from ibpc.verify.balls import Ball, ball, spread_balls
from ibpc.verify.certificates.certificate import Claim, ModelFile, data_certificate, property_certificate
from ibpc.verify.certificates.check import check, judged_model
from ibpc.verify.competition import result_text
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.decide import AUTO, Decision, DecisionOptions, plan_named
from ibpc.verify.falsification import Counterexample
from ibpc.verify.journal import Journal, remove_journals
from ibpc.verify.judge import Judge
from ibpc.verify.linear_property import linear_property
from ibpc.verify.properties import Property
from ibpc.verify.proving.proof import Names
from ibpc.verify.radius import Radius, largest_radius
from ibpc.verify.results import Example, Robustness
from ibpc.verify.subject import Subject
from ibpc.verify.verdicts import Verdict
from ibpc.verify.vnnlib.reading import load_vnnlib, parse_vnnlib
from ibpc.weights import copy_weights
from ibpc.workers import present

__all__ = [
    "AUTO",
    "METHODS",
    "QUICK",
    "AffineBounds",
    "AffineForms",
    "Arithmetic",
    "Attack",
    "Ball",
    "Claim",
    "Counterexample",
    "Dataset",
    "Decision",
    "Interval",
    "Judge",
    "Network",
    "Property",
    "Recipe",
    "Robustness",
    "Sweep",
    "TrainingRun",
    "Verdict",
    "affine_bounds",
    "bake",
    "ball",
    "ball_property",
    "bound",
    "bounder",
    "certify",
    "check",
    "chosen_images",
    "compile",
    "constrain",
    "copy_weights",
    "dataset",
    "decide",
    "earlier_verdicts",
    "export",
    "linear_property",
    "load",
    "load_dataset",
    "load_vnnlib",
    "node_bounds",
    "normalized",
    "open_network",
    "outer_ball",
    "parse_vnnlib",
    "radius",
    "spread_balls",
    "torch_dataset",
    "train",
    "write_certificate",
    "write_report",
    "write_result",
    "write_verdicts",
]


_ATTACK: Final = Attack()


def export(
    network: Network,
    path: str | Path,
    graph: str = "nominal",
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
) -> None:
    """Write a graph of the network to FILE.onnx (opset 18) or, by `torch.export`, to FILE.pt2; batch symbolic.

    `graph` is "nominal", "interval" (bounds in, bounds out) or "margins" (bounds in, lower bounds (B, K, K) of all
    z_i − z_j out); `arithmetic` is what the bounds hold for. Raises UsageError for an unknown graph or suffix,
    ModelError where ONNX Runtime computes something else, ArtifactError where the file cannot be written.
    """
    path, snapshot, arithmetic = Path(path), network.snapshot(), _arithmetic(arithmetic)
    claims = {claimed.value: claimed for claimed in Claimed}
    if graph not in ("nominal", *claims):
        raise UsageError.at("graph", f"found {graph!r}", "nominal, interval or margins")
    claimed = claims.get(graph)
    if path.suffix == ".pt2":
        export_program(snapshot, path, claimed, arithmetic)
    elif path.suffix != ".onnx":
        raise UsageError.at(path, f"the suffix {path.suffix!r}", ".onnx or .pt2")
    elif claimed is None:
        export_nominal(snapshot, path)
    else:
        export_bounds(snapshot, path, claimed, arithmetic)


def write_verdicts(
    path: str | Path,
    model: str | Path,
    network: Network,
    dataset: Dataset,
    result: Robustness,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a result with its verdict for every example as a certificate, and remove the journals beside it.

    Raises ArtifactError where that fails.
    """
    about = ModelFile.of(Path(model), mean, std)
    write_json(Path(path), data_certificate(about, dataset.name, dataset.sha256, result, network.notes))
    remove_journals(Path(path))


def dataset(x_train: Any, y_train: Any, x_test: Any, y_test: Any, name: str = "data", layout: str = "NHWC") -> Dataset:
    """Return a data set of arrays or tensors: images (N, H, W), (N, H, W, C) or (N, C, H, W), integer labels (N,).

    To certify, the test images are enough: `x_train` and `y_train` may both be None. Images are uint8, or floats in
    [0, 1]; `layout` is that of images with channels, "NHWC" or "NCHW". Raises DataError where they do not fit together,
    UsageError for another layout.
    """
    if layout not in ("NHWC", "NCHW"):
        raise UsageError.at("layout", f"found {layout!r}", "NHWC or NCHW")
    given = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    arrays = {key: np.asarray(value) for key, value in given.items() if value is not None}
    if layout == "NCHW":
        arrays = {key: np.moveaxis(array, 1, -1) if array.ndim == 4 else array for key, array in arrays.items()}
    return dataset_of(name, name, arrays, None)


def torch_dataset(train: Any, test: Any, name: str = "data") -> Dataset:
    """Return a data set of two `torch.utils.data.Dataset`s of pairs: an image (H, W) or (C, H, W), and its label.

    Every pair is read once, so random transforms are drawn once: use `augmentation` of the recipe. `train` may be None,
    to certify. Raises DataError for anything else than such pairs.
    """
    trained: tuple[Any, Any] = (None, None) if train is None else arrays_of(train, "train")
    return dataset(*trained, *arrays_of(test, "test"), name, "NCHW")


def ball_property(
    network: Network,
    x: str | Path | torch.Tensor | NDArray[Any],
    eps: float | torch.Tensor,
    label: int | None = None,
    target: int | None = None,
) -> Property:
    """Return robustness of an input, as such or in a `.npy` file: no point within `eps` has another class than `label`.

    With a `target` only that class counts. The ball is clipped to the range of the network's input, [0, 1] if it states
    none; otherwise see `ball` and `Ball.within`.
    """
    return ball(network, x, label).within(eps, network, target)


def radius(
    network: Network,
    around: Ball,
    *,
    most: float = 0.5,
    tolerance: float = 0.001,
    method: str = AUTO,
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    timeout: float = 10.0,
    seed: int = 0,
) -> Radius:
    """Return the largest radius at most `most` at which an input is certified, to `tolerance`, in pixels of [0, 1].

    Each radius that is tried may take `timeout` seconds. Raises PropertyError where the input does not fit, UsageError
    for an unknown method or an impossible range.
    """
    how, subject = _deciding(plan_named(method), arithmetic, timeout, seed), Subject(network)

    def verdict_at(eps: float) -> Verdict:
        return how.run(subject, around.within(eps, network)).verdict

    return largest_radius(verdict_at, most, tolerance)


def bound(
    network: Network,
    box: Interval | torch.Tensor | Sequence[Interval | torch.Tensor],
    rows: torch.Tensor | None = None,
    *,
    method: str = "crown",
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    timeout: float = inf,
) -> Interval:
    """Return bounds (B, R) of `rows` · outputs over boxes (B, …) of inputs, by any bounding method; no gradients.

    `rows` are (R, K) for all samples or (B, R, K); without them every output is bounded, all K of them flat and one
    after the other. With several inputs there is a list of boxes; a tensor is the box of one point. `outer_ball` makes
    boxes that hold the real ball. Methods that go on tightening stop after `timeout` seconds. Raises UsageError for an
    unknown method, and for boxes and rows that do not fit.
    """
    deadline = time.monotonic() + _seconds(timeout)
    boxes = boxes_given(box)
    return Encloser(network, rows, method, _arithmetic(arithmetic), deadline)(*boxes)


def affine_bounds(
    network: Network,
    box: Interval | torch.Tensor | Sequence[Interval | torch.Tensor],
    rows: torch.Tensor | None = None,
    *,
    method: str = "crown",
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    timeout: float = inf,
) -> AffineBounds:
    """Return forms of the inputs below and above `rows` · outputs over boxes: the matrices of linear bounds.

    Box and rows are those of `bound`; of its methods it takes `crown-ibp`, `crown` and `alpha-crown`. Evaluated
    exactly, the forms hold at every point of the box for every execution that the arithmetic stands for. Raises
    UsageError for another method, and for boxes and rows that do not fit.
    """
    deadline = time.monotonic() + _seconds(timeout)
    return affine.affine_bounds(network, box, rows, method, _arithmetic(arithmetic), deadline)


def node_bounds(
    network: Network,
    box: Interval | torch.Tensor | Sequence[Interval | torch.Tensor],
    *,
    method: str = "crown",
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    timeout: float = inf,
) -> dict[str, Interval]:
    """Return bounds (B, *shape) of every value of a network over boxes, by the names that `ibpc show` lists.

    Of the methods of `bound` it takes `ibp`, `crown-ibp` (intervals here), `crown` and `alpha-crown`. The method bounds
    what nonlinear operators read; other values follow by their interval rules. After `timeout` seconds values are
    bounded by intervals. Raises UsageError for another method, and for boxes that do not fit.
    """
    deadline = time.monotonic() + _seconds(timeout)
    return nodes.node_bounds(network, boxes_given(box), method, _arithmetic(arithmetic), deadline)


def bounder(
    network: Network,
    rows: torch.Tensor | None = None,
    *,
    method: str = "crown",
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
) -> Encloser:
    """Return the function boxes → bounds that `bound` computes, made ready once from the network's present weights.

    Raises UsageError for an unknown method, and for rows that do not fit.
    """
    return Encloser(network, rows, method, _arithmetic(arithmetic))


def decide(
    network: Network,
    prop: Property | str | Path,
    *,
    method: str = AUTO,
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    timeout: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], object] = ignore,
) -> Decision:
    """Decide a property, or the one in a VNN-LIB file, within `timeout` seconds.

    Raises PropertyError for a property that is malformed or does not fit, UsageError for an unknown method.
    """
    wanted = prop if isinstance(prop, Property) else load_vnnlib(prop)
    how = _deciding(plan_named(method), arithmetic, timeout, seed)
    return how.run(Subject(network), wanted, progress)


def _arithmetic(named: Arithmetic | str) -> Arithmetic:
    """Return an arithmetic, given as such or by its name. Raises UsageError."""
    try:
        return Arithmetic(named)
    except ValueError as error:
        raise UsageError.at("arithmetic", f"found {named!r}", "float32 or real") from error


def _expect_seed(seed: int) -> None:
    if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise UsageError.at("seed", f"found {seed!r}", "an integer from 0 to 2⁶³ − 1")


def _seconds(timeout: float) -> float:
    if not isinstance(timeout, Real) or not timeout >= 0:
        raise UsageError.at("timeout", f"found {timeout}", "a number of seconds of at least 0")
    return timeout


def _deciding(plan: tuple[str, ...], arithmetic: Arithmetic | str, timeout: float, seed: int) -> DecisionOptions:
    """Return how a property is decided by a plan of methods, the attack drawing with `seed`. Raises UsageError."""
    _expect_seed(seed)
    how = DecisionOptions(plan, _arithmetic(arithmetic), timeout=_seconds(timeout))
    return replace(how, attack=replace(how.attack, seed=seed))


def write_certificate(
    path: str | Path,
    model: str | Path,
    network: Network,
    prop: Property,
    decision: Decision,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write what was decided of a property, the property, and the proof, as a certificate. Raises ArtifactError."""
    about = ModelFile.of(Path(model), mean, std)
    names = Names(judged_model(about)) if decision.margins and decision.proofs else None
    write_json(Path(path), property_certificate(about, prop, decision, network.notes, names))


def write_result(path: str | Path, decision: Decision) -> None:
    """Write what was decided of a property as VNN-COMP wants it. Raises ArtifactError where that fails."""
    write_atomically(Path(path), result_text(decision).encode())


def certify(
    network: Network,
    data: Dataset | str,
    eps: float,
    *,
    method: str = QUICK,
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    attack: Attack = _ATTACK,
    limit: int | None = None,
    images: str | Sequence[int] | None = None,
    batch: int = 250,
    timeout: float = 60.0,
    seed: int = 0,
    report: str | Path | None = None,
    progress: Callable[[int], object] = ignore,
    earlier: Sequence[Example] = (),
) -> Robustness:
    """Certify test images at the L∞ radius `eps`, in pixels of [0, 1]: all, the first `limit`, or those of `images`.

    `images` are indices, or text: "0:100" (a range), "3,7,9" (a list), "random:100" (a sample drawn with `seed`,
    without replacement). Examples come in the order of their indices, and accuracies are shares of them.

    A `method` that is a plan ("auto", "bab") or slow ("alpha-crown", "mip") begins with interval bounds of all images
    and goes on with each that is left open, for at most `timeout` seconds. Verdicts are kept in journals beside the
    file `report` as they come, and a call that finds those of the same job goes on with it; `write_verdicts` writes
    the report itself. Verdicts of `earlier_verdicts` are taken over, and only what they leave open is tried. The
    processes of torch.distributed share the images, if there are several. Raises DataError for missing data,
    PropertyError for data that do not fit and for journals of another job, UsageError for an unknown method.
    """
    if not isinstance(eps, Real) or not 0 <= eps <= 1:
        raise UsageError.at("eps", f"found {eps!r}", "a radius in pixels of [0, 1]", "8 of 255 are 8/255")
    _expect_seed(seed)
    if limit is not None and limit < 1:
        raise UsageError.at("limit", f"found {limit}", "a number of images of at least 1, or None for all")
    if limit is not None and images is not None:
        raise UsageError.at("limit", "found limit and images", "one of them")
    if not isinstance(data, Dataset | str):
        remedy = "ibpc.dataset makes one of arrays, ibpc.torch_dataset of pairs"
        raise UsageError.at("data", f"found {type(data).__name__}", "a Dataset or the name of one", remedy)
    dataset = load_dataset(data) if isinstance(data, str) else data
    certification = DataCertifier.of(method, _arithmetic(arithmetic), attack, batch, _seconds(timeout), seed)
    indices = chosen_images(f":{limit or ''}" if images is None else images, len(dataset.test), seed)
    split = dataset.test.take(torch.tensor(indices))
    workers, job = present(), certification.identity(network, dataset, eps, indices)
    journal = Journal(None if report is None else Path(report), job, workers.rank)
    x, labels = to_unit(split.images), split.labels
    return certification.run(network, x, labels, eps, journal, workers, progress, earlier, indices)


def earlier_verdicts(
    certificate: str | Path,
    model: str | Path,
    data: Dataset,
    eps: float,
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Example, ...]:
    """Return the verdicts of an earlier certificate, to let `certify` try again, for longer, what it leaves open.

    Raises PropertyError for a certificate of another network, data set, radius or arithmetic.
    """
    from ibpc.verify.certificates.earlier import earlier_verdicts as found

    return found(Path(certificate), ModelFile.of(Path(model), mean, std), data, eps, _arithmetic(arithmetic))


def write_report(
    runs: Sequence[str | Path],
    out: str | Path = "report.html",
    *,
    data: Dataset | str | None = None,
    data_root: str | Path | None = None,
    eps: float | None = None,
    method: str = QUICK,
    limit: int = 200,
    progress: Callable[[str], object] = ignore,
) -> Path:
    """Write one page of HTML on training runs, side by side; return the folder of its figures, SVG and PNG.

    `data` is by default the data set that all runs were trained on, `eps` the largest radius of their recipes. `limit`
    test images, evenly spread, are certified. Raises the errors of a run that is unfinished or damaged, DataError for
    data that do not fit, ArtifactError where `out` cannot be written.
    """
    from ibpc.report.writing import write_report as write

    return write([Path(run) for run in runs], Path(out), data, data_root, eps, method, limit, progress)
