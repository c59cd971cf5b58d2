"""Figures, number formats and the page of operators."""

from __future__ import annotations

import pytest

from ibpc.report.figures import draw_overview
from ibpc.report.operators_page import operators_page
from ibpc.report.style import bins_around_zero
from ibpc.report.wording import format_eps
from ibpc.rounding import Arithmetic
from ibpc.training.graphs import Accuracy
from ibpc.training.records import EpochRecord
from ibpc.verify.results import Example, Robustness
from ibpc.verify.verdicts import Verdict
from tests import ROOT

RADII = {0.1: "0.1", 2 / 255: "2/255", 8 / 255: "8/255", 0.0: "0", 1.0: "1", 0.0313: "0.0313", 51 / 255: "0.2"}


@pytest.mark.parametrize(("eps", "text"), RADII.items())
def test_radii_are_written_as_people_write_them(eps, text):
    assert format_eps(eps) == text


@pytest.mark.parametrize("values", [[-3.0, 2.0], [1.0, 2.0], [-2.0, -1.0], [], [float("-inf"), 1.0], [0.0]])
def test_no_bin_straddles_zero(values):
    edges = bins_around_zero(values)
    assert 0.0 in edges
    assert edges == sorted(edges) and len(edges) >= 2
    finite = [value for value in values if abs(value) != float("inf")]
    assert all(edges[0] <= value <= edges[-1] * (1 + 1e-12) for value in finite)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_overview_is_drawn(tmp_path, ending, magic):
    record = EpochRecord(1, 5, 0.1, 0.5, 1e-3, {"loss": 1.0}, 0.9, 0.5, Accuracy(10, 0.1, 0.9, 0.4), 1.0, 10.0)
    examples = (
        Example(0, 1, 1, Verdict.VERIFIED, (1.0, 0.0), "ibp"),
        Example(1, 0, 1, Verdict.FALSIFIED, (0.0, -1.0), "ibp"),
        Example(2, 0, 0, Verdict.UNKNOWN, (0.0, float("-inf")), "ibp"),
    )
    path = tmp_path / f"overview.{ending}"
    draw_overview([record], Robustness(0.1, "ibp", Arithmetic.FLOAT32, 1.0, examples), "title", path)
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_page_of_operators_is_what_the_registry_says():
    page = ROOT / "docs" / "support.md"
    command = "from ibpc.report.operators_page import write_operators_page; write_operators_page('docs/support.md')"
    assert page.read_text(encoding="utf-8") == operators_page(), f'run python -c "{command}"'
