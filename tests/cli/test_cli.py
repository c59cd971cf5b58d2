"""The command line as a user meets it: real processes, exit statuses, one clear line for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ibpc.cli import app, main, options
from ibpc.data import Split, load_dataset
from ibpc.files import write_json
from tests import ROOT

SPECS = ROOT / "specs"
DIGITS = SPECS / "digits_small.json"


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def text(self) -> str:
        """Everything that was printed, with the wrapping of boxes undone."""
        return " ".join((self.out + self.err).replace("│", " ").split())


@pytest.fixture
def ibpc(monkeypatch, capsys, tmp_path):
    """Run a command line in this process, from an empty folder, and return its outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ibpc", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as exit:
            status = exit.code or 0
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def trained(ibpc):
    """An artifact that one short run has trained."""
    assert ibpc("compile", DIGITS).status == 0
    outcome = ibpc("train", "compiled", "--eps", "0.05", "--epochs", "2")
    assert outcome.status == 0, outcome.err
    return Path("compiled")


def test_from_a_spec_to_a_certificate(ibpc, trained):
    outcome = ibpc("certify", trained, "--eps", "0.05", "--limit", "40", "--json", "verdicts.json")
    assert outcome.status == 0
    for word in ("nominal", "attack", "certified", "ε = 0.05", "float32"):
        assert word in outcome.text
    data = json.loads(Path("verdicts.json").read_text())
    assert (data["model"], data["data"], data["split"], data["n"]) == ("compiled", "digits", "test", 40)
    assert data["certified_accuracy"] <= data["attack_accuracy"] <= 1
    assert data["attack_accuracy"] <= data["nominal_accuracy"]
    counts = sum(example["verdict"] == "verified" for example in data["examples"])
    assert data["certified_accuracy"] == counts / 40


def test_compile_keeps_a_trained_artifact(ibpc, trained):
    outcome = ibpc("compile", DIGITS)
    assert outcome.status == 2
    assert outcome.err.startswith("error: compiled: a trained artifact is there")
    assert ibpc("compile", DIGITS, "--force").status == 0
    assert not (trained / "training").exists()


def test_resume_of_a_finished_run_changes_nothing(ibpc, trained):
    before = (trained / "weights.safetensors").read_bytes()
    assert ibpc("train", trained, "--eps", "0.05", "--epochs", "2", "--resume").status == 0
    assert (trained / "weights.safetensors").read_bytes() == before


