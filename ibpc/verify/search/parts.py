"""The parts that a search cuts its box into, whatever it cuts along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf, prod
from typing import Final

from torch import Tensor

from ibpc.bounds.values import Walk

_NUMBERS: Final = 2**22


class Parts(ABC):
    """The parts that are waiting to be bounded."""

    margin: float = inf
    is_stuck: bool = False

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of parts on the stack."""

    @abstractmethod
    def suspects(self) -> Tensor:
        """Return a few points, flat (n, inputs), perhaps none, where a counterexample is most likely."""

    @abstractmethod
    def advance(self, deadline: float) -> int:
        """Bound the parts on top of the stack and cut those that are not refuted; return how many were bounded."""


def parts_at_once(walk: Walk, most: int) -> int:
    """Return how many parts are bounded together."""
    return max(1, min(most, _NUMBERS // max(1, value_count(walk))))


def value_count(walk: Walk) -> int:
    """Return how many values the network has at one point."""
    return sum(prod(step.node.shape[1:]) for step in walk.steps.values())
