"""A judge of trained networks for sweeps: how many held-out images a method of certification proves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from ibpc.data import Split, evenly
from ibpc.network import Network
from ibpc.rounding import Arithmetic
from ibpc.verify.attack import Attack
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.decide import image_plan

_ATTACK: Final = Attack(steps=20, restarts=1)
_BATCH: Final = 250


@dataclass(frozen=True)
class Judge:
    """Judge by `method`, as `ibpc.certify` has it, on `images` of the held-out ones, each for `timeout` seconds.

    Raises UsageError for an unknown method.
    """

    method: str
    images: int = 500
    timeout: float = 5.0

    def __post_init__(self) -> None:
        image_plan(self.method)

    def certified(self, network: Network, held: Split, eps: float) -> float:
        """Return the share of the images that is proved at the L∞ radius `eps`, in float32 arithmetic."""
        split = held.take(torch.tensor(evenly(self.images, len(held))))
        certifier = DataCertifier.of(self.method, Arithmetic.FLOAT32, _ATTACK, _BATCH, self.timeout)
        return certifier.run(network, split.floats(), split.labels, eps).certified_accuracy

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)
