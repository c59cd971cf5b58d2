"""Networks and data small enough to train within a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ibpc.data import Augmentation, Dataset, Split
from ibpc.frontends.spec import graph_from_spec
from ibpc.network import Network
from ibpc.training.methods import reads
from ibpc.training.recipe import Recipe

PERCEPTRON: tuple[dict[str, Any], ...] = (
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 12},
    {"type": "ReLU"},
    {"type": "Linear", "out_features": 3},
)


def network(layers: tuple[dict[str, Any], ...] = PERCEPTRON, shape: tuple[int, ...] = (1, 4, 4)) -> Network:
    spec = {
        "ibpc": 1,
        "name": "tiny",
        "input": {"shape": list(shape)},
        "classes": 3,
        "layers": [dict(layer) for layer in layers],
    }
    return Network(graph_from_spec(spec, "tiny", seed=3))


def blobs(count: int = 100, shape: tuple[int, ...] = (1, 4, 4), noise: float = 0.1) -> Dataset:
    """Images of three classes, each a random pattern with noise."""
    generator = torch.Generator().manual_seed(8)
    patterns = torch.rand(3, *shape, generator=generator)

    def split(size: int) -> Split:
        labels = torch.arange(size) % 3
        pixels = patterns[labels] + noise * torch.randn(size, *shape, generator=generator)
        return Split(pixels.clamp(0, 1), labels)

    return Dataset("blobs", split(count), split(30), 3, "0" * 64, Augmentation.NONE)


def recipe(**changes: Any) -> Recipe:
    """Return a recipe of four epochs of five steps, with those of the changes that its method reads.

    Write dots in names as two underscores.
    """
    base = {
        "epochs": 4,
        "batch_size": 16,
        "initialization": "keep",
        "validation.images": 12,
        "optimizer.learning_rate": 0.01,
    }
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return Recipe.default("ibp", eps=0.02).with_overrides(read_by(named.get("method", "ibp"), base | named))


def read_by(method: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those changes of a recipe that a method reads."""
    return {key: value for key, value in changes.items() if reads(method, key)}
