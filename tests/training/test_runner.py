"""Runs: what they write, that they resume exactly after being killed, and how they stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ibpc
from ibpc.artifact import is_trained
from ibpc.data import Dataset, Split
from ibpc.errors import ArtifactError, DataError, TrainingError, UsageError
from ibpc.frontends.initialization import initialize
from ibpc.locking import take
from ibpc.network import Network
from ibpc.report import terminal
from ibpc.training.checkpoint import Checkpoint
from ibpc.training.graphs import TrainingGraphs
from ibpc.training.recipe import Recipe
from ibpc.training.records import EpochRecord, command
from ibpc.training.reporting import Silent
from ibpc.training.runner import train
from ibpc.training.schedules import Moment, Timeline
from ibpc.training.trainer import Trainer
from tests.training import tiny

# BatchNorm has running statistics, Dropout and the spectral norm draw from torch's own generator, and the crops from
# the run's: all of it has to come back.
EVERYTHING: tuple[dict[str, Any], ...] = (
    {"type": "Conv2d", "out_channels": 4, "kernel_size": 3, "norm": "spectral"},
    {"type": "BatchNorm2d"},
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "Dropout", "p": 0.2},
    {"type": "Linear", "out_features": 3},
)
EVERY_RECIPE: dict[str, Any] = {"augmentation": "crop-flip", "regularization__l1": 1e-4, "epochs": 3}


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}


class Stops(Silent):
    """A reporter that raises in the middle of a step's report."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, moment: Moment) -> None:
        if moment.step == self.step:
            raise KeyboardInterrupt


