"""What a graph's hints say of its numbers: whether weights are random or trained, and constants doubtful."""

from __future__ import annotations

from typing import Final

from ibpc.ir import Graph

# A constant of the file that runtimes may compute differently, or that float32 does not hold.
INEXACT: Final = "inexact"
# What is noted of a source in double precision.
NARROWED: Final = "it computes in double precision; the network rounds its weights to float32"

_WEIGHTS: Final = "weights"
_FRESH: Final = "fresh"
_TRAINED: Final = "trained"


def mark_fresh(graph: Graph) -> None:
    """Say that the weights are random: training may draw them anew."""
    graph.hints[_WEIGHTS] = _FRESH


def mark_trained(graph: Graph) -> None:
    """Say that the weights are trained, so that what the file computed of them no longer counts."""
    graph.hints[_WEIGHTS] = _TRAINED
    graph.hints.pop(INEXACT, None)


def are_fresh(hints: object) -> bool:
    """Return whether hints, of a graph or read from a file, say that the weights are random."""
    return isinstance(hints, dict) and hints.get(_WEIGHTS) == _FRESH


def are_trained(hints: object) -> bool:
    """Return whether hints, of a graph or read from a file, say that the weights are trained."""
    return isinstance(hints, dict) and hints.get(_WEIGHTS) == _TRAINED
