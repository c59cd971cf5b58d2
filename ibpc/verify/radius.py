"""The largest radius at which an input is certified, by bisection over verdicts.

A box lies in every larger one around the same point, so what holds at ε holds below ε, and a counterexample at ε is one
above ε as well: verdicts bracket the radius from both sides, whatever method gave them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from ibpc.errors import UsageError
from ibpc.verify.verdicts import Verdict


@dataclass(frozen=True)
class Radius:
    """What is known of one input: certified up to `certified`, falsified from `falsified` on (None: nowhere).

    Both are in pixels of [0, 1], and both 0 for an input that is misclassified. `certified` is 0 as well if not even
    the smallest radius that was tried is certified.
    """

    certified: float
    falsified: float | None
    decisions: int

    @property
    def gap(self) -> float:
        """The distance between the two ends; infinite if no counterexample was found."""
        return float("inf") if self.falsified is None else self.falsified - self.certified


def largest_radius(verdict_at: Callable[[float], Verdict], most: float, tolerance: float) -> Radius:
    """Return the bracket of the certified radius in [0, most], its certified end accurate to `tolerance`.

    `verdict_at(eps)` decides robustness at a radius. Raises UsageError for a range or tolerance that is not positive.
    """
    for name, value in (("most", most), ("tolerance", tolerance)):
        if not (isfinite(value) and value > 0):
            raise UsageError.at(name, f"found {value:g}", "a number above 0")
    if verdict_at(0.0) is Verdict.FALSIFIED:
        return Radius(0.0, 0.0, 1)
    low, high, falsified, decisions = 0.0, most, None, 1
    tried = most
    while True:
        verdict = verdict_at(tried)
        decisions += 1
        if verdict is Verdict.VERIFIED:
            low = tried
        else:
            high = tried
            falsified = tried if verdict is Verdict.FALSIFIED else falsified
        tried = 0.5 * (low + high)
        if high - low <= tolerance or low == most or not low < tried < high:
            return Radius(low, falsified, decisions)