def test_report_writes_a_page_with_its_figures(ibpc, trained):
    outcome = ibpc("report", trained, "--limit", "5", "-o", "pages/mine.html")
    assert outcome.status == 0, outcome.err
    assert "pages/mine.html" in outcome.text and "pages/mine_figures/" in outcome.text
    assert Path("pages/mine.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    written = list(Path("pages/mine_figures").iterdir())
    magic = {".svg": b"<?xml", ".png": b"\x89PNG"}
    assert len(written) == 2 * 10
    assert all(path.read_bytes().startswith(magic[path.suffix]) for path in written)


def test_sweep_shows_its_front(ibpc):
    assert ibpc("compile", DIGITS).status == 0
    options = ("--eps", "0.05", "--epochs", "1", "--set", "batch_size=256", "--range", "schedule.kappa_end=0..1")
    outcome = ibpc("sweep", "compiled", *options, "--trials", "1", "-o", "swept")
    assert outcome.status == 0, outcome.err
    for words in ("trial 0: schedule.kappa_end", "that no other beats in both", "1 trial, 0 failed", "swept/front.svg"):
        assert words in outcome.text
    assert Path("swept/front.svg").read_bytes().startswith(b"<?xml")
    assert Path("swept/front.png").read_bytes().startswith(b"\x89PNG")
    mistaken(ibpc("sweep", "compiled", *options[:-1], "schedule.kappa_end=0..7", "-o", "other"), "schedule.kappa_end")
    mistaken(ibpc("sweep", "compiled", "--eps", "0.05", "-o", "other"), "nothing to vary", "--range")
    assert not Path("other").exists()


def test_report_refuses_what_is_no_run(ibpc):
    assert ibpc("compile", DIGITS).status == 0
    mistaken(ibpc("report", "compiled"), "no folder training", "ibpc train")
    mistaken(ibpc("report", "nothing"), "no such folder")
    assert not Path("report.html").exists()


def test_export_round_trip(ibpc, trained):
    assert ibpc("export", trained, "-o", "model.onnx").status == 0
    first = ibpc("certify", trained, "--eps", "0.05", "--limit", "30", "--json", "a.json")
    second = ibpc("certify", "model.onnx", "--data", "digits", "--eps", "0.05", "--limit", "30", "--json", "b.json")
    assert first.status == second.status == 0
    ours, theirs = (json.loads(Path(name).read_text())["examples"] for name in ("a.json", "b.json"))
    assert [e["verdict"] for e in ours] == [e["verdict"] for e in theirs]


def test_show_lists_every_node_with_its_cost(ibpc):
    outcome = ibpc("show", SPECS / "mnist_small.json")
    assert outcome.status == 0
    assert "329,606" in outcome.text  # 272 + 8,224 + 320,100 + 1,010
    assert "43,264" in outcome.text  # 16 channels · 13 · 13 positions · 16 products
    assert "conv2" in outcome.text


def test_show_text_and_dot(ibpc):
    assert ibpc("show", DIGITS, "--text").out.startswith("graph digits_small (input) -> (")
    assert ibpc("show", DIGITS, "--dot").out.startswith('digraph "digits_small" {')


def test_ops_lists_the_operators(ibpc):
    outcome = ibpc("ops")
    assert outcome.status == 0
    for word in ("Conv", "BatchNormalization", "MaxPool", "Conv2d", "affine", "planes"):
        assert word in outcome.text


def test_compile_verbose_says_what_passes_did(ibpc):
    outcome = ibpc("compile", SPECS / "resnet_cifar.json", "-v")
    assert outcome.status == 0
    assert "fold_batch_normalization" in outcome.text


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────────────────────
def mistaken(outcome: Outcome, *words: str) -> None:
    assert outcome.status == 2
    assert "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert word in outcome.text


@pytest.mark.parametrize(
    "eps",
    [
        "abc",
        "-1",
        "1/0",
        "nan",
        "inf",
        "",
        "2/255/3",
        "1e999",
        "1e999999999",
        "1e-400",
        "0x1",
        "½",
        "1" * 9999,
        "0.1 5",
        "0_1",
        "２",
    ],
)
def test_an_impossible_eps(ibpc, eps):
    mistaken(ibpc("train", "compiled", f"--eps={eps}"), "--eps", "expected a number")


def test_a_missing_artifact(ibpc):
    mistaken(ibpc("train", "nothing", "--eps", "0.1"), "nothing", "ibpc compile")


def test_a_missing_spec(ibpc):
    mistaken(ibpc("compile", "nothing.json"), "nothing.json")


def test_a_file_of_another_kind(ibpc):
    Path("model.pt").write_bytes(b"x")
    mistaken(ibpc("compile", "model.pt"), "model.pt", "SPEC.json")


def test_a_spec_with_several_mistakes_lists_them_all(ibpc):
    spec = json.loads(DIGITS.read_text())
    spec["layers"][0]["kernel"] = 3
    spec["layers"][1]["type"] = "RelU"
    Path("bad.json").write_text(json.dumps(spec))
    outcome = ibpc("compile", "bad.json")
    mistaken(outcome, "$.layers[0].kernel", "kernel_size", "$.layers[1].type", "ReLU")
    assert len(outcome.err.splitlines()) == 2
    assert not Path("compiled").exists()


def test_a_missing_data_set_says_how_to_get_it(ibpc):
    assert ibpc("compile", SPECS / "mnist_small.json").status == 0
    outcome = ibpc("train", "compiled", "--eps", "0.1", "--data-root", "empty")
    mistaken(outcome, "mnist", "--download")
    assert not (Path("compiled") / "training").exists()


def test_an_unknown_data_set(ibpc):
    ibpc("compile", DIGITS)
    mistaken(ibpc("certify", "compiled", "--eps", "0.1", "--data", "digitz"), "digitz")


def test_an_unknown_recipe_value(ibpc):
    ibpc("compile", DIGITS)
    outcome = ibpc("train", "compiled", "--eps", "0.1", "--set", "schedule.wramup=2")
    mistaken(outcome, "schedule.wramup", "schedule.warmup")
    mistaken(ibpc("train", "compiled", "--eps", "0.1", "--set", "epochs"), "KEY=VALUE")
    mistaken(ibpc("train", "compiled", "--eps", "0.1", "--set", "box.share=.5"), "box.share", "ibp does not read it")
    options = ("--eps", "0.1", "--trials", "1", "--range", "combination.alpha=0..1")
    mistaken(ibpc("sweep", "compiled", *options), "combination.alpha", "ibp does not read it")


def test_the_radius_is_that_of_the_recipe_and_its_origin_is_told(ibpc, tmp_path):
    from ibpc import Recipe

    ibpc("compile", DIGITS)
    mistaken(ibpc("train", "compiled"), "--eps", "missing")
    recipe = Recipe.default("ibp", 0.03, "digits").with_overrides({"epochs": 1}).to_json()
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    outcome = ibpc("train", "compiled", "--recipe", "mine.json", "--resume", "-o", "own")
    assert "recipe: mine.json\n" in outcome.err
    assert "own has no run to go on with: a new one begins" in outcome.err
    assert json.loads((tmp_path / "own" / "training" / "recipe.json").read_text())["eps"] == 0.03
    other = ibpc("train", "compiled", "--recipe", "mine.json", "--eps", "0.05", "-o", "other")
    assert "recipe: mine.json, made for ε = 0.03, now at 0.05" in other.err
    mistaken(ibpc("certify", "own", "--eps", "8"), "eps", "8/255")


def test_an_unknown_method_device_arithmetic_and_graph(ibpc):
    ibpc("compile", DIGITS)
    mistaken(ibpc("train", "compiled", "--eps", "0.1", "--method", "ibpp"), "ibp")
    mistaken(ibpc("certify", "compiled", "--eps", "0.1", "--method", "ibpp"), "ibp")
    mistaken(ibpc("certify", "compiled", "--eps", "0.1", "--device", "tpu9"), "--device")
    mistaken(ibpc("certify", "compiled", "--eps", "0.1", "--arithmetic", "float8"), "float32 or real")
    mistaken(ibpc("export", "compiled", "-o", "bounds.onnx", "--graph", "bounds"), "nominal, interval or margins")


def test_an_output_is_no_input_and_no_other_output(ibpc):
    ibpc("compile", DIGITS)
    ibpc("export", "compiled", "-o", "m.onnx")
    whole = Path("m.onnx").read_bytes()
    for name in ("x.npy", "p.vnnlib", "own.npz"):
        Path(name).write_bytes(b"precious")
    for line in (
        "certify m.onnx --input x.npy --eps 0.01 --json ./m.onnx",
        "certify m.onnx --input x.npy --eps 0.01 --json x.npy",
        "certify m.onnx --input x.npy --eps 0.01 --json s --result s",
        "certify m.onnx --vnnlib p.vnnlib --result p.vnnlib",
        "certify m.onnx --data own.npz --eps 0.01 --json own.npz",
        "certify compiled --eps 0.01 --json compiled/manifest.json",
        "report compiled -o compiled/weights.safetensors",
        "report compiled -o compiled/training/metrics.jsonl",
        "export m.onnx -o m.onnx",
    ):
        mistaken(ibpc(*line.split()), "is read, or written, by this command")
    assert Path("m.onnx").read_bytes() == whole
    assert ibpc("export", "compiled", "-o", "compiled/m.onnx").status == 0


def test_the_number_of_judged_images_belongs_to_a_judge(ibpc):
    line = "sweep compiled --eps 0.05 --range schedule.kappa_end=0..1 --judged 5"
    mistaken(ibpc(*line.split()), "--judged", "--judge NAME")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", "3", "--input", "x.npy"), ("--limit", "data set")),
        (("--download", "--input", "x.npy"), ("--download", "data set")),
        (("--seed", "9" * 30), ("--seed",)),
        (("--seed=-1",), ("--seed",)),
        (("--timeout", "nan"), ("--timeout",)),
        (("--mean", "nan"), ("--mean", "numbers")),
        (("--std", "inf"), ("--std", "numbers")),
        (("--std", "1e-60"), ("std", "float32")),
        (("--mean", "1e39"), ("mean", "float32")),
        (("--mean", "1_0"), ("--mean", "numbers")),
        (("--mean", "２"), ("--mean", "numbers")),
        (("--mean", "1,,2"), ("--mean", "numbers")),
        (("--device", "meta"), ("--device", "cuda:N")),
        (("--device", "cpu:0"), ("--device", "cuda:N")),
        (("--method", ""), ("method", "found ''")),
        (("--images", ""), ("images", "found ''")),
        (("--data", ""), ("data set ''",)),
        (("--json", ""), ("--json", "folder")),
        (("--json", "compiled"), ("--json", "folder")),
        (("--vnnlib", "x.vnnlib", "--result", "."), ("--result", "folder")),
    ],
)
def test_options_that_mean_nothing(ibpc, options, words):
    ibpc("compile", DIGITS)
    eps = () if "--vnnlib" in options else ("--eps", "0.1")
    mistaken(ibpc("certify", "compiled", *eps, *options), *words)


