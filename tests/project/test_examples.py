"""Every example runs, in a process of its own, and says something."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


def test_there_are_examples_of_one_screen_each():
    assert EXAMPLES
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES)
