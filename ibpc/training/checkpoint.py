"""The checkpoint: one safetensors file from which a run resumes exactly. Nothing in it is unpickled.

Tensors are the parameters and buffers (`model.NAME`), the optimizer's state (`optimizer.NAME.KEY`), the mean of the
weights (`average.NAME`) and the states of the random generators (`random.NAME`); the header holds the rest as JSON.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ibpc.errors import Problem, TrainingError, first_line, raise_all
from ibpc.files import MOST_BYTES, expect_regular, write_atomically
from ibpc.frontends.strict_json import schema_problems
from ibpc.training.averaging import WeightAverage
from ibpc.training.optimizers import Optimization
from ibpc.training.recipe import Recipe

FORMAT_VERSION: Final = 1

_SMALL: Final = 2**24
_BYTES_A_SECOND: Final = 1e7
_HEADER: Final = "ibpc"
_SHA256: Final = "sha256"
_MODEL: Final = "model."
_OPTIMIZER: Final = "optimizer."
_AVERAGE: Final = "average."
_RANDOM: Final = "random."
_STEP: Final = "step"
_REMEDY: Final = "restore the file, or train anew into another folder"
_SCHEMA: Final[Mapping[str, Any]] = {
    "title": "the header of a checkpoint: an object",
    "type": "object",
    "properties": {
        "epoch": {"type": "integer", "minimum": 0},
        "seconds": {"type": "number", "minimum": 0},
        "seed": {"type": "integer"},
        "recipe": {"type": "object"},
        "data": {"type": "string"},
        "graph": {"type": "string"},
    },
    "required": ["epoch", "seconds", "seed", "recipe", "data", "graph"],
}


@dataclass(frozen=True)
class Identity:
    """What must be the same when a run is resumed: recipe, seed, SHA-256 of the data, text of the graph."""

    recipe: Mapping[str, Any]
    seed: int
    data: str
    graph: str

    def differences(self, other: Identity, where: Path) -> Iterator[Problem]:
        """Yield every difference to `other`, the run on disk."""
        yield from _changed(self.recipe, other.recipe, where, "recipe")
        if self.seed != other.seed:
            yield Problem(str(where), f"seed {self.seed}", f"{other.seed}, that of the run")
        if self.data != other.data:
            yield Problem(str(where), "another data set", f"the one with SHA-256 {other.data}")
        if self.graph != other.graph:
            yield Problem(str(where), "another network", "the one that the run began with")


def _changed(mine: Mapping[str, Any], theirs: Mapping[str, Any], where: Path, prefix: str) -> Iterator[Problem]:
    for key in sorted(mine.keys() | theirs.keys()):
        left, right = mine.get(key), theirs.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _changed(left, right, where, f"{prefix}.{key}")
        elif left != right:
            yield Problem(str(where), f"{prefix}.{key} = {json.dumps(left)}", f"{json.dumps(right)}, that of the run")


@dataclass(frozen=True)
class Checkpoint:
    """A run after `epoch` whole epochs and `seconds` of computing time."""

    identity: Identity
    epoch: int
    seconds: float
    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def take(
        cls,
        identity: Identity,
        epoch: int,
        seconds: float,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: WeightAverage,
    ) -> Checkpoint:
        """Return the checkpoint of a run between two epochs."""
        tensors = {
            **_named(_MODEL, model.state_dict()),
            **_named(_OPTIMIZER, dict(_optimizer_state(model, optimizer))),
            **_named(_AVERAGE, average.state()),
            **_named(_RANDOM, _random_states(generator)),
        }
        return cls(identity, epoch, seconds, tensors)

    def restore(
        self,
        model: nn.Module,
        optimization: Optimization,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: WeightAverage,
        where: Path,
    ) -> None:
        """Restore the state. Raises TrainingError unless it is complete and fits this run."""
        raise_all(TrainingError, self._misfits(model, optimization, generator, where))
        try:
            model.load_state_dict(self._part(_MODEL))
            _load_optimizer(model, optimizer, self._part(_OPTIMIZER))
            average.restore(self._part(_AVERAGE))
            _set_random_states(self._part(_RANDOM), generator)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise TrainingError.at(
                where, f"it does not fit: {first_line(error)}", "the checkpoint of this run"
            ) from error

    def _misfits(
        self, model: nn.Module, optimization: Optimization, generator: torch.Generator, where: Path
    ) -> Iterator[Problem]:
        """Yield the tensors that are missing, unknown, or of another type or shape than in this run."""
        parameters = dict(model.named_parameters())
        kept = {
            f"{name}.{key}": entry
            for name, parameter in parameters.items()
            for key, entry in optimization.state_of(parameter).items()
        }
        states = self._part(_OPTIMIZER)
        is_fresh = self.epoch == 0 and not states
        moved = {key.rpartition(".")[0] for key in states} & parameters.keys()
        if kept and not is_fresh and not moved:
            yield Problem(str(where), "no state of the optimizer", f"that after {self.epoch} epochs")
        required = {key: entry for key, entry in kept.items() if key.rpartition(".")[0] in moved}
        yield from _odd(_OPTIMIZER, states, required, where)
        yield from _odd(_MODEL, self._part(_MODEL), model.state_dict(), where)
        yield from _odd(_RANDOM, self._part(_RANDOM), _random_states(generator), where)
        yield from _odd(_AVERAGE, mean := self._part(_AVERAGE), parameters if mean else {}, where)
        known = (_OPTIMIZER, _MODEL, _RANDOM, _AVERAGE)
        strangers = [name for name in self.tensors if not name.startswith(known)]
        yield from (Problem(f"{where}: {name}", "an unknown tensor", "none of that name") for name in strangers)
        for key, entry in states.items():
            if key.endswith(f".{_STEP}") and not bool(torch.isfinite(entry).all() and (entry >= 0).all()):
                yield Problem(f"{where}: {_OPTIMIZER}{key}", f"found {entry.tolist()}", "a number of steps")

    def write(self, path: Path) -> None:
        """Write the file atomically. Raises ArtifactError if that fails."""
        header = {
            "format": FORMAT_VERSION,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "recipe": self.identity.recipe,
            "seed": self.identity.seed,
            "data": self.identity.data,
            "graph": self.identity.graph,
        }
        text = json.dumps(header)
        notes = {_HEADER: text, _SHA256: _digest(text, self.tensors)}
        write_atomically(path, save(dict(self.tensors), notes))

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a file. Raises TrainingError if it is missing, damaged or of another format."""
        try:
            expect_regular(path, MOST_BYTES)
            with safe_open(path, "pt") as stored:
                notes = stored.metadata() or {}
                names = stored.keys()
                tensors = {name: stored.get_tensor(name) for name in names}
            if notes[_SHA256] != _digest(notes[_HEADER], tensors):
                raise TrainingError.at(
                    path, "unreadable: its SHA-256 is wrong", "a checkpoint written by ibpc", _REMEDY
                )
            header = json.loads(notes[_HEADER])
            if header["format"] != FORMAT_VERSION:
                remedy = "go on with the version of ibpc that began the run"
                raise TrainingError.at(path, f"format {header['format']!r}", f"format {FORMAT_VERSION}", remedy)
            raise_all(TrainingError, schema_problems(header, _SCHEMA, str(path)))
            if not isfinite(header["seconds"]):
                raise TrainingError.at(path, f"{header['seconds']} seconds", "a finite number")
            recipe = Recipe.from_json(header["recipe"], f"{path}: recipe").to_json()
            identity = Identity(recipe, header["seed"], header["data"], header["graph"])
            return cls(identity, header["epoch"], float(header["seconds"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            found = f"unreadable: {first_line(error)}"
            raise TrainingError.at(path, found, "a checkpoint written by ibpc", _REMEDY) from error

    def size(self) -> int:
        """Return the bytes that all tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def expect(self, identity: Identity, where: Path) -> None:
        """Raise TrainingError with all differences if this is the checkpoint of another run."""
        raise_all(TrainingError, identity.differences(self.identity, where))

    def _part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


class Pace:
    """When the next checkpoint is due: small ones after each epoch, large ones rarely enough to cost little time.

    Writing 200 MB takes seconds, as long as one epoch of such a network on a GPU.
    """

    def __init__(self) -> None:
        self._due = time.monotonic()

    def is_due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        return time.monotonic() >= self._due

    def wrote(self, size: int) -> None:
        """Register that a checkpoint of `size` bytes was written."""
        self._due = time.monotonic() + (size / _BYTES_A_SECOND if size > _SMALL else 0.0)


def _odd(
    prefix: str, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], where: Path
) -> Iterator[Problem]:
    """Yield the tensors that are in only one of the two sets, or differ in type or shape."""
    for name in sorted(found.keys() | wanted.keys()):
        texts = [_described(tensors[name]) if name in tensors else "none" for tensors in (found, wanted)]
        if texts[0] != texts[1]:
            yield Problem(f"{where}: {prefix}{name}", texts[0], f"{texts[1]}, as in a run of this recipe")


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _named(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a text and of the tensors' names and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ── optimizer ───────────────────────────────────────────────────────────────────────────────────────────────────
def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        for key, entry in optimizer.state.get(parameter, {}).items():
            if isinstance(entry, torch.Tensor):
                yield f"{name}.{key}", entry


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    names = list(parameters)
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(".")
        states.setdefault(names.index(name), {})[entry] = _laid_out_as(parameters[name], tensor)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _laid_out_as(parameter: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
    """Return an entry on its parameter's device and, if of the same shape, in its layout, as fused optimizers need."""
    if entry.shape != parameter.shape:
        return entry
    return torch.empty_like(parameter, dtype=entry.dtype).copy_(entry)


# ── random generators ───────────────────────────────────────────────────────────────────────────────────────────
def _random_states(generator: torch.Generator) -> dict[str, torch.Tensor]:
    states = {"run": generator.get_state(), "cpu": torch.get_rng_state()}
    if generator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(generator.device)
    if generator.device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, torch.Tensor], generator: torch.Generator) -> None:
    generator.set_state(states["run"])
    torch.set_rng_state(states["cpu"])
    if generator.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], generator.device)
    if generator.device.type == "mps":
        torch.mps.set_rng_state(states["mps"])