def test_one_class_alone_may_be_asked_about(ibpc):
    ibpc("compile", DIGITS)
    np.save("x.npy", np.full((1, 8, 8), 0.5, np.float32))
    line = ["certify", "compiled", "--input", "x.npy", "--eps", "0.001", "--json", "proof.json"]
    rows = []
    for classes in ((), ("--label", "0", "--target", "3")):
        assert ibpc(*line, *classes).status == 0
        (case,) = json.loads(Path("proof.json").read_text())["region"]["cases"]
        rows.append([rows for (rows,) in case["disjuncts"]])
    assert len(rows[0]) == 9
    assert [row["outputs"] for row in rows[1]] == [[[0, "1"], [3, "-1"]]]
    mistaken(ibpc(*line, "--label", "3", "--target", "3"), "target", "another class")
    mistaken(ibpc("certify", "compiled", "--eps", "0.1", "--target", "3"), "--target", "--input")


def test_the_version_is_shown(ibpc):
    outcome = ibpc("--version")
    assert outcome.status == 0 and outcome.out.split()[0] == "ibpc" and outcome.out.split()[1][0].isdigit()


def test_a_network_that_wants_normalized_images_is_compiled_with_them(ibpc):
    """What is put in front is part of the artifact, and of what is trained."""
    assert ibpc("compile", DIGITS, "--mean", "0.3", "--std", "0.4").status == 0
    assert "normalize_sub" in ibpc("show", "compiled").text
    mistaken(ibpc("compile", DIGITS, "--std", "0"), "std")


