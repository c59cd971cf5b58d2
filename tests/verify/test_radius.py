"""The certified radius: brackets of a known one, whatever the verdicts in between."""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, ROUND_FLOOR

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ibpc
from ibpc.cli import app
from ibpc.errors import UsageError
from ibpc.report.terminal import _decimal
from ibpc.verify.radius import largest_radius
from ibpc.verify.verdicts import Verdict


@pytest.mark.parametrize("truth", [0.0004, 0.1, 0.2371, 0.4999])
def test_the_bracket_holds_the_truth(truth):
    found = largest_radius(lambda eps: Verdict.VERIFIED if eps < truth else Verdict.FALSIFIED, 0.5, 1e-3)
    assert found.certified <= truth <= found.falsified
    assert found.gap <= 1e-3


def test_what_is_unknown_is_neither_certified_nor_falsified():
    def verdict_at(eps: float) -> Verdict:
        return Verdict.VERIFIED if eps < 0.1 else Verdict.UNKNOWN if eps < 0.2 else Verdict.FALSIFIED

    found = largest_radius(verdict_at, 0.5, 1e-4)
    assert 0.1 - 1e-4 <= found.certified < 0.1
    assert found.falsified >= 0.2


def test_what_is_misclassified_takes_one_decision():
    found = largest_radius(lambda _: Verdict.FALSIFIED, 0.5, 1e-4)
    assert (found.certified, found.falsified, found.decisions) == (0.0, 0.0, 1)


def test_the_search_ends_where_no_number_lies_between():
    found = largest_radius(lambda eps: Verdict.VERIFIED if eps < 0.1 else Verdict.FALSIFIED, 0.5, 1e-300)
    assert np.nextafter(found.certified, 1.0) == found.falsified == 0.1


def test_no_more_is_shown_than_is_known():
    assert (_decimal(0.12349, ROUND_FLOOR), _decimal(0.12341, ROUND_CEILING)) == ("0.1234", "0.1235")
    assert (_decimal(1.2345e-7, ROUND_FLOOR), _decimal(0.1, ROUND_CEILING)) == ("1.234E-7", "0.1000")


def test_the_whole_range_may_be_certified():
    found = largest_radius(lambda _: Verdict.VERIFIED, 0.5, 1e-3)
    assert (found.certified, found.falsified, found.decisions) == (0.5, None, 2)


@pytest.mark.parametrize(("most", "tolerance"), [(0.0, 0.1), (0.5, 0.0), (float("nan"), 0.1), (0.5, float("inf"))])
def test_an_impossible_range_is_refused(most, tolerance):
    with pytest.raises(UsageError, match="above 0"):
        largest_radius(lambda _: Verdict.VERIFIED, most, tolerance)


def linear_network() -> ibpc.Network:
    """Logits x₀ and x₁: the answer at (0.9, 0.5) changes at ε = 0.2."""
    module = torch.nn.Linear(2, 2, bias=False)
    module.weight.data = torch.eye(2)
    return ibpc.compile(torch.nn.Sequential(module).eval(), torch.zeros(1, 2))


@pytest.mark.parametrize("method", ["ibp", "crown", "auto"])
def test_a_linear_network_is_certified_up_to_its_radius(method):
    found = ibpc.radius(linear_network(), ibpc.Ball(torch.tensor([0.9, 0.5]), 0), method=method, timeout=2)
    assert found.certified == pytest.approx(0.2, abs=1.1e-3)
    assert found.certified < 0.2 < found.falsified


def test_the_command_shows_the_radius(tmp_path):
    linear_network().save(tmp_path / "model")
    np.save(tmp_path / "x.npy", np.array([0.9, 0.5], np.float32))
    command = ["radius", str(tmp_path / "model"), "--input", str(tmp_path / "x.npy"), "--tolerance", "1/100"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "certified up to" in result.output and "0.19" in result.output


def test_the_radii_are_written_as_json(tmp_path):
    linear_network().save(model := tmp_path / "model")
    x = np.array([[[0.9, 0.5]], [[0.1, 0.5]], [[0.3, 0.9]]], np.float32)
    np.savez(tmp_path / "own.npz", x_test=x, y_test=np.array([0, 0, 1]))
    np.save(tmp_path / "x.npy", x[0, 0])
    out, found = tmp_path / "r.json", {}
    for name, options in (("data", ["--limit", "3"]), ("input", ["--label", "0"])):
        source = tmp_path / {"data": "own.npz", "input": "x.npy"}[name]
        command = ["radius", str(model), f"--{name}", str(source), *options, "--tolerance", "1/100", "--json", str(out)]
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        found[name] = json.loads(out.read_text())
    rows = found["data"]["radii"]
    assert [(row["index"], row["label"]) for row in rows] == [(0, 0), (1, 0), (2, 1)]
    for row, truth in zip(rows, (0.2, 0.0, 0.3), strict=True):
        assert row["certified"] <= truth <= row["falsified"] <= row["certified"] + 0.01 and row["seconds"] >= 0
    assert (
        found["data"]["tolerance"] == 1 / 100 and found["data"]["data"] == "own" and found["data"]["method"] == "auto"
    )
    only = found["input"]["radii"]
    assert [(row["index"], row["label"]) for row in only] == [(None, 0)] and only[0]["certified"] == rows[0][
        "certified"
    ]
    refused = CliRunner().invoke(
        app, ["radius", str(model), "--input", str(tmp_path / "x.npy"), "--json", str(tmp_path)]
    )
    assert "is a folder" in str(refused.exception)
    same = CliRunner().invoke(
        app, ["radius", str(model), "--data", str(tmp_path / "own.npz"), "--json", str(tmp_path / "own.npz")]
    )
    assert "another file" in str(same.exception)
