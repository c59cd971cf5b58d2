"""The artifact: a compiled network as a folder of JSON and safetensors. Loading executes nothing from it.

`manifest.json` names every file with its SHA-256; `graph.json` is the IR, `weights.safetensors` its state;
`nominal.py.txt` and `interval.py.txt` are listings of the emitted graphs for people to read. A folder is written
beside its destination and renamed into place, so an interrupted write leaves the old one whole.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from ibpc.errors import ArtifactError, GraphError, Problem, first_line, raise_all
from ibpc.files import MOST_TEXT, beside, json_bytes, leftovers, read_regular, sha256_of, unwritable, write_durably
from ibpc.hints import are_trained
from ibpc.ir import Graph
from ibpc.locking import briefly_locked
from ibpc.lowering import lower_interval, lower_nominal, parameter_tree
from ibpc.ops import operators

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
TRAINING: Final = "training"
METRICS: Final = "metrics.jsonl"
_GRAPH: Final = "graph.json"
_WEIGHTS: Final = "weights.safetensors"
_LISTINGS: Final = ("nominal.py.txt", "interval.py.txt")
# In a folder that took the place of one whose run goes with it, until that is gone.
_RUN_DROPPED: Final = ".run-dropped"
_OWN: Final = frozenset({MANIFEST, _GRAPH, _WEIGHTS, *_LISTINGS, _RUN_DROPPED})
_TOOLS: Final = ("ibpc", "torch", "onnx", "networkx", "safetensors")


class OldRun(Enum):
    """What becomes of the training run in an artifact that is replaced."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True)
class Source:
    """What a network was compiled from: kind ("spec", "onnx", "module"), path, and SHA-256 of the file."""

    kind: str
    path: str = ""
    sha256: str = ""

    @classmethod
    def of_file(cls, kind: str, path: Path) -> Source:
        """Return the source of a file that exists."""
        return cls(kind, str(path), sha256_of(path.read_bytes()))


