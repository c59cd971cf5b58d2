"""The documents: what they link to is there, and the scripts and bugs that they list are those that there are."""

from __future__ import annotations

import re

import pytest

from tests import ROOT

PLACES = ("*.md", "docs/*.md", "benchmarks/*.md", "benchmarks/results/*.md", "vnncomp/*.md", "examples/**/*.md")
DOCUMENTS = sorted(path.relative_to(ROOT) for place in PLACES for path in ROOT.glob(place))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text):
    """Return the names of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text("utf-8")
    broken = []
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    assert broken == []


def test_files_that_the_design_names_are_there():
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    named = {name for name in re.findall(r"`([\w/]+\.py)`", text) if "/" not in name}
    assert len(named) > 40
    assert named - {path.name for path in (ROOT / "ibpc").rglob("*.py")} == set()


def test_all_scripts_are_listed():
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE))
    helpers = {"contest.py", "log.py"}
    assert listed == {path.name for path in (ROOT / "benchmarks").glob("*.py")} - helpers


def test_the_headings_of_a_document_have_names():
    assert anchors("# Whole training steps, on a GPU\n```\n# no heading\n```\n## `a_b`") == {
        "whole-training-steps-on-a-gpu",
        "a_b",
    }
