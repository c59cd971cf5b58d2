"""Errors: what of a stranger's error goes into one of ours."""

from __future__ import annotations

import pytest

from ibpc.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \ntwo"), "one  "),
        (ValueError(), "ValueError"),
        (ValueError("\n"), "ValueError"),
        (ValueError("x" * 5000), "x" * 300),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