@dataclass(frozen=True)
class Artifact:
    """A loaded folder: where it is, its manifest, and the graph with its weights."""

    path: Path
    manifest: Mapping[str, Any]
    graph: Graph = field(repr=False)

    @property
    def source(self) -> Source:
        """What the network was compiled from."""
        return Source(**self.manifest["source"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a frontend noted about the network, such as weights that it rounded."""
        notes = self.manifest.get("notes", [])
        return tuple(map(str, notes)) if isinstance(notes, list) else ()


def tool_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape an artifact."""
    versions = {"python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            versions[tool] = "unknown"
    return versions


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────
def save(
    graph: Graph,
    path: Path,
    source: Source,
    notes: Sequence[str] = (),
    old_run: OldRun = OldRun.KEEP,
) -> None:
    """Write the graph and its state to the folder `path`, whole or not at all.

    An artifact that is there is replaced; files of others in it go over into the new one, and so does its `training/`
    folder unless `old_run` says otherwise. `notes` are what a frontend noted about the network. Raises ArtifactError
    for weights that are no finite numbers, if something else is in the way, or where the folder cannot be written.
    """
    raise_all(ArtifactError, _state_problems(graph, path / _WEIGHTS))
    files = _contents(graph)
    manifest = {
        "format": FORMAT_VERSION,
        "name": graph.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": tool_versions(),
        "source": {"kind": source.kind, "path": source.path, "sha256": source.sha256},
        "hints": dict(graph.hints),
        "notes": list(notes),
        "files": {name: sha256_of(data) for name, data in files.items()},
    }
    files[MANIFEST] = json_bytes(manifest)
    check_place(path)
    temporary = beside(path, f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_folder(temporary, files)
        with briefly_locked(beside(path, f".{path.name}.lock")):
            _swap(temporary, path, old_run)
            _sweep(path)
    except OSError as error:
        raise unwritable(path, error, "a writable folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_artifact(path: Path) -> bool:
    """Return whether `path` is a folder with a manifest."""
    return (path / MANIFEST).is_file()


def is_trained(path: Path) -> bool:
    """Return whether `path` is an artifact whose training run ended an epoch, or of weights that were changed."""
    if not is_artifact(path):
        return False
    metrics = path / TRAINING / METRICS
    if metrics.is_file() and metrics.stat().st_size:
        return True
    try:
        hints = _read_manifest(path).get("hints")
    except ArtifactError:
        return False
    return are_trained(hints)


def owns(path: Path, file: Path) -> bool:
    """Return whether `file` is one that ibpc keeps in the artifact `path`: of the network, or of its training run."""
    inside = file.relative_to(path).parts if is_artifact(path) and file.is_relative_to(path) else ("",)
    return inside[0] == TRAINING or (len(inside) == 1 and inside[0] in _OWN)


def _contents(graph: Graph) -> dict[str, bytes]:
    parameters = parameter_tree(graph)
    tensors = {key: value.contiguous() for key, value in graph.state.items()}
    listings = (lower_nominal(graph, parameters), lower_interval(graph, parameters))
    return {
        _GRAPH: json_bytes(graph.to_json()),
        _WEIGHTS: save_safetensors(tensors),
        **{name: module.code.lstrip().encode() for name, module in zip(_LISTINGS, listings, strict=True)},
    }


def check_place(path: Path) -> None:
    """Raise ArtifactError where something else than an artifact is in the way of one at `path`."""
    beside(path, "name")
    if path.is_symlink():
        raise ArtifactError.at(
            path, "a link, which would be replaced", "a new folder or an artifact", "name its target"
        )
    if path.exists() and not path.is_dir():
        raise ArtifactError.at(path, "it is not a folder", "a new folder or an artifact")
    if path.is_dir() and any(path.iterdir()) and not is_artifact(path):
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name != TRAINING)
        if foreign:
            raise ArtifactError.at(
                path, f"the folder holds other files ({foreign[0]}, …)", "a new folder or an artifact"
            )
    if os.path.ismount(path):
        raise ArtifactError.at(path, "a mount point, which cannot be renamed", "a folder", "choose one inside it")
    there = next(place for place in (path.absolute().parent, *path.absolute().parents) if place.exists())
    for place in (there, path) if path.is_dir() else (there,):
        if not os.access(place, os.W_OK | os.X_OK):
            raise ArtifactError.at(path, f"{place} cannot be written", "a writable folder")


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        write_durably(folder / name, data)


def _swap(new: Path, path: Path, old_run: OldRun) -> None:
    """Put `new` at `path`; what was there waits under another name until it is no longer needed."""
    _recover(path)
    if path.is_dir():
        if old_run is OldRun.DROP:
            (new / _RUN_DROPPED).touch()
        path.rename(_backup(path))
    new.rename(path)
    _recover(path)


def _sweep(path: Path) -> None:
    """Remove what processes left half written beside `path` that did not live to finish it."""
    for leftover in leftovers(path):
        shutil.rmtree(leftover, ignore_errors=True)


def _backup(path: Path) -> Path:
    return beside(path, f".{path.name}.old")


def _recover(path: Path) -> None:
    """Finish a swap that was interrupted: restore the old folder, or what others put into it where the new one is."""
    old = _backup(path)
    if not old.is_dir():
        return
    if not path.exists():
        old.rename(path)
        return
    left = {*_OWN, TRAINING} if (path / _RUN_DROPPED).exists() else _OWN
    for entry in old.iterdir():
        if entry.name not in left and not (path / entry.name).exists():
            entry.rename(path / entry.name)
    shutil.rmtree(old, ignore_errors=True)
    (path / _RUN_DROPPED).unlink(missing_ok=True)


def recover(path: Path) -> None:
    """Finish a swap that was interrupted, while no other process swaps the folder. Raises ArtifactError."""
    if not _backup(path).is_dir():
        return
    try:
        with briefly_locked(beside(path, f".{path.name}.lock")):
            _recover(path)
    except OSError as error:
        found = f"an interrupted write cannot be undone: {error.strerror or error}"
        raise ArtifactError.at(path, found, f"what is missing there is in {_backup(path)}", "move it back") from error


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────
def load(path: Path) -> Artifact:
    """Load a folder, checking every hash and every invariant of the graph.

    Raises ArtifactError if it is missing, of another format, damaged, or not a graph that ibpc could have written.
    """
    if not path.exists():
        recover(path)
    if not path.is_dir():
        raise ArtifactError.at(
            path, "no such folder", "an artifact", "make one with: ibpc compile SPEC.json|MODEL.onnx"
        )
    manifest = _read_manifest(path)
    data = {name: _read_checked(path, name, digest) for name, digest in manifest["files"].items()}
    missing = {_GRAPH, _WEIGHTS} - data.keys()
    if missing:
        raise ArtifactError.at(path / MANIFEST, f"it lists no {sorted(missing)[0]}", "a manifest written by ibpc")
    try:
        state = load_safetensors(data[_WEIGHTS])
        graph = Graph.from_json(json.loads(data[_GRAPH]), state)
        _complete_attributes(graph)
        graph.verify(operators())
        raise_all(ArtifactError, _state_problems(graph, path / _WEIGHTS))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ArtifactError.at(path, f"a damaged file: {error}", "an artifact written by ibpc") from error
    except GraphError as error:
        problems = (replace(problem, where=f"{path}: {problem.where}") for problem in error.problems)
        raise ArtifactError(problems) from error
    return Artifact(path, manifest, graph)


def _complete_attributes(graph: Graph) -> None:
    """Give attributes that came after the artifact was written their defaults, which is what it meant."""
    for node in graph.order():
        if node.operator in operators():
            graph.replace(node.name, attributes=operators()[node.operator].complete(node.attributes))


def _state_problems(graph: Graph, where: Path) -> Iterator[Problem]:
    """Yield what no frontend lets into a graph: other floats than those of binary32, parameters that are no floats."""
    for node in graph.order():
        trainable = operators()[node.operator].trainable
        for role, value in graph.parameters_of(node.name).items():
            place = f"{where}: {node.name}.{role}"
            if value.dtype != torch.float32 and (value.is_floating_point() or value.is_complex() or role in trainable):
                yield Problem(place, f"numbers of type {str(value.dtype).removeprefix('torch.')}", "float32")
            elif value.dtype == torch.float32 and not bool(torch.isfinite(value).all()):
                yield Problem(place, "NaN or infinity", "finite numbers", "compile or train the network again")


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / MANIFEST
    try:
        manifest = json.loads(read_regular(where, MOST_TEXT))
    except FileNotFoundError:
        raise ArtifactError.at(path, f"it has no {MANIFEST}", "an artifact", "make one with: ibpc compile") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError.at(where, f"unreadable: {first_line(error)}", "a manifest written by ibpc") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise ArtifactError.at(where, f"format {found!r}", f"format {FORMAT_VERSION}", "compile the network again")
    if not isinstance(source := manifest.get("source"), dict) or source.keys() != {"kind", "path", "sha256"}:
        raise ArtifactError.at(where, "a malformed source", "kind, path and sha256")
    if not all(isinstance(text, str) for text in source.values()):
        raise ArtifactError.at(where, "a malformed source", "kind, path and sha256 as texts")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_plain_name(name) for name in files):
        raise ArtifactError.at(where, "a malformed list of files", "file names with their SHA-256")
    checked: dict[str, Any] = manifest
    return checked


def _is_plain_name(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..") and "\0" not in name


def _read_checked(path: Path, name: str, digest: Any) -> bytes:
    try:
        data = read_regular(path / name)
    except OSError as error:
        raise ArtifactError.at(
            path / name, f"cannot be read: {error.strerror}", "the file that the manifest lists"
        ) from error
    if sha256_of(data) != digest:
        raise ArtifactError.at(
            path / name,
            "its SHA-256 is not the manifest's: it was damaged or changed",
            "the file as ibpc wrote it",
            "compile again",
        )
    return data