def test_images_of_few_classes_are_remarked_upon(ibpc, trained, monkeypatch):
    """Folders of images are read class by class."""
    loaded = load_dataset("digits")
    order = loaded.test.labels.argsort()
    given = replace(loaded, test=Split(loaded.test.images[order], loaded.test.labels[order]))
    monkeypatch.setattr("ibpc.api.load_dataset", lambda *_: given)
    text = ibpc("certify", trained, "--eps", "0.05", "--limit", "30").text
    assert "these images are of only 1 of 10 classes" in text
    monkeypatch.setattr("ibpc.api.load_dataset", lambda *_: loaded)
    assert "classes" not in ibpc("certify", trained, "--eps", "0.05", "--limit", "30").text


def test_data_of_fewer_classes_than_the_network_are_remarked_upon(ibpc, trained, monkeypatch):
    loaded = load_dataset("digits")
    parts = [split.take((split.labels < 3).nonzero().flatten()) for split in (loaded.train, loaded.test)]
    fewer = replace(loaded, train=parts[0], test=parts[1], classes=3)
    monkeypatch.setattr("ibpc.api.load_dataset", lambda *_: fewer)
    text = ibpc("certify", trained, "--eps", "0.05", "--limit", "3").text
    assert "the data have 3 classes, the network 10" in text


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000])
def test_values_that_json_cannot_read(ibpc, value):
    ibpc("compile", DIGITS)
    mistaken(ibpc("train", "compiled", "--eps", "0.1", "--set", f"epochs={value}"), "$.epochs")
    mistaken(ibpc("sweep", "compiled", "--eps", "0.1", "--range", f"epochs={value},2"), "epochs")


@pytest.mark.parametrize(
    ("place", "found"), [("", "without a name"), (".", "without a name"), ("other", "other files")]
)
def test_a_run_is_refused_before_it_trains_where_it_could_not_be_saved(ibpc, place, found):
    ibpc("compile", DIGITS)
    Path("other").mkdir()
    Path("other", "file").touch()
    mistaken(ibpc("train", "compiled", "--eps", "0.1", "--epochs", "1", "-o", place), found)
    assert sorted(path.name for path in Path().iterdir()) == ["compiled", "other"]
    assert [path.name for path in Path("other").iterdir()] == ["file"]


def test_radius_asks_one_question(ibpc):
    mistaken(ibpc("radius", "compiled", "--input", "x.npy", "--data", "digits"), "--input and --data")
    mistaken(ibpc("radius", "compiled", "--label", "3"), "--label", "--input")


