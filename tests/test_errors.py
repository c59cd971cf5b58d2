"""Errors: what of a stranger's error goes into one of ours."""

from __future__ import annotations

import pytest

from ibpc.errors import ThirdPartyError, first_line, third_party


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


@pytest.mark.parametrize("raised", [ValueError("first\nsecond"), RuntimeError(""), KeyError("name"), MemoryError()])
def test_whatever_a_stranger_raises_is_one_error_with_its_first_line(raised):
    with pytest.raises(ThirdPartyError) as caught, third_party():
        raise raised
    assert str(caught.value) in ("first", "RuntimeError", "'name'", "MemoryError")
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_who_wants_to_stop_is_no_stranger(raised):
    with pytest.raises(raised), third_party():
        raise raised