class Listens(Silent):
    """A reporter that remembers its calls."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.steps: list[Moment] = []
        self.epochs: list[EpochRecord] = []

    def started(self, timeline: Timeline, epoch: int) -> None:
        assert timeline.total == timeline.epochs * timeline.per_epoch
        self.begun.append(epoch)

    def stepped(self, moment: Moment) -> None:
        self.steps.append(moment)

    def finished_epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


# ── what a run does ─────────────────────────────────────────────────────────────────────────────────────────────
def test_training_teaches_and_certifies(tmp_path):
    net, data = tiny.network(), tiny.blobs(300)
    run = train(net, tiny.recipe(epochs=12, validation__images=60), data, tmp_path / "run")
    assert run.validation is not None
    assert run.validation.nominal > 0.95
    assert run.validation.certified > 0.9
    test = TrainingGraphs(Network.load(tmp_path / "run")).accuracy(data.test, 0.02, batch=10)
    assert test.certified > 0.9
    assert run.records[0].losses["loss"] > run.records[-1].losses["loss"]


def test_the_artifact_holds_the_weights_that_were_validated(tmp_path):
    net, data, recipe = tiny.network(EVERYTHING), tiny.blobs(), tiny.recipe(**EVERY_RECIPE)
    run = train(net, recipe, data, tmp_path / "run")
    _, held = data.hold_out(recipe.validation.images, recipe.validation.seed)
    loaded = Network.load(tmp_path / "run")
    assert TrainingGraphs(loaded).accuracy(held, recipe.eps, batch=5) == run.validation
    assert equal(state_of(tmp_path / "run"), net.snapshot().state)
    assert loaded.graph.hints["weights"] == "trained"


def test_metrics_and_recipe_and_receipt(tmp_path):
    recipe = tiny.recipe(validation__every=3)
    listener = Listens()
    run = train(tiny.network(), recipe, tiny.blobs(), tmp_path / "run", seed=5, reporter=listener)
    written = lines(tmp_path / "run")
    assert [line["epoch"] for line in written] == [1, 2, 3, 4]
    assert [line["step"] for line in written] == [5, 10, 15, 20]
    assert [line["validation"] is None for line in written] == [True, True, False, False]
    assert [EpochRecord.from_json(line) for line in written] == list(run.records) == listener.epochs
    assert [moment.step for moment in listener.steps] == list(range(20))
    for line, moment in zip(written, listener.steps[4::5], strict=True):
        assert (line["eps"], line["kappa"], line["learning_rate"]) == (moment.eps, moment.kappa, moment.learning_rate)
        mean = line["losses"]
        assert mean.keys() == {"loss", "nominal_loss", "robust_loss"}
    assert json.loads((tmp_path / "run/training/recipe.json").read_text()) == recipe.to_json()
    receipt = json.loads((tmp_path / "run/training/receipt.json").read_text())
    assert receipt == run.receipt
    assert receipt["seed"] == 5
    assert receipt["data"] == {"name": "blobs", "sha256": "0" * 64, "training_images": 88, "validation_images": 12}
    assert receipt["validation"] == asdict(run.records[-1].validation)
    assert receipt["hardware"]["threads"] == torch.get_num_threads()
    assert {"torch", "python", "numpy"} <= receipt["versions"].keys()
    assert receipt["parameters"] == 16 * 12 + 12 + 12 * 3 + 3


def test_accuracies_of_an_epoch_are_those_of_the_images_as_they_were_used(tmp_path):
    """With a negligible learning rate, the figures of an epoch are those of the training split."""
    data = tiny.blobs(96)
    recipe = tiny.recipe(epochs=1, schedule__ramp=0, optimizer__learning_rate=1e-30, validation__images=0)
    net = tiny.network()
    graphs = TrainingGraphs(net)
    run = train(net, recipe, data, tmp_path / "run")
    expected = graphs.accuracy(data.train, recipe.eps, batch=96)
    assert run.records[0].nominal_accuracy == pytest.approx(expected.nominal)
    assert run.records[0].certified_accuracy == pytest.approx(expected.certified)
    assert run.validation is None


def test_standard_training_has_no_certified_stream(tmp_path):
    recipe = tiny.recipe(method="standard", epochs=2)
    run = train(tiny.network(), recipe, tiny.blobs(), tmp_path / "run")
    assert run.records[0].certified_accuracy is None
    assert run.records[0].losses.keys() == {"loss"}


def test_l1_is_added_to_the_loss_over_weights_alone(tmp_path):
    states = {}
    for strength in (0.0, 0.1):
        net = tiny.network()
        recipe = tiny.recipe(regularization__l1=strength, epochs=6)
        train(net, recipe, tiny.blobs(), tmp_path / f"{strength}")
        states[strength] = net.snapshot().state
    norms = {s: sum(v.abs().sum() for k, v in state.items() if k.endswith("weight")) for s, state in states.items()}
    assert norms[0.1] < 0.7 * norms[0.0]


def test_the_loss_that_is_written_is_the_one_that_is_descended(tmp_path):
    """The penalty is that of the weights before the only step."""
    net = tiny.network()
    weights = sum(value.abs().sum().item() for value in net.snapshot().state.values() if value.dim() > 1)
    run = train(net, tiny.recipe(regularization__l1=0.1, epochs=1, batch_size=88), tiny.blobs(), tmp_path / "run")
    losses = run.records[0].losses
    assert losses["l1_loss"] == pytest.approx(0.1 * weights, rel=1e-5)
    kappa = run.records[0].kappa
    fitted = kappa * losses["nominal_loss"] + (1 - kappa) * losses["robust_loss"]
    assert losses["loss"] == pytest.approx(fitted + losses["l1_loss"], rel=1e-4)


def test_training_clips_boxes_as_certification_does():
    """A network without a stated input range, such as a module or an ONNX file, takes pixels in [0, 1]."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    net = ibpc.compile(module, torch.zeros(1, 1, 4, 4))
    assert net.input_range is None
    box = TrainingGraphs(net).ball(torch.tensor([0.0, 0.05, 0.5, 1.0]), 0.1)
    assert torch.equal(box.lower, torch.tensor([0.0, 0.0, 0.4, 0.9]))
    assert torch.allclose(box.upper, torch.tensor([0.1, 0.15, 0.6, 1.0]))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny.network(), tiny.recipe(epochs=1), tiny.blobs(), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"network": nn.Linear(2, 2)}, "network: a Linear"),
        ({"recipe": {"method": "ibp"}}, "recipe: a dict"),
        ({"data": (1, 2)}, "data: a tuple"),
        ({"device": "gpu"}, "device"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": 1.5}, "seed: found 1.5"),
    ],
)
def test_what_is_no_network_recipe_data_or_device_is_refused(tmp_path, change, found):
    given = {"network": tiny.network(), "recipe": tiny.recipe(), "data": tiny.blobs(), "out": tmp_path / "run"}
    with pytest.raises(UsageError, match=found):
        train(**{**given, **change})
    assert not (tmp_path / "run").exists()


