"""Sweeps: ranges, the front, interruptions, failures, several processes, and folders with other content."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ibpc import api
from ibpc.errors import ArtifactError, IbpcError, SpecError, TrainingError, UsageError
from ibpc.training import sweep as sweeps
from ibpc.training.ranges import Choices, Numbers, check_ranges, load_ranges, parse_range
from ibpc.training.recipe import Recipe
from ibpc.training.sweep import Outcome, Sweep, _Worker
from tests import ROOT

pytest.importorskip("optuna")
SPEC = ROOT / "specs" / "digits_small.json"
RECIPE = Recipe.default("ibp", 0.05, "digits").with_overrides({"epochs": 1, "schedule.ramp": 0.5, "batch_size": 256})
RATE = parse_range("optimizer.learning_rate=1e-4..1e-2log")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "compiled"
    api.compile(SPEC).save(path)
    return path


@pytest.fixture
def sweep(artifact, tmp_path):
    """Make a sweep of the learning rate, or of something else."""

    def make(name: str = "sweep", ranges=(RATE,), recipe: Recipe = RECIPE, seed: int = 0) -> Sweep:
        return Sweep(artifact, recipe, tuple(ranges), "digits", tmp_path / name, seed)

    return make


def test_trials_may_be_compared_by_tighter_bounds(artifact, tmp_path):
    recipe = Recipe.default("standard", 0.02, "digits").with_overrides({"epochs": 6, "batch_size": 64})
    judge = api.Judge("crown", images=40)
    plain = Sweep(artifact, recipe, (RATE,), "digits", tmp_path / "plain")
    judged = replace(plain, out=tmp_path / "judged", judge=judge)
    (outcome,), (by_crown,) = plain.run(1), judged.run(1)
    assert by_crown.nominal == outcome.nominal
    trained = api.load(by_crown.folder)
    _, held = api.load_dataset("digits").hold_out(None, 0)
    assert by_crown.certified == judge.certified(trained, held, recipe.eps)
    assert api.Judge("ibp", images=40).certified(trained, held, recipe.eps) < by_crown.certified
    with pytest.raises(TrainingError, match="a sweep that differs in: judge"):
        replace(judged, judge=api.Judge("crown", images=41)).run(1)


def test_an_unknown_judge_is_refused():
    with pytest.raises(UsageError, match="crown"):
        api.Judge("crwn")


def reached(outcomes: tuple[Outcome, ...]) -> list[tuple]:
    return [(found.number, found.values, found.nominal, found.certified) for found in outcomes]


# ── ranges ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schedule.kappa_end=0..1", Numbers("schedule.kappa_end", 0, 1)),
        ("optimizer.learning_rate=1e-4..1e-2log", Numbers("optimizer.learning_rate", 1e-4, 1e-2, True)),
        ("optimizer.learning_rate=.5..2. log", Numbers("optimizer.learning_rate", 0.5, 2.0, True)),
        ("method=ibp,fast-ibp", Choices("method", ("ibp", "fast-ibp"))),
        ("clip_norm=null,8", Choices("clip_norm", (None, 8))),
    ],
)
def test_ranges_are_read(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["", "a", "=1..2", "a=", "a=1..", "a=1..2..3", "a=x..y", "a=1..2lag", "a=２..３"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(UsageError, match="--range"):
        parse_range(text)


def test_a_file_of_ranges(tmp_path):
    path = tmp_path / "ranges.json"
    data = {"schedule.kappa_end": {"low": 0.1, "high": 0.9}, "method": {"choices": ["ibp", "sabr"]}}
    path.write_text(json.dumps(data))
    assert load_ranges(path) == (Numbers("schedule.kappa_end", 0.1, 0.9), Choices("method", ("ibp", "sabr")))
    for bad in (
        "[]",
        "{}",
        '{"a": {"low": 1}}',
        '{"a": {"choices": []}}',
        '{"a": {"low": 1, "high": 2, "lag": 1}}',
        "{",
    ):
        path.write_text(bad)
        with pytest.raises(SpecError, match=r"ranges\.json"):
            load_ranges(path)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([], "nothing to vary"),
        (["eps=0..1"], "compared by"),
        (["validation.images=1..2"], "compared by"),
        (["schedule.kappa_end=0..2"], "schedule.kappa_end"),
        (["schedule.kapa_end=0..1"], "did you mean 'schedule.kappa_end'"),
        (["schedule.kappa_end=1..0"], "a rising interval"),
        (["optimizer.learning_rate=0..1log"], "above 0 with log"),
        (["method=ibp,magic"], "magic"),
        (["batch_size=8..16", "batch_size=8..16"], "given twice"),
        (["batch_size=8.5..16"], "batch_size"),
    ],
)
def test_impossible_ranges_are_refused_before_anything_runs(ranges, words):
    with pytest.raises(IbpcError, match=words):
        check_ranges([parse_range(text) for text in ranges], RECIPE)


def test_whole_values_stay_whole():
    class Taken:
        def suggest_int(self, name, low, high, *, log):
            return ("int", name, low, high, log)

        def suggest_float(self, name, low, high, *, log):
            return ("float", name, low, high, log)

    assert parse_range("batch_size=8..64log").suggest(Taken()) == ("int", "batch_size", 8, 64, True)
    assert parse_range("schedule.kappa_end=0..1").suggest(Taken()) == ("float", "schedule.kappa_end", 0, 1, False)


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────────
def is_beaten(found: Outcome, outcomes: tuple[Outcome, ...]) -> bool:
    return any(
        other.nominal >= found.nominal
        and other.certified >= found.certified
        and (other.nominal, other.certified) != (found.nominal, found.certified)
        for other in outcomes
    )


def test_a_sweep_that_was_stopped_ends_as_one_that_was_not(sweep):
    whole, part = sweep("whole").run(2), sweep("part")
    worker = _Worker(part)
    left = worker._next(1)
    assert left is not None
    worker._give_up(left.number)  # as if its process had been killed
    seen: list[Outcome] = []
    assert reached(part.run(2, progress=seen.append)) == reached(whole)
    assert [found.number for found in seen] == [0, 1]
    assert len({found.values["optimizer.learning_rate"] for found in whole}) == 2
    assert all((found.folder / "training" / "receipt.json").is_file() for found in whole)
    assert all(found.on_front != is_beaten(found, whole) for found in whole)


def test_trials_of_another_method_have_what_makes_it_one(sweep):
    outcomes = replace(sweep(ranges=[parse_range("method=ibp,fast-ibp")], seed=1), overrides={"epochs": 1}).run(4)
    strengths = {
        found.values["method"]: json.loads((found.folder / "training" / "recipe.json").read_text())["regularization"]
        for found in outcomes
    }
    assert {name: found["tightness"] for name, found in strengths.items()} == {"ibp": 0, "fast-ibp": 0.5}


def test_a_trial_that_someone_works_on_is_left_alone(sweep):
    plan = sweep()
    other = _Worker(plan)
    taken = other._next(1)
    assert taken is not None
    assert plan.run(1) == ()
    other._give_up(taken.number)


def test_a_trial_that_diverges_is_recorded(sweep):
    rates = parse_range("optimizer.learning_rate=1e30,1e-3")
    outcomes = sweep(ranges=[rates], seed=1).run(3)
    failed = [found for found in outcomes if found.nominal is None]
    assert failed and len(failed) < 3
    assert all(found.values["optimizer.learning_rate"] == 1e30 and "finite" in found.problem for found in failed)
    assert not any(found.on_front for found in failed)


def test_processes_share_a_sweep(sweep):
    seen: list[Outcome] = []
    outcomes = sweep().run(2, workers=2, progress=seen.append)
    assert [found.number for found in outcomes] == [0, 1]
    assert all(found.nominal is not None for found in outcomes)


# ── in the way ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_sweep_that_is_stopped_ends_its_helpers_first(sweep, monkeypatch):
    """They would finish all trials that are left."""
    told = []

    class Helper:
        exitcode = 0

        def __init__(self, **_: object) -> None:
            for name in ("start", "terminate", "join"):
                setattr(self, name, partial(told.append, name))

    class Context:
        Process = Helper

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps.multiprocessing, "get_context", lambda _: Context)
    monkeypatch.setattr(sweeps._Worker, "work", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep().run(2, workers=2)
    assert told == ["start", "terminate", "join"]


def test_another_sweep_is_not_gone_on_with(sweep):
    _Worker(sweep())
    with pytest.raises(TrainingError, match="differs in: ranges, seed"):
        sweep(ranges=[parse_range("schedule.kappa_end=0..1")], seed=3).run(1)


def test_a_sweep_of_other_weights_is_not_gone_on_with(sweep, artifact, tmp_path):
    own = replace(sweep(), artifact=Path(shutil.copytree(artifact, tmp_path / "own")))
    _Worker(own)
    network = api.open_network(own.artifact)
    network.assign({key: value + 1.0 for key, value in network.snapshot().state.items() if key.endswith("bias")})
    network.save(own.artifact)
    with pytest.raises(TrainingError, match="differs in: network"):
        own.run(1)


def test_a_folder_of_something_else_is_left_alone(sweep):
    plan = sweep()
    plan.out.mkdir()
    (plan.out / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="holds other files"):
        plan.run(1)
    assert [path.name for path in plan.out.iterdir()] == ["mine.txt"]


def test_a_damaged_log_is_one_clear_error(sweep):
    plan = sweep()
    _Worker(plan)
    (plan.out / "study.journal").write_text("{}\n{]\n" * 3)
    with pytest.raises(TrainingError, match="study.journal"):
        plan.run(1)


def test_a_log_that_was_cut_off_goes_on(sweep):
    """A killed process or a full disk leaves half a line, to which the next line must not be appended."""
    plan = sweep()
    plan.run(1)
    path = plan.out / "study.journal"
    path.write_bytes(path.read_bytes() + b'{"op_code":5,"work')
    assert [found.number for found in plan.run(2)] == [0, 1]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("line", ["{]", '{"op_code":99,"worker_id":"x"}', "[" * 100_000, "null"])
def test_a_damaged_last_line_is_one_clear_error(sweep, line):
    plan = sweep()
    _Worker(plan)
    with (plan.out / "study.journal").open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(TrainingError, match="study.journal: damaged"):
        plan.run(1)


@pytest.mark.parametrize("name", [".lock", "sweep.json", "study.journal"])
def test_a_pipe_in_place_of_a_file_is_one_clear_error(sweep, name):
    plan = sweep()
    _Worker(plan)
    (plan.out / name).unlink()
    os.mkfifo(plan.out / name)
    with pytest.raises(TrainingError, match=f"{name}: not a file"):
        plan.run(1)


def test_a_full_disk_stops_the_sweep_and_fails_no_trial(sweep, monkeypatch):
    plan = sweep()

    def full(*_: object, **__: object) -> None:
        raise ArtifactError.at("trial", "cannot be written") from OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ibpc.training.sweep.train", full)
        with pytest.raises(TrainingError, match="trial 0: .*goes on with this trial"):
            plan.run(2)
    (outcome,) = plan.run(1)
    assert outcome.number == 0 and outcome.nominal is not None


def test_a_trial_that_was_killed_before_its_first_checkpoint_begins_again(sweep):
    plan = sweep()
    left = (worker := _Worker(plan))._next(1)
    worker._give_up(left.number)
    (plan.out / "trial-0000/training").mkdir(parents=True)
    (plan.out / "trial-0000/training/recipe.json").write_text("{")
    (outcome,) = plan.run(1)
    assert outcome.problem == "" and outcome.nominal is not None


def test_trials_need_held_out_images(sweep):
    with pytest.raises(UsageError, match="held-out"):
        sweep(recipe=RECIPE.with_overrides({"validation.images": 0})).run(1)


def test_without_optuna_it_says_so(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="optuna is not installed"):
        sweep().run(1)
