"""Certifying a data set by a plan, killed, gone on with, and shared by processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import ibpc
from ibpc.cli import app
from ibpc.errors import PropertyError, UsageError
from ibpc.report import terminal
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.journal import Journal, remove_journals
from ibpc.verify.results import Example
from ibpc.verify.verdicts import Verdict
from tests.training.test_workers import torchrun

EPS = 0.03
LIMIT = 8
OPTIONS = {"method": "auto", "limit": LIMIT, "timeout": 6.0}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    """A perceptron that knows digits well but was not trained for boxes: intervals leave much open."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    split = ibpc.load_dataset("digits").train
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(module(split.floats()), split.labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("data") / "digits"
    ibpc.compile(module.eval(), torch.zeros(1, 1, 8, 8)).save(path)
    return path


@pytest.fixture(scope="module")
def whole(artifact) -> ibpc.Robustness:
    """What `auto` finds in one go."""
    return ibpc.certify(ibpc.load(artifact), "digits", EPS, **OPTIONS)


def test_only_images_that_were_tried_by_themselves_have_seconds(artifact, whole, tmp_path):
    quick = ibpc.certify(ibpc.load(artifact), "digits", EPS, limit=LIMIT)
    assert all(example.seconds is None for example in quick.examples)
    for before, after in zip(quick.examples, whole.examples, strict=True):
        assert (after.seconds is None) == (before.verdict is not Verdict.UNKNOWN)
        assert after.seconds is None or 0 < after.seconds < whole.seconds
    assert sum(example.seconds or 0.0 for example in whole.examples) < whole.seconds
    data = certified(artifact, tmp_path / "c.json", "--timeout", "6")
    assert ["seconds" in example for example in data["examples"]] == [
        example.seconds is not None for example in whole.examples
    ]


def test_the_seconds_of_a_search_are_shown(artifact, whole, capsys):
    alone = sorted(example.seconds for example in whole.examples if example.seconds is not None)
    data = ibpc.load_dataset("digits")
    terminal.show_robustness(artifact, ibpc.load(artifact), data, whole)
    shown = f"tried one by one: {len(alone)}, median {statistics.median(alone):.1f} s, at most {alone[-1]:.1f} s"
    assert alone and shown in capsys.readouterr().out
    terminal.show_robustness(artifact, ibpc.load(artifact), data, ibpc.certify(ibpc.load(artifact), data, EPS, limit=4))
    assert "one by one" not in capsys.readouterr().out


@pytest.mark.parametrize("limit", [0, -490])
def test_no_images_are_no_limit(artifact, limit):
    with pytest.raises(UsageError, match="limit"):
        ibpc.certify(ibpc.load(artifact), "digits", EPS, limit=limit)


def test_the_plan_goes_on_where_intervals_end(artifact, whole):
    quick = ibpc.certify(ibpc.load(artifact), "digits", EPS, limit=LIMIT)
    assert quick.method == "ibp"
    for before, after in zip(quick.examples, whole.examples, strict=True):
        assert (before.index, before.label, before.predicted) == (after.index, after.label, after.predicted)
        assert before.verdict in (Verdict.UNKNOWN, after.verdict)
        assert all(new >= old for old, new in zip(before.margin_lower, after.margin_lower, strict=True))
    methods = Counter(example.method for example in whole.examples if example.verdict is Verdict.VERIFIED)
    assert methods["ibp"] == sum(example.verdict is Verdict.VERIFIED for example in quick.examples) > 0
    assert whole.certified_accuracy > quick.certified_accuracy + 0.2
    assert whole.certified_accuracy <= whole.attack_accuracy <= whole.nominal_accuracy


def test_no_attack_leaves_what_was_verified(artifact, whole):
    network, data = ibpc.load(artifact), ibpc.load_dataset("digits").test
    generator = torch.Generator().manual_seed(0)
    for example in whole.examples:
        if example.verdict is Verdict.VERIFIED:
            noise = torch.rand(500, 1, 8, 8, generator=generator).round() * 2 - 1
            points = (data.floats()[example.index] + EPS * noise).clamp(0, 1)
            assert (network.nominal(points).argmax(1) == example.label).all()


@pytest.fixture(scope="module")
def certificate(artifact, whole, tmp_path_factory) -> Path:
    """The certificate of `whole`."""
    path = tmp_path_factory.mktemp("certificate") / "c.json"
    ibpc.write_verdicts(path, artifact, ibpc.load(artifact), ibpc.load_dataset("digits"), whole)
    return path


def repeated(data) -> None:
    """Take the one example that is certified as often as there are examples."""
    best = next(example for example in data["examples"] if example["verdict"] == "verified")
    data.update(examples=[best] * LIMIT, nominal_accuracy=1.0, attack_accuracy=1.0, certified_accuracy=1.0)


def each(**change):
    """Return what changes every example."""
    return lambda data: [example.update(change) for example in data["examples"]]


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (repeated, "images"),
        (lambda data: data["examples"].reverse(), "images"),
        (lambda data: data["examples"][0].update(label=data["examples"][0]["label"] + 1), "images"),
        (lambda data: data["examples"][0].update(margin_lower=[]), "images"),
        (each(margin_lower=[None]), "images"),
        (lambda data: data.update(nominal_accuracy=0.0), "nominal accuracy"),
        (each(predicted=9), "example 0"),
        (each(predicted=999), "images"),
        (lambda data: data.update(n=LIMIT + 1), "certified accuracy"),
        (lambda data: data.update(data_sha256=""), "data"),
    ],
)
def test_a_false_claim_on_a_data_set_fails_by_name(certificate, tmp_path, change, failing):
    data = json.loads(certificate.read_text("utf-8"))
    change(data)
    (tmp_path / "c.json").write_text(json.dumps(data), "utf-8")
    claims = ibpc.check(tmp_path / "c.json")
    assert failing in [claim.name for claim in claims if not claim.holds]


