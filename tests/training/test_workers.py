"""Several processes and micro-batches give the same run as one process with whole batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ibpc.network import Network
from ibpc.training.draws import Draws
from ibpc.training.runner import train
from ibpc.workers import ALONE, Workers
from tests.training import tiny, together
from tests.training.test_runner import equal, lines, state_of, without_times


def torchrun(*arguments: str | Path) -> None:
    """Start two processes of one thread each and expect both to end well."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:6000]


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """Return all numbers of a line of metrics except the times."""
    flat = {**without_times(record), **record["losses"], **record["validation"]}
    return {key: value for key, value in flat.items() if isinstance(value, int | float)}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that two processes trained."""
    out = tmp_path_factory.mktemp("two")
    torchrun(Path(together.__file__), out)
    return out


@pytest.mark.parametrize("name", list(together.CASES))
def test_two_processes_train_as_one(two, tmp_path, name):
    alone = together.run(name, tmp_path / "alone")
    found = load_file(two / name / "weights.safetensors")
    assert alone.keys() == found.keys()
    for key, value in alone.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    for mine, theirs in zip(lines(tmp_path / "alone"), lines(two / name), strict=True):
        assert numbers(theirs) == pytest.approx(numbers(mine), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", list(together.CASES))
def test_both_processes_hold_the_same_bits(two, name):
    assert equal(*(load_file(two / f"{name} {rank}.safetensors") for rank in (0, 1)))


def test_a_run_of_two_processes_goes_on_exactly(two):
    whole, parts = two / together.STOPPED, two / "stopped"
    assert equal(state_of(whole), state_of(parts))
    assert list(map(without_times, lines(whole))) == list(map(without_times, lines(parts)))


def test_the_command_line_in_two_processes(two):
    """`torchrun -m ibpc train`: one artifact, one receipt, one line per epoch."""
    assert json.loads((two / "command/training/receipt.json").read_text())["hardware"]["processes"] == 2
    assert len(lines(two / "command")) == 1
    assert Network.load(two / "command").graph.hints["weights"] == "trained"


def test_no_thread_of_the_exchange_outlives_it(two):
    """Otherwise a process now and then aborts when its interpreter exits."""
    found = [(two / f"threads {rank}").read_text().split() for rank in (0, 1)]
    assert not [name for names in found for name in names if "gloo" in name]


# ── micro-batches in one process ────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("method", ["ibp", "pgd", "sabr", "cc-ibp"])
def test_micro_batches_take_the_same_steps(tmp_path, method):
    states = []
    for count in (1, 4):
        net = tiny.network()
        changes = {"attack__steps": 2, "attack__restarts": 2, "schedule__ramp": 0.25, "accumulate": count}
        train(net, tiny.recipe(method=method, **together.BASE, **changes), tiny.blobs(), tmp_path / str(count))
        states.append(net.snapshot().state)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5)


def test_parts_draw_what_the_whole_batch_draws():
    x = torch.zeros(6, 2, 3)
    whole = Draws(torch.Generator().manual_seed(1)).uniform(x)
    parts = [Draws(torch.Generator().manual_seed(1), part, 3).uniform(x[:2]) for part in range(3)]
    assert torch.equal(torch.cat(parts), whole)


# ── exchange ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_alone_nothing_is_exchanged():
    tensor = torch.arange(3.0)
    assert ALONE.total(tensor) is tensor
    assert torch.equal(ALONE.share(tensor), tensor)
    ALONE.wait()
    ALONE.agree([tensor])


def test_shares_are_all_rows_once():
    rows = torch.arange(11)
    assert torch.equal(torch.cat([Workers(rank, 3).share(rows) for rank in range(3)]), rows)
