"""The standing of an image after certification: certified, only correct, falsified, or misclassified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ibpc.verify.results import Example, Robustness
from ibpc.verify.verdicts import Verdict

STANDINGS: Final[Mapping[str, str]] = {
    "certified": "certified",
    "unknown": "correct, not certified",
    "attack": "correct, falsified",
    "wrong": "misclassified",
}


def standing(example: Example) -> str:
    """Return the standing of an example, a key of `STANDINGS`."""
    if example.predicted != example.label:
        return "wrong"
    return {Verdict.VERIFIED: "certified", Verdict.FALSIFIED: "attack"}.get(example.verdict, "unknown")


def least_margin(example: Example) -> float:
    """Return the least lower bound of the margins against the other classes."""
    return min((value for j, value in enumerate(example.margin_lower) if j != example.label), default=0.0)


def class_counts(result: Robustness, classes: int) -> list[dict[str, int]]:
    """Return for each class the number of its images by standing."""
    counts = [dict.fromkeys(STANDINGS, 0) for _ in range(classes)]
    for example in result.examples:
        counts[example.label][standing(example)] += 1
    return counts