def test_a_certificate_of_a_data_set_is_confirmed_where_it_can_be(certificate):
    """What a search proved of an image keeps no proof: it alone is not confirmed."""
    failed = [claim for claim in ibpc.check(certificate) if not claim.holds]
    assert all("chose how to bound it" in claim.detail for claim in failed)


def test_an_unknown_plan_is_refused(artifact):
    with pytest.raises(UsageError, match="did you mean 'auto'"):
        ibpc.certify(ibpc.load(artifact), "digits", EPS, method="aut")


# ── killed, and gone on with ────────────────────────────────────────────────────────────────────────────────────
# Kills itself while it writes verdicts for the n-th time, in the middle of a line.
KILLED = """
import os, signal, sys
import ibpc
from ibpc.verify.journal import Journal
left = int(sys.argv[3])
append = Journal._append
def dying(self, journal, text):
    global left
    left -= 1
    if left < 0:
        with journal.open("ab") as file:
            file.write(text.encode()[: len(text) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, journal, text)
Journal._append = dying
from tests.verify.test_dataset import EPS, OPTIONS
ibpc.certify(ibpc.load(sys.argv[1]), "digits", EPS, report=sys.argv[2], **OPTIONS)
"""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_what_a_killed_process_wrote_is_not_done_again(artifact, whole, tmp_path, monkeypatch):
    report, journal = tmp_path / "report [1].json", tmp_path / "report [1].json.0.jsonl"
    written = []
    for writes in (3, 5):
        command = [sys.executable, "-c", KILLED, artifact, report, writes]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        written.append(lines(journal))
    assert len(written[0]) < len(written[1])
    assert written[1][: len(written[0]) - 1] == written[0][:-1]
    result = ibpc.certify(ibpc.load(artifact), "digits", EPS, report=report, **OPTIONS)
    assert without_times(result) == without_times(whole)
    assert lines(journal)[: len(written[1]) - 1] == written[1][:-1]
    assert len(lines(journal)) == LIMIT + 1
    again = ibpc.certify(ibpc.load(artifact), "digits", EPS, report=report, **OPTIONS)
    assert len(lines(journal)) == LIMIT + 1
    assert without_times(again) == without_times(whole)
    ibpc.write_verdicts(report, artifact, ibpc.load(artifact), ibpc.load_dataset("digits"), again)
    assert [path.name for path in tmp_path.iterdir()] == [report.name]


