"""The parts that a search cuts its box into, whatever it cuts along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf, prod
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds.values import Walk

_NUMBERS: Final = 2**22
_SUSPECTS: Final = 64


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


class BoxStack(Parts):
    """Parts are boxes of inputs: flat ends (B, n), and the margins (B,) of the boxes that they were cut from."""

    def __init__(self, lower: Tensor, upper: Tensor, at_once: int) -> None:
        self._lower, self._upper, self._margins = lower[None], upper[None], lower.new_full((1,), -inf)
        self._at_once = at_once

    @property
    def waiting(self) -> int:
        """The number of parts on the stack."""
        return len(self._lower)

    def suspects(self) -> Tensor:
        """Return the centers of the boxes that are furthest from being refuted."""
        worst = self._margins.topk(min(_SUSPECTS, len(self._margins)), largest=False).indices
        return 0.5 * self._lower[worst] + 0.5 * self._upper[worst]

    def _taken(self) -> tuple[Tensor, Tensor]:
        """Take the boxes on top."""
        count = min(self._at_once, len(self._lower))
        top = self._lower[-count:], self._upper[-count:]
        self._lower, self._upper = self._lower[:-count], self._upper[:-count]
        self._margins = self._margins[:-count]
        return top

    def _halved(self, lower: Tensor, upper: Tensor, margins: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
        """Put back both halves of boxes, cut along the axes of greatest gain (B, n); return axes and middles (B,)."""
        axis = gains.argmax(1, keepdim=True)
        middle = (0.5 * lower + 0.5 * upper).gather(1, axis)
        self.is_stuck |= bool((upper - lower).gather(1, axis).le(0).any())
        self._lower = torch.cat([self._lower, lower, lower.scatter(1, axis, middle)])
        self._upper = torch.cat([self._upper, upper.scatter(1, axis, middle), upper])
        self._margins = torch.cat([self._margins, margins, margins])
        return axis[:, 0], middle[:, 0]

    def _least_margin(self) -> float:
        return float(self._margins.amin()) if len(self._margins) else inf


def parts_at_once(walk: Walk, most: int) -> int:
    """Return how many parts are bounded together."""
    return max(1, min(most, _NUMBERS // max(1, value_count(walk))))


def value_count(walk: Walk) -> int:
    """Return how many values the network has at one point."""
    return sum(prod(step.node.shape[1:]) for step in walk.steps.values())
