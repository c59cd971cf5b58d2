"""Results of certifying a data set: the verdict on each sample, and the accuracies of all."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any
from zlib import compress, decompress
from zlib import error as zlib_error

import numpy as np

from ibpc.data import is_first
from ibpc.rounding import Arithmetic
from ibpc.verify.attack import Attack
from ibpc.verify.verdicts import Verdict


@dataclass(frozen=True)
class Example:
    """The verdict on one sample: every point of its box is classified as `label`, or one is not, or neither is known.

    Counterexamples were replayed in ONNX Runtime; a point that only PyTorch misclassifies does not count.

    `index` is that of the sample in its data set. `margin_lower[j]` is the best lower bound found of z_label − z_j over
    the box (0 at j = label); for a falsified sample it is that of the first method. `method` gave the verdict, or was
    tried last. `counterexample` is the flat point of a falsified sample, `seconds` are those of a sample that was tried
    by itself, None where a batch decided.
    """

    index: int
    label: int
    predicted: int
    verdict: Verdict
    margin_lower: tuple[float, ...]
    method: str
    counterexample: tuple[float, ...] | None = None
    seconds: float | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Example:
        """Return the example in JSON data. Raises KeyError, TypeError or ValueError if they are malformed."""
        margins = tuple(nan if value is None else _number(value) for value in data["margin_lower"])
        index, label, predicted = (_whole(data[key]) for key in ("index", "label", "predicted"))
        found, verdict = data["counterexample"], Verdict(data["verdict"])
        point = None if found is None else unpacked_point(str(found))
        seconds = None if data.get("seconds") is None else _number(data["seconds"])
        return cls(index, label, predicted, verdict, margins, str(data["method"]), point, seconds)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; a bound that is not finite is null."""
        return {
            "index": self.index,
            "label": self.label,
            "predicted": self.predicted,
            "verdict": self.verdict.value,
            "method": self.method,
            "margin_lower": [value if isfinite(value) else None for value in self.margin_lower],
            "counterexample": None if self.counterexample is None else packed_point(self.counterexample),
            **({} if self.seconds is None else {"seconds": round(self.seconds, 3)}),
        }


def _whole(value: object) -> int:
    """Return an integer of JSON data. Raises TypeError for anything else: True and 1.0 are none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def packed_point(point: tuple[float, ...]) -> str:
    """Return a point of binary32 numbers as text: compressed, in base64."""
    return b64encode(compress(np.asarray(point, "<f4").tobytes(), 6)).decode()


def unpacked_point(text: str) -> tuple[float, ...]:
    """Return the point that `packed_point` wrote. Raises ValueError or TypeError for other text."""
    try:
        return tuple(np.frombuffer(decompress(b64decode(text, validate=True)), "<f4").tolist())
    except zlib_error as problem:
        raise ValueError(str(problem)) from problem


@dataclass(frozen=True)
class Robustness:
    """The result of certifying a set of examples at radius `eps`.

    `attack` is the one that was run on all of them; `timeout` is the number of seconds for each example that the first
    method left open, None if nothing followed it.
    """

    eps: float
    method: str
    arithmetic: Arithmetic
    seconds: float
    examples: tuple[Example, ...] = field(repr=False)
    attack: Attack = Attack()
    timeout: float | None = None

    def __repr__(self) -> str:
        accuracies = (self.nominal_accuracy, self.attack_accuracy, self.certified_accuracy)
        shares = "nominal {:.2%}, attack {:.2%}, certified {:.2%}".format(*accuracies)
        return f"Robustness({len(self.examples):,} samples, ε = {self.eps:g}: {shares} by {self.method})"

    @property
    def nominal_accuracy(self) -> float:
        """The share of samples that are classified as their label."""
        return self._share(lambda example: example.predicted == example.label)

    @property
    def attack_accuracy(self) -> float:
        """The share of samples without a known counterexample: an upper bound of what could be certified."""
        return self._share(lambda example: example.verdict is not Verdict.FALSIFIED)

    @property
    def chosen(self) -> list[int] | None:
        """The indices of the samples in their data set, None if they are its first, in order."""
        indices = [example.index for example in self.examples]
        return None if is_first(indices) else indices

    @property
    def certified_accuracy(self) -> float:
        """The share of samples whose whole box is proved to be classified as the label."""
        return self._share(lambda example: example.verdict is Verdict.VERIFIED)

    @property
    def unbounded(self) -> int:
        """The number of undecided samples without a finite bound of any margin."""
        return sum(
            example.verdict is Verdict.UNKNOWN and not any(map(isfinite, _others(example))) for example in self.examples
        )

    def _share(self, holds: Callable[[Example], bool]) -> float:
        return sum(map(holds, self.examples)) / len(self.examples)

    def to_json(self) -> dict[str, Any]:
        """Return the accuracies and the examples as plain JSON data; "images" are indices that are not the first."""
        return {
            "n": len(self.examples),
            **({} if self.chosen is None else {"images": self.chosen}),
            "eps": self.eps,
            "nominal_accuracy": self.nominal_accuracy,
            "attack_accuracy": self.attack_accuracy,
            "certified_accuracy": self.certified_accuracy,
            "method": self.method,
            "arithmetic": self.arithmetic.value,
            "seconds": round(self.seconds, 3),
            "attack": {"steps": self.attack.steps, "restarts": self.attack.restarts, "seed": self.attack.seed},
            "timeout": self.timeout,
            "examples": [example.to_json() for example in self.examples],
        }


def _others(example: Example) -> list[float]:
    """Return the bounds of the margins over the other classes."""
    return [bound for label, bound in enumerate(example.margin_lower) if label != example.label]