def test_the_gradient_is_clipped(tmp_path):
    """One step of plain descent moves the weights by exactly the learning rate times the clipped norm."""
    net = tiny.network()
    before = net.snapshot().state
    changes = {"optimizer__name": "sgd", "optimizer__momentum": 0, "optimizer__learning_rate": 1.0, "clip_norm": 1e-3}
    train(net, tiny.recipe(epochs=1, batch_size=88, **changes), tiny.blobs(), tmp_path / "run")
    after = net.snapshot().state
    moved = torch.stack([(after[key] - before[key]).norm() for key in before]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimizer_resumes(tmp_path, name):
    recipe = tiny.recipe(optimizer__name=name, optimizer__weight_decay=1e-3, epochs=2)
    train(tiny.network(), recipe, tiny.blobs(), tmp_path / "whole")
    with pytest.raises(TrainingError):
        train(tiny.network(), recipe, tiny.blobs(), tmp_path / "parts", reporter=Stops(7))
    train(tiny.network(), recipe, tiny.blobs(), tmp_path / "parts", resume=True)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


# ── seeds and fresh weights ─────────────────────────────────────────────────────────────────────────────────────
def test_the_seed_decides(tmp_path):
    states = []
    for number, seed in enumerate((1, 1, 2)):
        train(tiny.network(), tiny.recipe(epochs=1), tiny.blobs(), tmp_path / str(number), seed=seed)
        states.append(state_of(tmp_path / str(number)))
    assert equal(states[0], states[1])
    assert not equal(states[0], states[2])


@pytest.mark.parametrize(
    ("hint", "initialization", "scheme"),
    [
        ("fresh", "auto", "ibp"),
        (None, "auto", None),
        ("trained", "auto", None),
        ("fresh", "keep", None),
        ("trained", "orthogonal", "orthogonal"),
    ],
)
def test_fresh_weights_where_the_recipe_says_so(tmp_path, hint, initialization, scheme):
    net = tiny.network()
    if hint:
        net.graph.hints["weights"] = hint
    else:
        net.graph.hints.pop("weights", None)
    start = initialize(net.graph, scheme, 9).state if scheme else net.snapshot().state
    recipe = tiny.recipe(epochs=1, optimizer__learning_rate=1e-30, initialization=initialization)
    train(net, recipe, tiny.blobs(), tmp_path / "run", seed=9)
    for key, value in net.snapshot().state.items():
        torch.testing.assert_close(value, start[key], rtol=0, atol=1e-20)


# ── killed and resumed ──────────────────────────────────────────────────────────────────────────────────────────
KILLED = """
import os, signal, sys
import torch
from ibpc.training.reporting import Silent
from ibpc.report import terminal
from ibpc.training.runner import train
from tests.training import test_runner, tiny

class Kills(Silent):
    def stepped(self, moment):
        if moment.step == 12:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(int(sys.argv[2]))
recipe = tiny.recipe(**test_runner.EVERY_RECIPE)
train(tiny.network(test_runner.EVERYTHING), recipe, tiny.blobs(), sys.argv[1], seed=7, reporter=Kills())
"""


def test_a_killed_run_ends_with_the_very_same_weights(tmp_path):
    """Kill -9 in the middle of the third epoch of five steps, resume, and compare bit for bit."""
    recipe = tiny.recipe(**EVERY_RECIPE)
    whole = train(tiny.network(EVERYTHING), recipe, tiny.blobs(), tmp_path / "whole", seed=7)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(torch.get_num_threads())]
    killed = subprocess.run(arguments, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [line["epoch"] for line in lines(tmp_path / "killed")] == [1, 2]
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    listener = Listens()
    resumed = train(
        tiny.network(EVERYTHING), recipe, tiny.blobs(), tmp_path / "killed", seed=7, resume=True, reporter=listener
    )
    assert listener.begun == [2]
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "killed"))
    assert [without_times(asdict(record)) for record in resumed.records] == [
        without_times(asdict(record)) for record in whole.records
    ]
    assert [without_times(line) for line in lines(tmp_path / "killed")] == [
        without_times(line) for line in lines(tmp_path / "whole")
    ]


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    recipe = tiny.recipe(epochs=3)
    with pytest.raises(TrainingError):
        train(tiny.network(), recipe, tiny.blobs(), tmp_path / "run", reporter=Stops(7))
    path = tmp_path / "run/training/metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"epoch": 2, "never": "kept"}\n{"epoch": 3, "cut sh\xc3')
    train(tiny.network(), recipe, tiny.blobs(), tmp_path / "run", resume=True)
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3]
    assert "never" not in path.read_text()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    recipe = tiny.recipe()
    first = train(tiny.network(), recipe, tiny.blobs(), tmp_path / "run")
    before = state_of(tmp_path / "run")
    again = train(Network.load(tmp_path / "run"), recipe, tiny.blobs(), tmp_path / "run", resume=True)
    assert equal(before, state_of(tmp_path / "run"))
    assert again.records == first.records


