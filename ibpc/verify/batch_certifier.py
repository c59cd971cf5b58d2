"""Certifying batches of images by one method: a prediction, bounds of all margins, and an attack if these are open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Final

import torch
from torch import Tensor

from ibpc.bounds import method_named
from ibpc.bounds.definedness import Definedness
from ibpc.errors import PropertyError
from ibpc.interval import Interval
from ibpc.margins import class_differences, margin_index, margins_of
from ibpc.memory import kept_memory
from ibpc.network import Network
from ibpc.rounding import Arithmetic, outer_ball, plain_products
from ibpc.verify.attack import Attack
from ibpc.verify.margin_attack import inner_box, margin, worst_points
from ibpc.verify.results import Example
from ibpc.verify.subject import Subject
from ibpc.verify.verdicts import ATTACKED, Verdict

# At least this many batches, even of few images, so that several processes have work.
SHARES: Final = 8


@dataclass(frozen=True)
class BatchCertifier:
    """How to certify in batches: bounding method, arithmetic of the claim, attack, and samples per batch."""

    method: str
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    attack: Attack = Attack()
    batch: int = 250

    @staticmethod
    def check(network: Network, images: Tensor, labels: Tensor, eps: float) -> None:
        """Raise PropertyError for a bad radius, no images, or labels outside the network's classes."""
        if not 0 <= eps < float("inf"):
            raise PropertyError.at("eps", f"found {eps}", "a number of at least 0")
        if len(images) == 0:
            raise PropertyError.at("data", "no images", "at least one")
        expected = f"one of 0 to {network.classes - 1} for each image"
        if len(labels) != len(images):
            raise PropertyError.at("data", f"{len(labels):,} labels of {len(images):,} images", expected)
        odd = ((labels < 0) | (labels >= network.classes)).nonzero().flatten().tolist()
        if odd:
            raise PropertyError.at("data", f"label {int(labels[odd[0]])} of image {odd[0]}", expected)

    def batches(self, count: int) -> list[range]:
        """Return the batches of `count` images, smaller ones if there are few: processes share them."""
        size = max(1, min(self.batch, -(-count // SHARES)))
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def judge(
        self,
        subject: Subject,
        images: Tensor,
        labels: Tensor,
        eps: float,
        batches: Sequence[range],
        indices: Sequence[int],
    ) -> Iterator[list[Example]]:
        """Yield the examples of each batch of images (B, …) that fit the network; `indices` (B) number them."""
        if not batches:
            return
        device = subject.device
        with kept_memory(device):
            certification = _Certification(self, subject, _hull(subject.network, images, eps))
            for batch in batches:
                part = slice(batch.start, batch.stop)
                x, answers = images[part].to(device), labels[part].to(device)
                yield list(certification.examples(x, answers, eps, indices[part]))


class _Certification:
    """The compiled parts of one certification.

    Bounds use plain products. The attack may use any, which is far faster on a GPU: its finds are replayed.
    `everything` is a box around those of all images: if every value is finite all over it, no image is checked alone.
    """

    def __init__(self, options: BatchCertifier, subject: Subject, everything: Interval) -> None:
        self._options = options
        self._network, self._replay = subject.network, subject.replay
        differences = class_differences(self._network.classes)
        self._definedness = Definedness(subject.original, options.arithmetic)
        bounder = method_named(options.method).bounder
        with plain_products():
            self._bound = bounder(subject.walk, differences, options.arithmetic)
            self._is_defined = self._definedness.doubts((everything,)) == [None]
        self._index = margin_index(self._network.classes).to(subject.device)

    def examples(self, x: Tensor, labels: Tensor, eps: float, indices: Sequence[int]) -> Iterator[Example]:
        lower, upper = outer_ball(x, eps, self._network.pixel_range)
        box = Interval.bounds(lower, upper)
        with plain_products(), torch.no_grad():
            differences = self._bound(box)
            predicted = self._network.nominal(x).argmax(1)
        margins = margins_of(differences.lower, differences.upper, labels, self._index)
        doubtful = self._doubtful(box, margins)
        margins[doubtful] = nan
        verdicts, found = self._verdicts(x, inner_box(x, box), labels, margins)
        for number in doubtful:
            verdicts[number] = Verdict.UNKNOWN if verdicts[number] is Verdict.VERIFIED else verdicts[number]
        rows = zip(indices, labels.tolist(), predicted.tolist(), verdicts, margins.tolist(), strict=True)
        for offset, (index, label, guess, verdict, row) in enumerate(rows):
            method = ATTACKED if verdict is Verdict.FALSIFIED else self._options.method
            yield Example(index, label, guess, verdict, tuple(row), method, found.get(offset))

    def _doubtful(self, box: Interval, margins: Tensor) -> list[int]:
        """Return the samples whose bounds claim something (always, if there is one class) though a value may be NaN."""
        if self._is_defined:
            return []
        # The label's own margin, 0, claims nothing.
        claimed = ((margins > -inf).sum(1) > min(1, margins.shape[1] - 1)).nonzero()[:, 0].tolist()
        if not claimed:
            return []
        with plain_products():
            doubts = self._definedness.doubts((box.map(lambda end: end[claimed]),))
        return [number for number, doubt in zip(claimed, doubts, strict=True) if doubt is not None]

    def _verdicts(
        self, x: Tensor, box: Interval, labels: Tensor, margins: Tensor
    ) -> tuple[list[Verdict], dict[int, tuple[float, ...]]]:
        """Return the verdicts, and the counterexamples by their index in the batch; `box` is the one to search."""
        found: dict[int, tuple[float, ...]] = {}
        others = torch.ones_like(margins, dtype=torch.bool).scatter(1, labels[:, None], False)
        verified = (((margins > 0) & margins.isfinite()) | ~others).all(1)
        verdicts = [Verdict.VERIFIED if proved else Verdict.UNKNOWN for proved in verified.tolist()]
        open_ones = (~verified).nonzero()[:, 0]
        if len(open_ones):
            part = box.map(lambda end: end[open_ones])
            worst = worst_points(self._options.attack, self._network.guiding, x[open_ones], part, labels[open_ones])
            for index, point, label in zip(open_ones.tolist(), worst, labels[open_ones].tolist(), strict=True):
                if self._is_misclassified(point, label):
                    verdicts[index] = Verdict.FALSIFIED
                    found[index] = tuple(point.flatten().tolist())
        return verdicts, found

    def _is_misclassified(self, point: Tensor, label: int) -> bool:
        logits = self._replay([point])[None, : self._network.classes]
        return bool(margin(logits, torch.tensor([label])) <= 0)


def _hull(network: Network, images: Tensor, eps: float) -> Interval:
    """Return the least box (1, …) that contains the balls of all images."""
    least, greatest = (end[None].to(network.device) for end in (images.amin(0), images.amax(0)))
    lower, _ = outer_ball(least, eps, network.pixel_range)
    _, upper = outer_ball(greatest, eps, network.pixel_range)
    return Interval.bounds(lower, upper)
