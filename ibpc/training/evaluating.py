"""A module in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode while the block runs, so that parametrizations do not update their state."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)