def test_resume_without_a_run_begins_one(tmp_path):
    train(tiny.network(), tiny.recipe(epochs=1), tiny.blobs(), tmp_path / "run", resume=True)
    assert len(lines(tmp_path / "run")) == 1


def test_training_an_artifact_in_its_own_folder_keeps_the_run(tmp_path):
    tiny.network().save(tmp_path / "compiled")
    net = Network.load(tmp_path / "compiled")
    train(net, tiny.recipe(), tiny.blobs(), tmp_path / "compiled")
    assert equal(state_of(tmp_path / "compiled"), net.snapshot().state)
    assert len(lines(tmp_path / "compiled")) == 4


def interrupted(folder: Path) -> None:
    with pytest.raises(TrainingError):
        train(tiny.network(), tiny.recipe(), tiny.blobs(), folder, reporter=Stops(7))


def resume(folder: Path, **changes: Any) -> None:
    arguments: dict[str, Any] = {"network": tiny.network(), "recipe": tiny.recipe(), "data": tiny.blobs(), **changes}
    train(**arguments, out=folder, resume=True)


def test_what_differs_from_the_run_is_named(tmp_path):
    interrupted(tmp_path)
    other_data = replace(tiny.blobs(), sha256="1" * 64)
    wider = tiny.network((*tiny.PERCEPTRON[:1], {"type": "Linear", "out_features": 9}, *tiny.PERCEPTRON[2:]))
    changed = tiny.recipe(schedule__ramp=0.25, clip_norm=None)
    with pytest.raises(TrainingError) as error:
        resume(tmp_path, recipe=changed, seed=3, data=other_data, network=wider)
    found = [str(problem) for problem in error.value.problems]
    assert len(found) == 5
    for words in ("recipe.schedule.ramp = 0.25; expected 0.5", "recipe.clip_norm = null; expected 8", "seed 3"):
        assert any(words in line for line in found), words
    resume(tmp_path)


