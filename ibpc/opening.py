"""From what people have to a network: a spec, an ONNX file, a PyTorch module or an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn

from ibpc.artifact import Source, is_artifact
from ibpc.errors import ModelError, UsageError
from ibpc.frontends.onnx import import_onnx
from ibpc.frontends.spec import load_spec
from ibpc.frontends.torch import changed_in_compiling, changed_in_training, load_module
from ibpc.network import Network
from ibpc.passes import COMPILE, RecognizeActivations, RecognizeGroups
from ibpc.passes.normalize_input import normalize_input

# Passes whose changes are noted, since they make operators that a file does not have.
_RECOGNIZING: Final = (RecognizeActivations.name, RecognizeGroups.name)


def compile(
    source: str | Path | nn.Module, example: torch.Tensor | Sequence[torch.Tensor] | None = None, seed: int = 0
) -> Network:
    """Compile a JSON spec, an ONNX file (`.onnx`, `.onnx.gz`) or an nn.Module into a network.

    A spec's weights are fresh, drawn with `seed`. A module needs an `example` input of shape (B, …), or one for each
    argument of its `forward`; its weights are copied. Raises SpecError, ModelError or UsageError.
    """
    if isinstance(source, nn.Module):
        if example is None:
            raise UsageError.at("compile", "a module without an example input", "example=tensor of shape (B, …)")
        graph, _ = COMPILE.run(load_module(source, example))
        notes = (*changed_in_compiling(source), *changed_in_training(source, graph))
        return Network(graph, Source("module", type(source).__name__), notes)
    if not isinstance(source, str | Path):
        found = f"a {type(source).__name__}"
        raise UsageError.at("compile", found, "a path to SPEC.json or MODEL.onnx, or an nn.Module")
    path = Path(source)
    if path.name.endswith((".onnx", ".onnx.gz")):
        imported = import_onnx(path)
        graph, reports = COMPILE.run(imported.graph)
        recognized = (change for report in reports if report.name in _RECOGNIZING for change in report.changes)
        agreements = (
            f"agrees with {found.judge} on {found.points} points, largest error {found.error:.1e}"
            for found in imported.validation.judgements
        )
        notes = (*imported.notes, *recognized, *agreements, *imported.validation.notes)
        return Network(graph, Source.of_file("onnx", path), notes)
    if path.suffix == ".json":
        return Network(load_spec(path, seed), Source.of_file("spec", path))
    raise UsageError.at(path, "not a model that ibpc reads", "SPEC.json, MODEL.onnx or MODEL.onnx.gz")


def load(path: str | Path) -> Network:
    """Load an artifact. Raises ArtifactError if it is missing or damaged."""
    return Network.load(Path(path))


def open_network(path: str | Path) -> Network:
    """Return the network of an artifact, a spec or an ONNX file, whichever `path` is."""
    found = Path(path)
    if found.is_dir() or is_artifact(found):
        return load(found)
    if not found.exists():
        raise ModelError.at(found, "no such file or folder", "an artifact, SPEC.json or MODEL.onnx")
    return compile(found)


def normalized(
    network: Network, mean: float | Sequence[float] | None = None, std: float | Sequence[float] | None = None
) -> Network:
    """Return the network with (x − mean) / std, per channel or one number, put before it; itself if neither is given.

    For networks that were trained on normalized images: the box stays in pixels of [0, 1]. Without a mean it is 0,
    without a standard deviation that is 1. Raises UsageError for numbers that do not fit, and for a network of
    several inputs.
    """
    if mean is None and std is None:
        return network
    means, stds = _numbers(mean, default=0.0), _numbers(std, default=1.0)
    return Network(normalize_input(network.snapshot(), means, stds), network.source, network.notes)


def _numbers(given: float | Sequence[float] | None, default: float) -> Sequence[float]:
    found = default if given is None else given
    return [float(found)] if isinstance(found, int | float) else found
