"""The drill with planted bugs follows the code: each bug replaces a text that stands in its file exactly once."""

from __future__ import annotations

import importlib.util
import sys

from tests import ROOT


def test_every_bug_can_be_planted():
    spec = importlib.util.spec_from_file_location("benchmark_mutation", ROOT / "benchmarks" / "mutation.py")
    drill = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = drill
    try:
        spec.loader.exec_module(drill)
    finally:
        del sys.modules[spec.name]
    bugs = drill.planted()
    counts = {bug.what: (ROOT / bug.file).read_text("utf-8").count(bug.old) for bug in bugs}
    assert {what: count for what, count in counts.items() if count != 1} == {}
    assert len(counts) == len(bugs), "a bug is described twice"
    assert len(bugs) > 200
