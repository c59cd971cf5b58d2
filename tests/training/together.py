"""The script that two processes run in `test_workers.py`: python -m torch.distributed.run … together.py OUT."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ibpc
from ibpc import cli
from ibpc.errors import TrainingError
from ibpc.training import checkpoint, records
from ibpc.training.runner import train
from ibpc.training.trainer import Trainer
from ibpc.workers import Workers, joined
from tests import ROOT
from tests.training import tiny

SPEC = ROOT / "specs" / "digits_small.json"
NORMALIZED: tuple[dict[str, Any], ...] = (
    {"type": "Conv2d", "out_channels": 4, "kernel_size": 3, "norm": "spectral"},
    {"type": "BatchNorm2d"},
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 3},
)
# Plain descent: Adam divides by the size of a gradient, and so makes a great difference of a tiny one.
BASE: dict[str, Any] = {
    "optimizer__name": "sgd",
    "optimizer__learning_rate": 0.1,
    "augmentation": "crop-flip",
    "regularization__l1": 1e-4,
    # Means over a batch that are no sums over its parts.
    "regularization__tightness": 0,
    "regularization__balance": 0,
}
# Each: the layers, and what the recipe changes.
CASES: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]] = {
    "ibp": (NORMALIZED, {}),
    "standard": (NORMALIZED, {"method": "standard"}),
    "mtl-ibp": (NORMALIZED, {"method": "mtl-ibp", "attack__steps": 2, "attack__restarts": 2}),
    "sabr in micro-batches": (tiny.PERCEPTRON, {"method": "sabr", "attack__restarts": 2, "accumulate": 2}),
}
STOPPED = "ibp"


def recipe_of(name: str) -> Any:
    return tiny.recipe(**BASE | CASES[name][1])


def run(name: str, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Train and return the weights of this process."""
    net = tiny.network(CASES[name][0])
    train(net, recipe_of(name), tiny.blobs(), out, seed=2, **options)
    return {key: torch.as_tensor(value).contiguous() for key, value in net.snapshot().state.items()}


def stopped(name: str, out: Path) -> None:
    """Start a run that every process stops in the third epoch of five steps."""
    step = Trainer.step

    def stepping(self: Trainer, index: Any, moment: Any, totals: Any) -> None:
        if moment.step == 12:
            raise KeyboardInterrupt
        step(self, index, moment, totals)

    with pytest.MonkeyPatch.context() as patch, suppress(TrainingError):
        patch.setattr(Trainer, "step", stepping)
        run(name, out)


def refuse(*_: Any) -> None:
    raise AssertionError("only the first process writes")


def main(out: Path, workers: Workers) -> None:
    if not workers.is_first:
        checkpoint.write_atomically = records.write_atomically = refuse
    for name in CASES:
        save_file(run(name, out / name), out / f"{name} {workers.rank}.safetensors")
    stopped(STOPPED, out / "stopped")
    run(STOPPED, out / "stopped", resume=True)
    with pytest.raises(TrainingError, match="15 images a step; expected a multiple of 2: 2 processes"):
        train(tiny.network(), tiny.recipe(batch_size=15), tiny.blobs(), out / "odd")
    command(out, workers)


def command(out: Path, workers: Workers) -> None:
    """Set the command line that torchrun passes to every process."""
    if workers.is_first:
        ibpc.compile(SPEC).save(out / "net")
    workers.wait()
    sys.argv = f"ibpc train {out / 'net'} --eps 0.05 --epochs 1 --device cpu -o {out / 'command'}".split()
    with suppress(SystemExit):
        cli.main()


def threads() -> list[str]:
    """Return the names of this process's threads, or none if the system does not list them."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined(torch.device("cpu")) as team:
        main(folder, team)
    (folder / f"threads {team.rank}").write_text("\n".join(threads()))
