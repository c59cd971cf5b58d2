"""The competition's scripts, as its harness calls them, on a network whose answers are known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import ibpc
from ibpc.rounding import Arithmetic
from ibpc.verify.competition import result_text
from ibpc.verify.decide import Decision
from ibpc.verify.falsification import Counterexample
from ibpc.verify.verdicts import Verdict
from tests import ROOT

SCRIPTS = ROOT / "vnncomp"
PROPERTY = """
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (and (>= X_0 0.1) (<= X_0 1.0) (>= X_1 -1.0) (<= X_1 0.7)))
(assert (>= Y_0 {bound}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """y = relu(x₀ − x₁) over [0.1, 1] × [−1, 0.7], which is at most 2, in a file; and properties of it."""
    path = tmp_path_factory.mktemp("competition")
    first = torch.nn.Linear(2, 1)
    first.weight.data, first.bias.data = torch.tensor([[1.0, -1.0]]), torch.zeros(1)
    module = torch.nn.Sequential(first, torch.nn.ReLU())
    ibpc.export(ibpc.compile(module.eval(), torch.zeros(1, 2)), path / "net.onnx")
    for name, bound in (("unsat", "2.01"), ("sat", "1.9")):
        (path / f"{name}.vnnlib").write_text(PROPERTY.format(bound=bound))
    (path / "broken.vnnlib").write_text("(assert")
    return path


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {"IBPC_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = ["bash", str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["unsat", "sat"])
def test_an_instance_from_preparation_to_result(folder, tmp_path, name):
    network, prop, result = folder / "net.onnx", folder / f"{name}.vnnlib", tmp_path / "result.txt"
    assert script("prepare_instance.sh", "v1", "test", network, prop).returncode == 0
    done = script("run_instance.sh", "v1", "test", network, prop, result, "120")
    assert done.returncode == 0, done.stderr
    text = result.read_text()
    if name == "unsat":
        assert text == "unsat\n"
        return
    word, _, rest = text.partition("\n")
    assert word == "sat"
    assert rest.startswith("((X_0 ") and rest.endswith("))\n")
    values = {key: float(value) for key, value in re.findall(r"\((\w+) ([^()\s]+)\)", rest)}
    assert list(values) == ["X_0", "X_1", "Y_0"]
    point = np.array([[values["X_0"], values["X_1"]]], np.float32)
    session = onnxruntime.InferenceSession(network)
    (output,) = session.run(None, {session.get_inputs()[0].name: point})
    assert float(output[0, 0]) == values["Y_0"] >= 1.9
    assert 0.1 <= values["X_0"] <= 1.0
    assert -1.0 <= values["X_1"] <= 0.7


def test_what_fails_says_error_and_the_harness_goes_on(folder, tmp_path):
    result = tmp_path / "result.txt"
    done = script("run_instance.sh", "v1", "test", folder / "net.onnx", folder / "broken.vnnlib", result, "120")
    assert (done.returncode, result.read_text()) == (0, "error\n")


def test_time_that_is_up_says_timeout(folder, tmp_path):
    """A tenth of a second is not enough to start Python: the script kills it."""
    result = tmp_path / "result.txt"
    done = script("run_instance.sh", "v1", "test", folder / "net.onnx", folder / "unsat.vnnlib", result, "0.1")
    assert (done.returncode, result.read_text()) == (0, "timeout\n")


@pytest.mark.parametrize("name", ["install_tool.sh", "prepare_instance.sh", "run_instance.sh"])
def test_another_version_of_the_rules_is_refused(name):
    done = script(name, "v2", "a", "b", "c", "d", "e")
    assert done.returncode == 2
    assert done.stderr.startswith("usage")


def test_missing_files_are_not_prepared(folder):
    assert script("prepare_instance.sh", "v1", "test", folder / "no.onnx", folder / "sat.vnnlib").returncode == 1


@pytest.mark.parametrize(
    ("verdict", "word"),
    [(Verdict.VERIFIED, "unsat"), (Verdict.UNKNOWN, "unknown"), (Verdict.TIMEOUT, "timeout")],
)
def test_the_words(verdict, word):
    assert result_text(Decision(verdict, "ibp", Arithmetic.FLOAT32, 0.0)) == f"{word}\n"


def test_a_counterexample_is_written_exactly():
    found = Counterexample((0.1, float(np.float32(0.1))), (-1e-30,))
    text = result_text(Decision(Verdict.FALSIFIED, "ibp", Arithmetic.FLOAT32, 0.0, counterexample=found))
    assert text == "sat\n((X_0 0.1)\n (X_1 0.10000000149011612)\n (Y_0 -1e-30))\n"
