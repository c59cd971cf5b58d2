"""Certification of a data set: nominal, attack and certified accuracy, with a verdict for every example."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf, isfinite, nan
from typing import Any, Final, TypeAlias
from zlib import compress, decompress
from zlib import error as zlib_error

import numpy as np
import torch
from torch.nn import functional as F

from ibpc.bounds import Method
from ibpc.bounds.definedness import Definedness
from ibpc.data import fit_images
from ibpc.errors import PropertyError
from ibpc.interval import Interval
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.memory import kept_memory
from ibpc.network import Network
from ibpc.rounding import Arithmetic, outer_ball, plain_products
from ibpc.verify.attack import Attack, Points
from ibpc.verify.replay import Replay

Logits: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

TARGETS: Final = 3
# Parts that few images are split into at least, so that several processes have work.
SHARES: Final = 8
ATTACKED: Final = "attack"


class Verdict(Enum):
    """What is known of a property. Never more than what was proved or shown."""

    VERIFIED = "verified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Example:
    """The verdict on one sample: every point of its box is classified as `label`, or one is not, or neither is known.

    A counterexample was replayed in ONNX Runtime; one that only PyTorch sees is no counterexample.

    `margin_lower[j]` is a lower bound of z_label − z_j over the box (0 at j = label), the best that was found; of a
    falsified sample that of the first method. `method` is what gave the verdict, or what was tried last.
    `counterexample` is the point, flat, of a falsified sample.
    """

    index: int
    label: int
    predicted: int
    verdict: Verdict
    margin_lower: tuple[float, ...]
    method: str
    counterexample: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Example:
        """Return the example of JSON data. Raises KeyError, TypeError or ValueError where they are none."""
        margins = tuple(nan if value is None else float(value) for value in data["margin_lower"])
        index, label, predicted = (int(data[key]) for key in ("index", "label", "predicted"))
        found = data["counterexample"]
        point = None if found is None else unpacked_point(str(found))
        return cls(index, label, predicted, Verdict(data["verdict"]), margins, str(data["method"]), point)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; a bound that is not finite is null."""
        return {
            "index": self.index,
            "label": self.label,
            "predicted": self.predicted,
            "verdict": self.verdict.value,
            "method": self.method,
            "margin_lower": [
                value if abs(value) != float("inf") and value == value else None for value in self.margin_lower
            ],
            "counterexample": None if self.counterexample is None else packed_point(self.counterexample),
        }


