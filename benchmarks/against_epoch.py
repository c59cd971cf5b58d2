"""Epochs of training against CTRAIN 0.6.1, data and augmentation included: the same network and schedule, in turns.

    python benchmarks/against_epoch.py --ctrain PYTHON [--specs mnist_small cifar_small] [--threads 1 2] [--rounds 3]

The rival runs its own loader (`load_mnist`, `load_cifar10`: random crops and flips as it has them, normalization, two
worker processes) and its own loop (`ShiIBPModelWrapper`: the method of Shi et al. 2021) with its own defaults. Ours is
`ibpc.train` with the recipe `fast-ibp`, set to the same optimizer, clipping, L1 weight and regularizers, in silence.
Both train on the same images of NAME.npz, whole batches of them, without a validation split; a spec without
normalization gets that of the rival's loader. Rows: epochs while ε climbs, where both regularize boxes, and at full ε.

An epoch lasts from one to the next: loader processes of the rival and checkpoints of ours are in it. CPU seconds are
those of all threads and processes. PYTHON is the interpreter of an environment that has the rival, auto_LiRPA 0.7.1,
onnx2pytorch and what they import; the pin numpy<2 need not be kept. The rival's data sets are torchvision's classes
with images from NAME.npz instead of a download; nothing else of it is touched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from against_training import heads, module_of, read_spec, row
from contest import compete, perform, turns

DEFAULT_SPECS: Final = ["mnist_small", "cifar_small"]
RADII: Final = {"mnist": 0.1, "cifar10": 2 / 255}
WARM_UP: Final = 1
RAMP: Final = "climbing"
FULL: Final = "full"
OVERRIDES: Final = {
    "augmentation": "auto",
    "clip_norm": 10,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 5e-4,
    "learning_rate.shape": "constant",
    "schedule.warmup": 0,
    "schedule.shape": "smooth",
    "schedule.kappa_start": 0,
    "schedule.kappa_end": 0,
    "regularization.l1": 1e-6,
    "regularization.tightness": 0.5,
    "regularization.balance": 0.5,
    "validation.images": 0,
}


@dataclass(frozen=True)
class Task:
    """What all contestants of a row do: epochs over so many images, ε climbing for the first `ramp` of them."""

    spec: str
    epochs: int
    ramp: int
    batch: int
    images: int
    threads: int
    root: str

    @property
    def data(self) -> str:
        """The name of the data set."""
        return str(read_spec(self.spec)["dataset"])

    def drawn(self, total: int) -> Any:
        """Return the index of its images among so many, always the same ones."""
        return np.random.RandomState(0).permutation(total)[: self.images]


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────────
def our_epochs(task: Task) -> None:
    import ibpc
    from ibpc.training.records import EpochRecord
    from ibpc.training.reporting import Silent

    class InTurns(Silent):
        def __init__(self) -> None:
            self.turns = turns()

        def started(self, *_: object) -> None:
            next(self.turns)

        def finished_epoch(self, record: EpochRecord) -> None:
            print(record, file=sys.stderr)
            next(self.turns, None)

    dataset = ibpc.load_dataset(task.data, task.root)
    few = replace(dataset, train=dataset.train.take(torch.from_numpy(task.drawn(len(dataset.train)))))
    recipe = ibpc.Recipe.default("fast-ibp", RADII[task.data], task.data).with_overrides(
        {**OVERRIDES, "epochs": task.epochs, "batch_size": task.batch, "schedule.ramp": task.ramp / task.epochs}
    )
    with TemporaryDirectory() as folder:
        network = ibpc.compile(normalized_spec(task, Path(folder)))
        ibpc.train(network, recipe, few, Path(folder) / "run", reporter=InTurns())


def normalized_spec(task: Task, folder: Path) -> Path:
    """Write the spec, with the normalization of the rival's loader if it has none."""
    spec = read_spec(task.spec)
    if task.data == "mnist":
        spec["input"] = {"mean": [0.1307], "std": [0.3081], **spec["input"]}
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