def without_times(result: ibpc.Robustness) -> dict:
    found = {key: value for key, value in result.to_json().items() if key != "seconds"}
    untimed = [{key: item for key, item in each.items() if key != "seconds"} for each in found["examples"]]
    return {**found, "examples": untimed}


@pytest.mark.parametrize("change", [{"eps": 0.02}, {"limit": 2}, {"timeout": 19.0}, {"method": "bab"}, {"seed": 1}])
def test_the_verdicts_of_another_job_are_refused(artifact, tmp_path, change):
    job = {"eps": EPS, **OPTIONS}
    Journal(tmp_path / "r.json", {"job": "another"})
    with pytest.raises(PropertyError, match="the verdicts of another job"):
        ibpc.certify(ibpc.load(artifact), "digits", report=tmp_path / "r.json", **job)
    (tmp_path / "r.json.0.jsonl").unlink()
    first = {**job, "limit": 1, "timeout": 0.0} | change
    ibpc.certify(ibpc.load(artifact), "digits", report=tmp_path / "r.json", **first)
    with pytest.raises(PropertyError, match="finish that job, or remove the file"):
        ibpc.certify(ibpc.load(artifact), "digits", report=tmp_path / "r.json", **{**job, "limit": 1, "timeout": 0.0})


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"index": 1}', '{"index": "x", "label": 0}', "[" * 100_000])
def test_a_damaged_journal_is_refused(tmp_path, line):
    Journal(tmp_path / "r.json", {"job": 1})
    with (tmp_path / "r.json.0.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(PropertyError, match="line 2: no verdict"):
        Journal(tmp_path / "r.json", {"job": 1})


@pytest.mark.parametrize("key", ["index", "label", "predicted"])
@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_numbers_of_the_wrong_type_are_no_verdict(key, value):
    data = Example(1, 1, 1, Verdict.UNKNOWN, (0.0, 0.0), "ibp").to_json()
    assert Example.from_json(data).index == 1
    with pytest.raises(TypeError):
        Example.from_json({**data, key: value})
    for odd in ({"margin_lower": ["1", True]}, {"seconds": "3"}):
        with pytest.raises(TypeError):
            Example.from_json({**data, **odd})


EDITS = {
    "index": (7, "it is none of the 2 images"),
    "label": (3, "where the data have"),
    "predicted": (10, "predicted 10"),
    "margin_lower": ([0.0], "1 margins of 10 classes"),
    "verdict": ("falsified", "a counterexample of 0 numbers"),
}


@pytest.mark.parametrize("key", EDITS)
def test_verdicts_that_the_data_cannot_have_are_refused(artifact, tmp_path, key):
    report, value = tmp_path / "r.json", EDITS[key][0]
    job = {"eps": 0.0, "limit": 2, "report": report}
    assert ibpc.certify(ibpc.load(artifact), "digits", **job).certified_accuracy == 1
    head, first, second = lines(journal := tmp_path / "r.json.0.jsonl")
    journal.write_text("\n".join((head, first, json.dumps({**json.loads(second), key: value}), "")))
    with pytest.raises(PropertyError, match=f"r.json.0.jsonl: example .*{EDITS[key][1]}"):
        ibpc.certify(ibpc.load(artifact), "digits", **job)


def test_an_image_that_is_misclassified_is_not_verified(artifact, tmp_path):
    job = {"eps": 0.0, "limit": 2, "report": tmp_path / "r.json"}
    ibpc.certify(ibpc.load(artifact), "digits", **job)
    head, first, second = lines(journal := tmp_path / "r.json.0.jsonl")
    data = json.loads(second)
    changed = {**data, "verdict": "verified", "predicted": (data["label"] + 1) % 10}
    journal.write_text("\n".join((head, first, json.dumps(changed), "")))
    with pytest.raises(PropertyError, match="verified as"):
        ibpc.certify(ibpc.load(artifact), "digits", **job)


def test_only_its_own_journals_are_read_and_removed(tmp_path):
    foreign = [tmp_path / f"r.json.{name}.jsonl" for name in ("mine", "01", "0.old", "-1")]
    for path in foreign:
        path.write_text("notes")
    Journal(tmp_path / "r.json", {"job": 1}, rank=12)
    assert (tmp_path / "r.json.12.jsonl").exists()
    remove_journals(tmp_path / "r.json")
    assert sorted(tmp_path.iterdir()) == sorted(foreign)


def test_a_pipe_is_no_journal(tmp_path):
    os.mkfifo(tmp_path / "r.json.1.jsonl")
    with pytest.raises(PropertyError, match="not a regular file"):
        Journal(tmp_path / "r.json", {"job": 1})


def test_examples_survive_the_journal_unchanged(tmp_path):
    examples = [Example(0, 1, 1, Verdict.VERIFIED, (0.1, 0.0, 1e-300), "crown")]
    examples.append(Example(7, 0, 2, Verdict.TIMEOUT, (0.0, float("-inf"), -1 / 3), "bab"))
    examples.append(Example(8, 0, 2, Verdict.FALSIFIED, (0.0, -1.0, -2.0), "attack", (0.5, -0.25), 1.25))
    Journal(tmp_path / "r.json", {"job": 1}, rank=3).add(examples)
    found = Journal(tmp_path / "r.json", {"job": 1}).examples
    assert [found[index].to_json() for index in (0, 7, 8)] == [example.to_json() for example in examples]


# ── again ──────────────────────────────────────────────────────────────────────────────────────────────────────
def certified(artifact, out, *options):
    command = ["certify", str(artifact), "--data", "digits", "--eps", str(EPS), "--method", "auto"]
    found = CliRunner().invoke(app, [*command, "--limit", str(LIMIT), "--json", str(out), *options])
    assert found.exit_code == 0, found.output
    return json.loads(out.read_text())


def test_what_an_earlier_certificate_leaves_open_is_tried_again_and_nothing_else(
    artifact, whole, tmp_path, monkeypatch
):
    before = certified(artifact, tmp_path / "before.json", "--timeout", "0")
    left = [example["index"] for example in before["examples"] if example["verdict"] == "timeout"]
    assert left
    tried, decide = [], DataCertifier._decided

    def recorded(self, subject, image, eps, example):
        tried.append(example.index)
        return decide(self, subject, image, eps, example)

    monkeypatch.setattr(DataCertifier, "_decided", recorded)
    after = certified(artifact, tmp_path / "after.json", "--timeout", "6", "--again", str(tmp_path / "before.json"))
    assert tried == left
    verdicts = [(example["index"], example["verdict"]) for example in after["examples"]]
    assert verdicts == [(example.index, example.verdict.value) for example in whole.examples]
    assert all(claim.holds for claim in ibpc.check(tmp_path / "after.json"))


def test_verdicts_are_taken_over_by_their_index_in_the_data(artifact, whole, tmp_path, monkeypatch):
    """An earlier certificate of other images gives what both have; each image keeps its own verdict."""
    certified(artifact, tmp_path / "before.json", "--timeout", "6")
    earlier = ibpc.earlier_verdicts(tmp_path / "before.json", artifact, ibpc.load_dataset("digits"), EPS)
    tried, decide = [], DataCertifier._decided

    def recorded(self, subject, image, eps, example):
        tried.append(example.index)
        return decide(self, subject, image, eps, example)

    monkeypatch.setattr(DataCertifier, "_decided", recorded)
    job = {"method": "auto", "timeout": 6.0, "images": [5, 2, 499, 7, 300]}
    found = ibpc.certify(ibpc.load(artifact), "digits", EPS, **job, earlier=earlier)
    known = {example.index: example.verdict for example in whole.examples}
    assert [example.index for example in found.examples] == [2, 5, 7, 300, 499]
    assert [example.verdict for example in found.examples[:3]] == [known[index] for index in (2, 5, 7)]
    assert set(tried) <= {300, 499}


# ── chosen images ───────────────────────────────────────────────────────────────────────────────────────────────
def test_chosen_images_have_the_verdicts_that_they_have_among_all(artifact, whole):
    images = [1, 3, 6, 7]
    found = ibpc.certify(ibpc.load(artifact), "digits", EPS, method="auto", timeout=6.0, images=images)
    wanted = [whole.examples[index] for index in images]
    assert found.chosen == images and whole.chosen is None
    for one, other in zip(found.examples, wanted, strict=True):
        assert (one.index, one.label, one.predicted, one.verdict) == (
            other.index,
            other.label,
            other.predicted,
            other.verdict,
        )
    right = sum(example.predicted == example.label for example in wanted)
    assert found.nominal_accuracy == right / 4 and found.to_json()["images"] == images


def test_a_journal_of_other_images_is_refused(artifact, tmp_path):
    job = {"eps": EPS, "report": tmp_path / "r.json"}
    first = ibpc.certify(ibpc.load(artifact), "digits", images=[3, 9], **job)
    assert [json.loads(line)["index"] for line in lines(tmp_path / "r.json.0.jsonl")[1:]] == [3, 9]
    assert without_times(ibpc.certify(ibpc.load(artifact), "digits", images="3,9", **job)) == without_times(first)
    for other in ("3,8", "0:2"):
        with pytest.raises(PropertyError, match="the verdicts of another job"):
            ibpc.certify(ibpc.load(artifact), "digits", images=other, **job)


def test_the_command_line_says_which_images_it_means(artifact, tmp_path):
    command = ["certify", str(artifact), "--data", "digits", "--eps", "0.01", "--seed", "3", "--images"]
    out = tmp_path / "c.json"
    found = CliRunner().invoke(app, [*command, "random:5", "--json", str(out)])
    data = json.loads(out.read_text())
    assert found.exit_code == 0 and "5 chosen test images" in found.output
    assert data["images"] == list(ibpc.chosen_images("random:5", 500, seed=3))
    assert [example["index"] for example in data["examples"]] == data["images"]
    checked = CliRunner().invoke(app, ["check", str(out)])
    assert f"5 of 500 test images: {', '.join(map(str, data['images']))}" in checked.output
    out.unlink()
    assert CliRunner().invoke(app, [*command, "0:5", "--json", str(out)]).exit_code == 0
    assert "images" not in json.loads(out.read_text())
    assert "the first 5 of 500 test images" in CliRunner().invoke(app, ["check", str(out)]).output


def test_a_certificate_of_a_file_names_the_command_that_checks_it(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("IBPC_DATA", str(tmp_path / "nowhere"))
    test = ibpc.load_dataset("digits").test.take(torch.arange(20))
    (folder := tmp_path / "my data").mkdir()
    np.savez(folder / "own.npz", x_test=test.images[:, 0].numpy(), y_test=test.labels.numpy())
    for out, wanted in ((folder / "c.json", []), (tmp_path / "c.json", ["--data-root", str(folder)])):
        command = ["certify", str(artifact), "--data", str(folder / "own.npz"), "--eps", "0.01", "--json", str(out)]
        printed = CliRunner().invoke(app, command).output
        said = shlex.split(next(line for line in printed.splitlines() if line.startswith("next: ")))
        assert said == ["next:", "ibpc", "check", str(out), *wanted]
        assert "confirmed" in CliRunner().invoke(app, said[2:]).output
    refused = CliRunner().invoke(app, ["check", str(tmp_path / "c.json")])
    assert "--data-root FOLDER" in str(refused.exception) and str(tmp_path) in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--images", "3", "--limit", "3"], "one of them"),
        (["--images", "3", "--input", "x.npy"], "--data and --input|--input and --data"),
        (["--images", "0:x"], "found '0:x'"),
    ],
)
def test_a_choice_that_is_none_is_refused(artifact, options, said):
    found = CliRunner().invoke(app, ["certify", str(artifact), "--data", "digits", "--eps", "0.01", *options])
    assert found.exit_code != 0 and re.search(said, str(found.exception))