def test_a_run_from_before_a_value_was_added_goes_on(tmp_path):
    """Values missing from a stored recipe take their defaults."""
    interrupted(tmp_path)
    path = tmp_path / "training/checkpoint.safetensors"
    stored = Checkpoint.read(path)
    older = {key: value for key, value in stored.identity.recipe.items() if key != "accumulate"}
    replace(stored, identity=replace(stored.identity, recipe=older)).write(path)
    assert "accumulate" not in path.read_bytes().decode("latin-1")
    resume(tmp_path)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 4
    return bytes(changed)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    interrupted(tmp_path)
    path = tmp_path / "training/checkpoint.safetensors"
    whole = path.read_bytes()
    cut = [whole[:length] for length in (0, 7, len(whole) // 2, len(whole) - 1)]
    header = whole.index(b"epoch") + 10
    for damaged in (*cut, *(flipped(whole, at) for at in (0, header, len(whole) // 2, len(whole) - 1))):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"checkpoint\.safetensors: unreadable") as error:
            resume(tmp_path)
        assert len(error.value.problems) == 1
    path.write_bytes(whole)
    resume(tmp_path)


def test_a_checkpoint_that_is_a_pipe_or_a_pickle_is_one_clear_error(tmp_path):
    interrupted(tmp_path)
    path = tmp_path / "training/checkpoint.safetensors"
    path.write_bytes(b"\x80\x04cos\nmkdir\n(S'" + os.fsencode(tmp_path / "ran") + b"'\ntR.")
    with pytest.raises(TrainingError, match="unreadable"):
        resume(tmp_path)
    assert not (tmp_path / "ran").exists()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TrainingError, match="unreadable: not a regular file"):
        resume(tmp_path)


ODD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no optimizer": (
        lambda found: drop(found, "optimizer."),
        "no state of the optimizer; expected that after 1 epoch",
    ),
    "half an optimizer": (lambda found: drop(found, "optimizer.", "exp_avg"), "linear1.weight.exp_avg: none; expected"),
    "another shape": (
        lambda found: found.update({"optimizer.linear1.weight.exp_avg": torch.zeros(3)}),
        r"exp_avg: float32 of shape \(3,\); expected float32 of shape \(12, 16\)",
    ),
    "a step before the first": (
        lambda found: found.update({"optimizer.linear1.weight.step": torch.tensor(-5.0)}),
        "step: found -5.0; expected a number of steps",
    ),
    "an unknown parameter": (lambda found: found.update({"optimizer.new.exp_avg": torch.zeros(3)}), "new.exp_avg"),
    "an unknown tensor": (lambda found: found.update({"new": torch.zeros(3)}), "new: an unknown tensor"),
    "integers": (
        lambda found: found.update({"model.linear1.weight": found["model.linear1.weight"].int()}),
        "model.linear1.weight: int32",
    ),
    "no weight": (lambda found: drop(found, "model.linear1.weight"), "model.linear1.weight: none"),
    "random floats": (lambda found: found.update({"random.run": torch.zeros(5056)}), "random.run: float32"),
    "no random states": (lambda found: drop(found, "random."), "random.cpu: none"),
    "a part of a mean": (
        lambda found: found.update({"average.linear1.weight": torch.zeros(12, 16)}),
        "average.linear1.bias: none",
    ),
}


def drop(found: dict[str, torch.Tensor], beginning: str, end: str = "") -> None:
    for name in [name for name in found if name.startswith(beginning) and name.endswith(end)]:
        del found[name]


@pytest.mark.parametrize("name", ODD_TENSORS)
def test_a_checkpoint_with_odd_tensors_is_refused(tmp_path, name):
    """Nothing may be reset silently, and no later step may fail."""
    change, words = ODD_TENSORS[name]
    interrupted(tmp_path)
    path = tmp_path / "training/checkpoint.safetensors"
    stored = Checkpoint.read(path)
    tensors = dict(stored.tensors)
    change(tensors)
    replace(stored, tensors=tensors).write(path)
    with pytest.raises(TrainingError, match=words):
        resume(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 10**30}, "epochs; expected at most 4"),
        ({"epoch": -1}, "epoch: found -1; expected an integer"),
        ({"epoch": float("inf")}, "epoch: found Infinity"),
        ({"epoch": 1.0}, r"epoch: found 1.0"),
        ({"seconds": float("nan")}, "nan seconds"),
        ({"seconds": None}, "seconds: found null"),
    ],
)
def test_a_checkpoint_with_an_odd_header_is_refused(tmp_path, change, words):
    interrupted(tmp_path)
    path = tmp_path / "training/checkpoint.safetensors"
    replace(Checkpoint.read(path), **change).write(path)
    with pytest.raises(TrainingError, match=words):
        resume(tmp_path)


def test_a_recipe_that_was_lost_is_written_again(tmp_path):
    """A report on the run needs it."""
    interrupted(tmp_path)
    (tmp_path / "training/recipe.json").write_text("{")
    resume(tmp_path)
    assert Recipe.load(tmp_path / "training/recipe.json") == tiny.recipe()


def test_a_run_that_another_process_works_on_is_left_alone(tmp_path):
    """Two processes would mix their lines of metrics and overwrite each other's checkpoints."""
    interrupted(tmp_path)
    held = take(tmp_path / "training/.lock")
    assert held is not None
    with held, pytest.raises(TrainingError, match="another process trains there"):
        resume(tmp_path)
    resume(tmp_path)
    assert not (tmp_path / "training/.lock").exists()


def test_what_a_kill_left_half_written_is_swept_away(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "training/.checkpoint.safetensors.123.partial").write_bytes(b"half")
    resume(tmp_path)
    assert not list((tmp_path / "training").glob(".*"))


