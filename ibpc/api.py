"""The Python API: what `import ibpc` offers. Each function takes what the command line takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ibpc import artifact
from ibpc.artifact import Source
from ibpc.bounds import AUTO, METHODS, method_named
from ibpc.data import Dataset, load_dataset
from ibpc.errors import ModelError, UsageError
from ibpc.export import export_nominal
from ibpc.frontends.onnx import import_onnx
from ibpc.frontends.spec import load_spec
from ibpc.frontends.torch import load_module
from ibpc.interval import Interval
from ibpc.network import Network
from ibpc.passes import COMPILE
from ibpc.passes.normalize_input import normalize_input
from ibpc.rounding import Arithmetic
from ibpc.training.recipe import Recipe
from ibpc.training.records import write_json
from ibpc.training.runner import TrainingRun, train
from ibpc.verify.attack import Attack
from ibpc.verify.robustness import Certification, Robustness, Verdict

__all__ = [
    "METHODS",
    "Arithmetic",
    "Attack",
    "Dataset",
    "Interval",
    "Network",
    "Recipe",
    "Robustness",
    "TrainingRun",
    "Verdict",
    "certify",
    "compile",
    "export",
    "load",
    "load_dataset",
    "normalized",
    "open_network",
    "train",
    "write_verdicts",
]


def compile(source: str | Path | nn.Module, example: torch.Tensor | None = None, seed: int = 0) -> Network:
    """Compile a JSON spec, an ONNX file (`.onnx`, `.onnx.gz`) or an nn.Module into a network.

    A spec's weights are fresh, drawn with `seed`. A module needs an `example` input of shape (B, …); its weights are
    copied. Raises SpecError, ModelError or UsageError.
    """
    if isinstance(source, nn.Module):
        if example is None:
            raise UsageError.at("compile", "a module without an example input", "example=tensor of shape (B, …)")
        graph, _ = COMPILE.run(load_module(source, example))
        return Network(graph, Source("module", type(source).__name__))
    path = Path(source)
    if path.name.endswith((".onnx", ".onnx.gz")):
        imported = import_onnx(path)
        graph, _ = COMPILE.run(imported.graph)
        agreements = (
            f"agrees with {found.judge} on {found.points} points, largest error {found.error:.1e}"
            for found in imported.validation.judgements
        )
        notes = (*imported.notes, *agreements, *imported.validation.notes)
        return Network(graph, Source.of_file("onnx", path), notes)
    if path.suffix == ".json":
        return Network(load_spec(path, seed), Source.of_file("spec", path))
    raise UsageError.at(path, "not a model that ibpc reads", "SPEC.json, MODEL.onnx or MODEL.onnx.gz")


def export(network: Network, path: str | Path) -> None:
    """Write the nominal graph as an ONNX file with a symbolic batch. Raises ModelError where that is impossible."""
    export_nominal(network.snapshot(), Path(path))


def load(path: str | Path) -> Network:
    """Load an artifact. Raises ArtifactError if it is missing or damaged."""
    return Network.load(Path(path))


def open_network(path: str | Path, seed: int = 0) -> Network:
    """Return the network of an artifact, a spec or an ONNX file, whichever `path` is."""
    found = Path(path)
    if found.is_dir() or artifact.is_artifact(found):
        return load(found)
    if not found.exists():
        raise ModelError.at(found, "no such file or folder", "an artifact, SPEC.json or MODEL.onnx")
    return compile(found, seed=seed)


def normalized(network: Network, mean: Sequence[float], std: Sequence[float]) -> Network:
    """Return the network with (x − mean) / std, per channel or one number, put before it.

    For networks that were trained on normalized images: the box stays in pixels of [0, 1]. Raises UsageError.
    """
    return Network(normalize_input(network.snapshot(), mean, std), network.source, network.notes)


def write_verdicts(path: str | Path, model: str, dataset: Dataset, result: Robustness) -> None:
    """Write a result with its verdict for every example as JSON. Raises ArtifactError where that fails."""
    write_json(Path(path), {"model": model, "data": dataset.name, "split": "test", **result.to_json()})


def certify(
    network: Network,
    data: Dataset | str,
    eps: float,
    *,
    method: str = AUTO,
    arithmetic: Arithmetic = Arithmetic.FLOAT32,
    attack: Attack = Attack(),  # noqa: B008 (frozen)
    limit: int | None = None,
    batch: int = 250,
    progress: Callable[[int], object] = int,
) -> Robustness:
    """Certify the first `limit` test images (default: all) at the L∞ radius `eps`, in pixels of [0, 1].

    Raises DataError for missing data, PropertyError for data that do not fit, UsageError for an unknown method.
    """
    dataset = load_dataset(data) if isinstance(data, str) else data
    name = "ibp" if method == AUTO else method
    certification = Certification(name, method_named(method), arithmetic, attack, batch)
    images, labels = dataset.test.floats()[:limit], dataset.test.labels[:limit]
    return certification.run(network, images, labels, eps, progress)