def test_a_certificate_of_another_question_is_not_taken_over(artifact, tmp_path):
    certified(artifact, tmp_path / "before.json", "--timeout", "0")
    digits, path = ibpc.load_dataset("digits"), tmp_path / "before.json"
    with pytest.raises(PropertyError, match=r"(?s)eps.*found 0\.\d+.*arithmetic"):
        ibpc.earlier_verdicts(path, artifact, digits, 2 * EPS, "real")
    with pytest.raises(PropertyError, match="mean"):
        ibpc.earlier_verdicts(path, artifact, digits, EPS, mean=[0.5], std=[0.5])


@pytest.mark.parametrize(("verdict", "change"), [("timeout", {"label": 3}), ("verified", {"predicted": 12})])
def test_impossible_verdicts_are_not_taken_over(artifact, tmp_path, verdict, change):
    found = certified(artifact, tmp_path / "before.json", "--timeout", "0")
    example = next(example for example in found["examples"] if example["verdict"] == verdict)
    example.update({"label": (example["label"] + 1) % 10} if "label" in change else change)
    (tmp_path / "before.json").write_text(json.dumps(found))
    digits = ibpc.load_dataset("digits")
    earlier = ibpc.earlier_verdicts(tmp_path / "before.json", artifact, digits, EPS)
    with pytest.raises(PropertyError, match=f"example {example['index']}"):
        ibpc.certify(ibpc.load(artifact), digits, EPS, **OPTIONS, earlier=earlier)