def test_missing_metrics_are_one_clear_error(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "training/metrics.jsonl").unlink()
    with pytest.raises(TrainingError, match="0 of the 1 epochs"):
        resume(tmp_path)
    (tmp_path / "training/metrics.jsonl").write_text("[" * 100_000)
    with pytest.raises(TrainingError, match="damaged: maximum recursion"):
        resume(tmp_path)
    (tmp_path / "training/metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "training/metrics.jsonl")
    with pytest.raises(TrainingError, match="damaged: not a regular file"):
        resume(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epoch", True), ("epoch", 1.0), ("step", "1"), ("eps", None), ("losses", {"loss": "0"}), ("losses", [1])]
    + [("seconds", True), ("certified_accuracy", "0.5"), ("validation", {"images": 1.5}), ("validation", [1])],
)
def test_metrics_of_the_wrong_type_are_damaged(tmp_path, key, value):
    interrupted(tmp_path)
    path = tmp_path / "training/metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    data = json.loads(first)
    changed = data["validation"] | value if isinstance(value, dict) and key == "validation" else value
    path.write_text("\n".join((json.dumps({**data, key: changed}), *rest, "")))
    with pytest.raises(TrainingError, match="damaged"):
        resume(tmp_path)


def test_no_file_of_a_run_is_a_pickle(tmp_path):
    train(tiny.network(), tiny.recipe(epochs=1), tiny.blobs(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run/training").iterdir()}
    assert names == {"recipe.json", "metrics.jsonl", "checkpoint.safetensors", "receipt.json"}


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_ctrl_c_says_how_to_go_on(tmp_path):
    with pytest.raises(
        TrainingError, match=r"interrupted in epoch 2 of 4; run it again with --resume: it goes on after epoch 1"
    ) as error:
        train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "run", reporter=Stops(7))
    assert isinstance(error.value.__cause__, KeyboardInterrupt)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_sigterm_is_ctrl_c(tmp_path):
    """Stopped in the third epoch, a run keeps the checkpoint of the second and resumes to the very same weights."""

    class Terminates(Silent):
        def stepped(self, moment: Moment) -> None:
            if moment.step == 12:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    recipe = tiny.recipe(epochs=3)
    with pytest.raises(
        TrainingError, match=r"interrupted in epoch 3 of 3; run it again with --resume: it goes on after epoch 2"
    ):
        train(tiny.network(), recipe, tiny.blobs(), tmp_path / "parts", reporter=Terminates())
    assert signal.getsignal(signal.SIGTERM) is before
    train(tiny.network(), recipe, tiny.blobs(), tmp_path / "parts", resume=True)
    train(tiny.network(), recipe, tiny.blobs(), tmp_path / "whole")
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_large_checkpoints_wait_and_a_run_goes_on_from_the_last_one(tmp_path, monkeypatch):
    """None is written after the first epochs, so a run that breaks in the third restarts. The last always is."""
    monkeypatch.setattr("ibpc.training.checkpoint._SMALL", 0)
    monkeypatch.setattr("ibpc.training.checkpoint._BYTES_A_SECOND", 1e-3)
    with pytest.raises(
        TrainingError, match=r"interrupted in epoch 3 of 4; run it again with --resume: it goes on after epoch 0"
    ):
        train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "parts", reporter=Stops(12))
    assert [line["epoch"] for line in lines(tmp_path / "parts")] == [1, 2]
    train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "parts", resume=True)
    assert Checkpoint.read(tmp_path / "parts/training/checkpoint.safetensors").epoch == 4
    assert [line["epoch"] for line in lines(tmp_path / "parts")] == [1, 2, 3, 4]
    train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "whole")
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_a_weight_that_breaks_later_stops_with_the_last_good_checkpoint(tmp_path):
    net = tiny.network()

    class Breaks(Silent):
        def stepped(self, moment: Moment) -> None:
            if moment.step == 12:
                next(net.parameters.parameters()).data[0] = float("nan")

    with pytest.raises(TrainingError, match=r"epoch 3 of 4: .*the weights after epoch 2 are in checkpoint"):
        train(net, tiny.recipe(), tiny.blobs(), tmp_path / "run", reporter=Breaks())
    stored = load_file(tmp_path / "run/training/checkpoint.safetensors")
    assert all(value.isfinite().all() for key, value in stored.items() if key.startswith("model."))
    train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "run", resume=True)
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    changes = {"optimizer__name": "sgd", "optimizer__learning_rate": 1e38, "clip_norm": None}
    with pytest.raises(TrainingError, match=r"epoch 1 of 4: .*no longer finite.*optimizer\.learning_rate") as error:
        train(tiny.network(), tiny.recipe(**changes), tiny.blobs(), tmp_path / "run")
    assert len(error.value.problems) == 1
    stored = load_file(tmp_path / "run/training/checkpoint.safetensors")
    assert all(value.isfinite().all() for key, value in stored.items() if key.startswith("model."))
    assert lines(tmp_path / "run") == []


