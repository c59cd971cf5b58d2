"""Callbacks that learn how a long computation proceeds."""

from __future__ import annotations


def ignore(_: object) -> None:
    """Do nothing: the callback for a caller who does not want to know."""