# ── shared ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_two_processes_write_the_report_of_one(artifact, whole, tmp_path):
    report = tmp_path / "report.json"
    command = f"-m ibpc certify {artifact} --data digits --eps {EPS} --method auto --limit {LIMIT} --timeout 6"
    torchrun(*command.split(), "--device", "cpu", "--json", report)
    data = json.loads(report.read_text())
    for written, found in zip(data["examples"], whole.to_json()["examples"], strict=True):
        assert (written.pop("seconds", None) is None) == (found.pop("seconds", None) is None)
        assert written.pop("margin_lower") == pytest.approx(found.pop("margin_lower"), rel=0.011, abs=0.011)
        assert written == found
    assert [path.name for path in tmp_path.iterdir()] == [report.name]


def test_the_attack_on_a_data_set_may_be_left_out(artifact, tmp_path):
    """The certified share stays; without an attack hardly any image that is right is falsified."""
    short, whole = (
        certified(artifact, tmp_path / f"{steps}.json", "--method", "ibp", "--attack-steps", steps)
        for steps in ("0", "40")
    )
    assert (short["attack"]["steps"], whole["attack"]["steps"]) == (0, 40)
    assert short["certified_accuracy"] == whole["certified_accuracy"]
    assert short["nominal_accuracy"] >= short["attack_accuracy"] > whole["attack_accuracy"]
    refused = CliRunner().invoke(
        app, ["certify", str(artifact), "--input", "x.npy", "--eps", "0.1", "--attack-steps", "0"]
    )
    assert "belongs to a data set" in str(refused.exception)