def test_a_loss_without_bounds_is_divergence_while_it_is_finite(tmp_path):
    changes = {"optimizer__name": "sgd", "optimizer__learning_rate": 1e3, "clip_norm": None}
    with pytest.raises(TrainingError, match=r"the nominal loss is .*, that of a constant answer 1\.1; .*learning_rate"):
        train(tiny.network(), tiny.recipe(**changes), tiny.blobs(), tmp_path / "run")


def test_a_run_that_learned_nothing_says_so(tmp_path, capsys):
    still = tiny.recipe(epochs=1, optimizer__learning_rate=1e-12)
    for noise, told in ((0.1, tiny.recipe()), (100.0, still)):
        run = train(tiny.network(), told, tiny.blobs(noise=noise), tmp_path / str(noise))
        terminal.show_run(run, None)
        assert ("that of chance" in capsys.readouterr().out) == run.is_at_chance == (noise > 1)


@pytest.mark.parametrize(("method", "option"), [("ibp", ""), ("mtl-ibp", " --method crown")])
def test_the_next_command_bounds_as_the_method_is_meant(method, option, tmp_path, capsys):
    run = train(tiny.network(), tiny.recipe(epochs=1, method=method), tiny.blobs(), tmp_path / "run")
    terminal.show_run(run, "blobs")
    assert capsys.readouterr().out.replace("\n", "").endswith(f" --data blobs{option}")


def test_a_run_in_the_way_is_never_overwritten(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(TrainingError, match=r"a training run is there.*--resume"):
        train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path)


def test_another_trained_network_is_never_overwritten(tmp_path):
    """Not even one that a loop of one's own has trained, which has no run."""
    network = tiny.network()
    with torch.no_grad():
        next(network.parameters.parameters()).add_(0.5)
    network.save(tmp_path / "own")
    whole = (tmp_path / "own" / "weights.safetensors").read_bytes()
    for resume in (False, True):
        with pytest.raises(TrainingError, match="another trained network is there"):
            train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "own", resume=resume)
    assert (tmp_path / "own" / "weights.safetensors").read_bytes() == whole
    train(ibpc.load(tmp_path / "own"), tiny.recipe(), tiny.blobs(), tmp_path / "own")
    assert is_trained(tmp_path / "own")


def test_an_artifact_whose_first_epoch_failed_is_not_trained(tmp_path, monkeypatch):
    def fail(_: object) -> None:
        raise RuntimeError("broken")

    tiny.network().save(tmp_path)
    monkeypatch.setattr(Trainer, "run_epoch", fail)
    with pytest.raises(RuntimeError, match="broken"):
        train(ibpc.load(tmp_path), tiny.recipe(), tiny.blobs(), tmp_path)
    assert (tmp_path / "training").is_dir() and not is_trained(tmp_path)


def test_a_folder_that_cannot_be_written_stops_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    listener = Listens()
    with pytest.raises(ArtifactError, match="cannot be written"):
        train(tiny.network(), tiny.recipe(), tiny.blobs(), tmp_path / "file" / "run", reporter=listener)
    assert listener.steps == []


def test_data_that_do_not_fit_the_network(tmp_path):
    with pytest.raises(DataError, match=r"images of shape \(1, 5, 5\); expected \(1, 4, 4\)"):
        train(tiny.network(), tiny.recipe(), tiny.blobs(shape=(1, 5, 5)), tmp_path / "run")
    data = tiny.blobs()
    split = Split(data.train.images, data.train.labels % 2)
    with pytest.raises(TrainingError, match="2 classes; expected 3"):
        train(tiny.network(), tiny.recipe(), Dataset("two", split, split, 2, ""), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_all_of_them(tmp_path):
    run = train(tiny.network(), tiny.recipe(batch_size=1000), tiny.blobs(), tmp_path / "run")
    assert [record.step for record in run.records] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("program", "shown"), [("/home/me/bin/ibpc", "ibpc"), ("/lib/ibpc/__main__.py", "ibpc"), ("run.py", "run.py")]
)
def test_receipts_name_the_program_and_no_folder_of_ours(monkeypatch, program, shown):
    monkeypatch.setattr("sys.argv", [program, "train", "a b"])
    assert command() == f"{shown} train 'a b'"