# ── CTRAIN ──────────────────────────────────────────────────────────────────────────────────────────────────────
def rival_loader(task: Task) -> Any:
    """Return its loader of training batches."""
    from CTRAIN.data_loaders import data_loaders

    for kind in ("MNIST", "CIFAR10"):
        setattr(data_loaders.datasets, kind, stored(getattr(data_loaders.datasets, kind), task))
    load = getattr(data_loaders, f"load_{task.data}")
    return load(batch_size=task.batch, val_split=False, data_root=task.root)[0]


def stored(kind: type, task: Task) -> type:
    """Return a class of torchvision's with the task's images of NAME.npz, kept as that class keeps them."""
    from torchvision.datasets import VisionDataset

    class Stored(kind):  # type: ignore[misc]
        def __init__(self, root: str, train: bool = True, transform: Any = None, **_: object) -> None:
            VisionDataset.__init__(self, root, transform=transform)
            part = "train" if train else "test"
            with np.load(Path(root) / f"{task.data}.npz") as arrays:
                images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"].reshape(-1)
            index = task.drawn(len(labels))
            self.data = torch.from_numpy(images[index]) if task.data == "mnist" else images[index]
            self.targets = labels[index].tolist()

    return Stored


def rival_epochs(task: Task) -> None:
    from CTRAIN.model_wrappers import ShiIBPModelWrapper

    spec = read_spec(task.spec)
    loader = rival_loader(task)
    spec["input"].pop("mean", None)
    wrapper = ShiIBPModelWrapper(
        module_of(spec),
        spec["input"]["shape"],
        RADII[task.data],
        task.epochs,
        warm_up_epochs=0,
        ramp_up_epochs=task.ramp,
        device=torch.device("cpu"),
    )
    for epoch, _ in enumerate(turns()):
        wrapper.train_model(loader, start_epoch=epoch, end_epoch=epoch + 1)


def rival_loading(task: Task) -> None:
    """Do the rival's part of an epoch that makes batches, and nothing with them."""
    loader = rival_loader(task)
    perform(lambda: [len(labels) for _, labels in loader])


# ── taking part ──────────────────────────────────────────────────────────────────────────────────────────────────
ROLES: Final = {"ours": our_epochs, "CTRAIN": rival_epochs, "its loader": rival_loading}


def play(role: str, task: Task) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(task.threads)
    ROLES[role](task)


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────
def tasks(options: argparse.Namespace) -> Iterator[tuple[str, Task]]:
    """Yield the rows: where ε is, and what is done."""
    epochs = WARM_UP + options.rounds
    for threads in options.threads:
        for spec in options.specs:
            images = options.images // options.batch * options.batch
            for where, ramp in ((RAMP, epochs), (FULL, 1)):
                yield where, Task(spec, epochs, ramp, options.batch, images, threads, options.data_root)


def table(options: argparse.Namespace) -> None:
    heads(
        *("spec", "ε", "images", "threads", "CTRAIN, CPU s", "of it its loader", "ours, CPU s", "speed-up"),
        *("CTRAIN, s", "ours, s", "speed-up"),
    )
    for where, task in tasks(options):
        python = {"ours": sys.executable}
        commands = {
            role: [python.get(role, options.ctrain), __file__, "--play", role, json.dumps(asdict(task))]
            for role in ROLES
        }
        found = compete(commands, options.rounds, WARM_UP)
        ours, rival, loader = found["ours"], found["CTRAIN"], found["its loader"]
        cpu = (rival.cpu / 1e3, loader.cpu / 1e3, ours.cpu / 1e3, rival.cpu / ours.cpu)
        wall = (rival.wall / 1e3, ours.wall / 1e3, rival.wall / ours.wall)
        row(task.spec, where, task.images, task.threads, *cpu, *wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ctrain", default=sys.executable, help="interpreter with CTRAIN")
    parser.add_argument("--specs", nargs="+", default=DEFAULT_SPECS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000, help="training images; what fills no batch is left out")
    parser.add_argument("--data-root", default=str(Path("~/.cache/ibpc").expanduser()), help="where NAME.npz lie")
    parser.add_argument("--play", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        role, task = options.play
        play(role, Task(**json.loads(task)))
        return
    print(f"torch {torch.__version__}, batches of {options.batch}, medians of {options.rounds} rounds\n")
    table(options)


if __name__ == "__main__":
    main()