def packed_point(point: tuple[float, ...]) -> str:
    """Return a point of binary32 numbers as text: compressed, in base 64."""
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

    `attack` is the one that all were searched by, `timeout` how many seconds each image had that it left open, None
    where nothing came behind the first bounds.
    """

    eps: float
    method: str
    arithmetic: Arithmetic
    seconds: float
    examples: tuple[Example, ...] = field(repr=False)
    attack: Attack = Attack()
    timeout: float | None = None

    @property
    def nominal_accuracy(self) -> float:
        """The share of samples that are classified as their label."""
        return self._share(lambda example: example.predicted == example.label)

    @property
    def attack_accuracy(self) -> float:
        """The share of samples for which no counterexample is known: what could at most be certified."""
        return self._share(lambda example: example.verdict is not Verdict.FALSIFIED)

    @property
    def certified_accuracy(self) -> float:
        """The share of samples whose whole box is proved to be classified as the label."""
        return self._share(lambda example: example.verdict is Verdict.VERIFIED)

    @property
    def unbounded(self) -> int:
        """The number of samples that are undecided and of which no margin has a finite bound."""
        return sum(
            example.verdict is Verdict.UNKNOWN and not any(map(isfinite, _others(example))) for example in self.examples
        )

    def _share(self, holds: Callable[[Example], bool]) -> float:
        return sum(map(holds, self.examples)) / len(self.examples)

    def to_json(self) -> dict[str, Any]:
        """Return the accuracies and the examples as plain JSON data."""
        return {
            "n": len(self.examples),
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


@dataclass(frozen=True)
class Certification:
    """How to certify: the bounding method, the arithmetic of the claim, the attack, and samples a batch."""

    method_name: str
    method: Method
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    attack: Attack = Attack()
    batch: int = 250

    def run(
        self,
        network: Network,
        images: torch.Tensor,
        labels: torch.Tensor,
        eps: float,
        progress: Callable[[int], object] = int,
    ) -> Robustness:
        """Certify all images (B, …) in the units of `eps` at the L∞ radius `eps`.

        The boxes are clipped to the range of the network's input, pixels in [0, 1] if it states none. `progress` is
        told how many are done. Raises PropertyError for a bad radius, images that do not fit the network, or labels
        outside its classes.
        """
        images = fit_images(images, network.input_shape)
        self.check(network, images, labels, eps)
        started = time.monotonic()
        examples: list[Example] = []
        for found in self.judge(network, images, labels, eps, self.batches(len(images))):
            examples += found
            progress(len(examples))
        seconds = time.monotonic() - started
        return Robustness(eps, self.method_name, self.arithmetic, seconds, tuple(examples), self.attack)

    def check(self, network: Network, images: torch.Tensor, labels: torch.Tensor, eps: float) -> None:
        """Raise PropertyError for a bad radius, no images, or labels outside the network's classes."""
        _check(network, images, labels, eps)

    def batches(self, count: int) -> list[range]:
        """Return the batches of `count` images, smaller ones where there are few: processes share them."""
        size = max(1, min(self.batch, -(-count // SHARES)))
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def judge(
        self, network: Network, images: torch.Tensor, labels: torch.Tensor, eps: float, batches: Sequence[range]
    ) -> Iterator[list[Example]]:
        """Yield the examples of each batch of images (B, …) that fit the network."""
        if not batches:
            return
        device = network.device
        with kept_memory(device):
            judge = _Judge(self, network, device, _hull(network, images, eps))
            for batch in batches:
                part = slice(batch.start, batch.stop)
                yield list(judge.examples(images[part].to(device), labels[part].to(device), eps, batch.start))


class _Judge:
    """The compiled parts of one certification.

    Bounds are made of plain products. The attack may use any, what it finds is replayed: on a GPU that is far faster.
    `everything` is a box around those of all images: where each value is a number all over it, no image needs a look.
    """

    def __init__(self, options: Certification, network: Network, device: torch.device, everything: Interval) -> None:
        self._options = options
        self._network = network
        differences = class_differences(network.classes)
        self._definedness = Definedness(network.snapshot(), options.arithmetic, device)
        with plain_products():
            self._bound = options.method(network.snapshot(), differences, options.arithmetic, device)
            self._is_defined = self._definedness.doubts((everything,)) == [None]
        self._index = margin_index(network.classes).to(device)
        self._replay = Replay.of(network)

    def examples(self, x: torch.Tensor, labels: torch.Tensor, eps: float, first: int) -> Iterator[Example]:
        lower, upper = outer_ball(x, eps, self._network.pixel_range)
        box = Interval.bounds(lower, upper)
        with plain_products(), torch.no_grad():
            differences = self._bound(box)
            predicted = self._network.nominal(x).argmax(1)
        margins = margins_of(differences.lower, differences.upper, labels, self._index)
        doubtful = self._doubtful(box, margins)
        margins[doubtful] = nan
        verdicts, found = self._verdicts(x, _inner(x, box), labels, margins)
        for number in doubtful:
            verdicts[number] = Verdict.UNKNOWN if verdicts[number] is Verdict.VERIFIED else verdicts[number]
        rows = zip(labels.tolist(), predicted.tolist(), verdicts, margins.tolist(), strict=True)
        for offset, (label, guess, verdict, row) in enumerate(rows):
            method = ATTACKED if verdict is Verdict.FALSIFIED else self._options.method_name
            yield Example(first + offset, label, guess, verdict, tuple(row), method, found.get(offset))

    def _doubtful(self, box: Interval, margins: torch.Tensor) -> list[int]:
        """Return the samples of which bounds say something, if only of no other class, although a value may be NaN."""
        if self._is_defined:
            return []
        # The label's own margin, 0, says nothing.
        claimed = ((margins > -inf).sum(1) > min(1, margins.shape[1] - 1)).nonzero()[:, 0].tolist()
        if not claimed:
            return []
        with plain_products():
            doubts = self._definedness.doubts((Interval.bounds(box.lower[claimed], box.upper[claimed]),))
        return [number for number, doubt in zip(claimed, doubts, strict=True) if doubt is not None]

    def _verdicts(
        self, x: torch.Tensor, box: Interval, labels: torch.Tensor, margins: torch.Tensor
    ) -> tuple[list[Verdict], dict[int, tuple[float, ...]]]:
        """Return the verdicts, and the counterexamples by their places in the batch; `box` is the one to search."""
        found: dict[int, tuple[float, ...]] = {}
        others = torch.ones_like(margins, dtype=torch.bool).scatter(1, labels[:, None], False)
        verified = (((margins > 0) & margins.isfinite()) | ~others).all(1)
        verdicts = [Verdict.VERIFIED if proved else Verdict.UNKNOWN for proved in verified.tolist()]
        open_ones = (~verified).nonzero()[:, 0]
        if len(open_ones):
            part = Interval.bounds(box.lower[open_ones], box.upper[open_ones])
            worst = _worst(self._options.attack, self._network.guiding, x[open_ones], part, labels[open_ones])
            for index, point, label in zip(open_ones.tolist(), worst, labels[open_ones].tolist(), strict=True):
                if self._is_misclassified(point, label):
                    verdicts[index] = Verdict.FALSIFIED
                    found[index] = tuple(point.flatten().tolist())
        return verdicts, found

    def _is_misclassified(self, point: torch.Tensor, label: int) -> bool:
        logits = self._replay([point])[None, : self._network.classes]
        return bool(margin(logits, torch.tensor([label])) <= 0)


def _hull(network: Network, images: torch.Tensor, eps: float) -> Interval:
    """Return the least box (1, …) around the balls of all images."""
    least, greatest = (end[None].to(network.device) for end in (images.amin(0), images.amax(0)))
    lower, _ = outer_ball(least, eps, network.pixel_range)
    _, upper = outer_ball(greatest, eps, network.pixel_range)
    return Interval.bounds(lower, upper)


def _inner(x: torch.Tensor, box: Interval) -> Interval:
    """Return a box inside the exact ball, of which `box` is the one rounded outward: ends one number further in."""
    point = torch.minimum(torch.maximum(x, box.lower), box.upper)
    inward = torch.nextafter(box.lower, box.upper), torch.nextafter(box.upper, box.lower)
    return Interval.bounds(torch.minimum(inward[0], point), torch.maximum(inward[1], point))


# ── attacks on margins ──────────────────────────────────────────────────────────────────────────────────────────
def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return z_label − max over other classes, (B,): at most 0 where the prediction is wrong."""
    hot = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(hot, -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def _worst(attack: Attack, model: Logits, x: torch.Tensor, box: Interval, labels: torch.Tensor) -> torch.Tensor:
    """Return the point of each box with the least margin found: by one attack on the margin, then one on each target.

    The targets are the `TARGETS` classes that come nearest to the label at the best point so far.
    """
    found = attack.run(lambda points, items: margin(model(points[0]), labels[items]), (x,), (box,))
    worst, left = found.points[0], (found.scores > 0).nonzero()[:, 0]
    if not len(left):
        return worst
    with torch.no_grad():
        logits = model(worst[left]).scatter(1, labels[left, None], -torch.inf)
    targets = logits.topk(min(TARGETS, logits.shape[1] - 1), 1).indices
    rows, wanted = left.repeat_interleave(targets.shape[1]), targets.flatten()

    def score(points: Points, items: torch.Tensor) -> torch.Tensor:
        outputs = model(points[0])
        true = outputs.gather(1, labels[rows[items], None])
        return (true - outputs.gather(1, wanted[items, None]))[:, 0]

    targeted = attack.run(score, (worst[rows],), (Interval.bounds(box.lower[rows], box.upper[rows]),))
    best = targeted.scores.reshape(targets.shape).min(1)
    points = targeted.points[0].reshape(*targets.shape, *worst.shape[1:])
    worst[left] = points[torch.arange(len(left), device=left.device), best.indices]
    return worst


def _check(network: Network, images: torch.Tensor, labels: torch.Tensor, eps: float) -> None:
    if not 0 <= eps < float("inf"):
        raise PropertyError.at("eps", f"found {eps}", "a number of at least 0")
    if len(images) == 0:
        raise PropertyError.at("data", "no images", "at least one")
    if len(labels) != len(images) or int(labels.min()) < 0 or int(labels.max()) >= network.classes:
        raise PropertyError.at("data", "labels that do not fit", f"one of 0 to {network.classes - 1} for each image")