def test_brackets_in_names_are_shown(ibpc):
    """Rich would take them for markup, and fail where it is not well-formed."""
    outcome = ibpc("compile", DIGITS, "-o", "c[/d]:x:")
    assert outcome.status == 0
    assert "c[/d]:x:" in outcome.text
    mistaken(ibpc("train", "c[/d]:x:", "--eps", "[/e]"), "[/e]")


def test_a_terminal_without_unicode_shows_question_marks():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "ibpc", "certify", "--help"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"L? radius" in done.stdout


def test_names_of_files_that_are_no_text_come_back_from_json(ibpc):
    name = os.fsdecode(b"\xff\xc3\xa9")
    write_json(Path("c.json"), {"model": name})
    assert json.loads(Path("c.json").read_text("utf-8")) == {"model": name}


def test_an_unwritable_output(ibpc):
    mistaken(ibpc("compile", DIGITS, "-o", "/proc/compiled"), "cannot be written")


def test_a_full_disk_is_one_line(ibpc):
    ibpc("compile", DIGITS)
    outcome = ibpc("certify", "compiled", "--eps", "0.1", "--limit", "1", "--json", "/dev/full/verdicts.json")
    mistaken(outcome, "/dev/full")


@pytest.mark.parametrize("broken", ["closed", "full"])
def test_a_proof_is_kept_where_nobody_reads_it(ibpc, broken):
    ibpc("compile", DIGITS)
    np.save("x.npy", np.full((1, 8, 8), 0.5, np.float32))
    command = "certify compiled --input x.npy --eps 0.001 --json proof.json --result proof.txt"
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("wb") if broken == "full" else os.fdopen(writer, "wb") as out:
        line = [sys.executable, "-m", "ibpc", *command.split()]
        done = subprocess.run(line, stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == (2 if broken == "full" else 0), done.stderr
    assert json.loads(Path("proof.json").read_text())["verdict"]
    assert Path("proof.txt").read_text().startswith("unsat")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")])
def test_too_little_memory_is_one_line(ibpc, monkeypatch, error):
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("ibpc.api.open_network", fail)
    mistaken(ibpc("show", "compiled"), "memory: there is not enough")


def test_an_unknown_command_and_option(ibpc):
    assert ibpc("complie").status == 2
    assert ibpc("compile", DIGITS, "--frce").status == 2


# ── starting ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_run_that_ends_before_its_radius_is_reached_says_so(ibpc):
    """One step, or a warm-up that rounding lets take all steps: ε stays 0."""
    assert ibpc("compile", DIGITS).status == 0
    said = "note: ε comes only to 0 of 0.065 in this run of"
    alone = ["--eps", "0.05", "--epochs", "1", "--set", "batch_size=2000"]
    assert f"{said} 1 step:" in ibpc("train", "compiled", *alone, "-o", "a").err
    long = ["--eps", "0.05", "--epochs", "1", "--set", "batch_size=500", "--set", "schedule.warmup=0.9"]
    assert f"{said} 2 steps:" in ibpc("train", "compiled", *long, "-o", "b").err
    swept = ibpc("sweep", "compiled", *alone, "--range", "schedule.kappa_end=0..1", "--trials", "1", "-o", "c").err
    assert f"{said} 1 step:" in swept
    usual = ["--eps", "0.05", "--epochs", "1"]
    assert "comes only to" not in ibpc("train", "compiled", *usual, "-o", "d").err
    assert "comes only to" not in ibpc("train", "compiled", *alone, "--method", "standard", "-o", "e").err


def test_help_names_every_method():
    from ibpc.training.methods import methods
    from ibpc.verify.decide import PLANS

    assert sorted(options.BOUNDING_METHODS.split(", ")) == sorted(PLANS)
    assert sorted(options.TRAINING_METHODS.split(", ")) == sorted(methods())


def test_help_loads_nothing_heavy():
    """What makes `ibpc --help` slow is importing torch: it must not happen."""
    script = (
        "import sys; sys.argv = ['ibpc', '--help']\n"
        "from ibpc.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'networkx', 'matplotlib', 'jsonschema'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "certify" in done.stdout


@pytest.mark.parametrize("command", ["compile", "show", "ops", "train", "sweep", "certify", "export", "report", "demo"])
def test_every_command_has_help(command):
    outcome = CliRunner().invoke(app, [command, "--help"])
    assert outcome.exit_code == 0
    assert "--help" in outcome.output
