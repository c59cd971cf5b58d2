"""What can be known of a property."""

from __future__ import annotations

from enum import Enum
from typing import Final

# The method of a verdict that a counterexample gave.
ATTACKED: Final = "attack"


class Verdict(Enum):
    """What is known of a property. Never more than what was proved or shown."""

    VERIFIED = "verified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
