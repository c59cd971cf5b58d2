"""Verdicts on a property."""

from __future__ import annotations

from enum import Enum
from typing import Final

# The method of a verdict that rests on a counterexample.
ATTACKED: Final = "attack"


class Verdict(Enum):
    """The verdict on a property: never more than what was proved or shown."""

    VERIFIED = "verified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
