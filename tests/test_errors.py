"""Errors: what of a stranger's error goes into one of ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ibpc
from ibpc.errors import ThirdPartyError, UsageError, first_line, nearest, third_party


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \ntwo"), "one  "),
        (ValueError(), "ValueError"),
        (ValueError("\n"), "ValueError"),
        (ValueError("x" * 5000), "x" * 300),
        (ValueError("this is \x1b[96mstep \x1b[1;3m3\x1b[0m of 3"), "this is step 3 of 3"),
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


def test_the_nearest_of_what_is_no_word_is_any():
    assert nearest("ibpp", ["ibp", "mip"]) == "did you mean 'ibp'?"
    assert nearest(None, ["mip", "ibp"]) == nearest(5, ["mip", "ibp"]) == "choose from ibp, mip"


NETWORK = ibpc.compile(nn.Linear(4, 3).eval(), torch.zeros(1, 4))
X = torch.rand(2, 4)
MISUSES = {
    "no method": lambda: ibpc.bound(NETWORK, ibpc.Interval.point(X), method=None),
    "a method that is a number": lambda: ibpc.radius(NETWORK, ibpc.Ball(X[0], 0), method=5),
    "no box": lambda: ibpc.bound(NETWORK, None),
    "text as a box": lambda: ibpc.affine_bounds(NETWORK, "x"),
    "an array as a box": lambda: ibpc.affine_bounds(NETWORK, X.numpy()),
    "a radius as text": lambda: ibpc.certify(NETWORK, "digits", "0.1"),
    "no radius": lambda: ibpc.certify(NETWORK, "digits", None),
    "a seed below 0": lambda: ibpc.certify(NETWORK, "digits", 0.1, seed=-1),
    "a seed that is no integer": lambda: ibpc.radius(NETWORK, ibpc.Ball(X[0], 0), seed=0.5),
    "a time as text": lambda: ibpc.radius(NETWORK, ibpc.Ball(X[0], 0), timeout="1"),
    "changes that have no names": lambda: ibpc.Recipe.default("ibp", 0.1, "mnist").with_overrides([1]),
    "no changes": lambda: ibpc.Recipe.default("ibp", 0.1, "mnist").with_overrides(None),
    "an unknown device": lambda: NETWORK.to("foo"),
    "no device": lambda: NETWORK.to(None),
    "a crossed range": lambda: ibpc.Interval.ball(X, 0.1, clip=(1, 0)),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_arguments_of_the_wrong_kind_are_one_clear_error(misuse):
    with pytest.raises(UsageError):
        MISUSES[misuse]()
