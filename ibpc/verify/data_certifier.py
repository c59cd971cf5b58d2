"""Certifying a data set by a plan: the first method on all examples in batches, the others on those it leaves open.

Batches, the order of examples and the seeds depend neither on the number of processes nor on where a job was
interrupted: a resumed job gives the same verdicts as one that ran through, except for what time limits cut off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, prod
from typing import Any, Final

import torch
from torch import Tensor

from ibpc.artifact import tool_versions
from ibpc.data import Dataset, fit_images, is_first
from ibpc.network import Network
from ibpc.progress import ignore
from ibpc.rounding import Arithmetic
from ibpc.verify.attack import Attack
from ibpc.verify.balls import Ball
from ibpc.verify.batch_certifier import BatchCertifier
from ibpc.verify.decide import DecisionOptions, image_plan
from ibpc.verify.journal import Journal
from ibpc.verify.results import Example, Robustness
from ibpc.verify.subject import Subject
from ibpc.verify.verdicts import ATTACKED, Verdict
from ibpc.workers import ALONE, Workers

# Images at which ONNX Runtime has to agree with the network.
_COMPARED: Final = 8


@dataclass(frozen=True)
class DataCertifier:
    """How to certify a data set: `first` on all examples, then `rest` on each that is still open.

    `name` is the plan's name in the report.
    """

    name: str
    first: BatchCertifier
    rest: DecisionOptions | None = None

    @classmethod
    def of(
        cls, method: str, arithmetic: Arithmetic, attack: Attack, batch: int, timeout: float, seed: int = 0
    ) -> DataCertifier:
        """Return the certifier by the plan of a method, all attacks drawing with `seed`. Raises UsageError."""
        first, *rest = image_plan(method)
        batches = BatchCertifier(first, arithmetic, replace(attack, seed=attack.seed + seed), batch)
        decision = DecisionOptions(tuple(rest), arithmetic, timeout=timeout)
        seeded = replace(decision, attack=replace(decision.attack, seed=seed))
        return cls(method, batches, seeded if rest else None)

    def identity(self, network: Network, dataset: Dataset, eps: float, indices: Sequence[int]) -> dict[str, Any]:
        """Return, as JSON data, everything that verdicts on the images of these indices depend on.

        It identifies a job.
        """
        return {
            "job": "certify",
            "network": network.fingerprint(),
            "data": dataset.sha256,
            "eps": eps,
            "n": len(indices),
            "images": None if is_first(indices) else list(indices),
            "method": self.name,
            "arithmetic": self.first.arithmetic.value,
            "attack": str(self.first.attack),
            "batch": self.first.batch,
            "timeout": None if self.rest is None else self.rest.timeout,
            "versions": tool_versions(),
        }

    def run(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        eps: float,
        journal: Journal | None = None,
        workers: Workers = ALONE,
        progress: Callable[[int], object] = ignore,
        earlier: Sequence[Example] = (),
        indices: Sequence[int] | None = None,
    ) -> Robustness:
        """Certify all images (B, …), in the units of `eps`, at the L∞ radius `eps`.

        `indices` (B), increasing, are those of the images in their data set; without them these are its first. Verdicts
        of `earlier` examples are taken over; those that are open are left to the rest of the plan.

        Boxes are clipped to the range of the network's input, [0, 1] if it states none. Each of the `workers` takes its
        share of the batches; examples in the `journal` (default: an empty one in memory) are not done again. `progress`
        gets the number of examples with a verdict, as far as this process knows. Every process returns the whole
        result. Raises PropertyError for a bad radius, images that do not fit the network, or labels outside its
        classes.
        """
        images = fit_images(images, network.input_shape)
        journal = Journal(None, {}) if journal is None else journal
        self.first.check(network, images, labels, eps)
        places = {index: place for place, index in enumerate(range(len(images)) if indices is None else indices)}
        decided, left = _sorted(earlier, places)
        journal.take_over(decided)
        journal.expect(partial(self._problem_of, network, labels, places), left.values())
        started, subject = time.monotonic(), Subject(network)
        subject.expect_agreement([images[:_COMPARED].to(torch.float32)])
        for example in self._judged(subject, images, labels, places, eps, journal, workers, left if self.rest else {}):
            journal.add(example)
            progress(len(journal.examples))
        found = dict(sorted(pair for part in workers.gathered(journal.examples) for pair in part.items()))
        seconds = time.monotonic() - started
        timeout = None if self.rest is None else self.rest.timeout
        examples = tuple(found.values())
        return Robustness(eps, self.name, self.first.arithmetic, seconds, examples, self.first.attack, timeout)

    def _problem_of(self, network: Network, labels: Tensor, places: Mapping[int, int], example: Example) -> str | None:
        """Return why a verdict cannot be one on these images, None if it can."""
        index, label, classes = example.index, example.label, network.classes
        is_verified, is_falsified = (example.verdict is each for each in (Verdict.VERIFIED, Verdict.FALSIFIED))
        sizes = (len(example.counterexample or ()), prod(network.input_shape) if is_falsified else 0)
        if index not in places:
            return f"it is none of the {len(labels):,} images"
        if label != (wanted := int(labels[places[index]])):
            return f"label {label}, where the data have {wanted}"
        if not 0 <= example.predicted < classes or len(example.margin_lower) != classes:
            return f"predicted {example.predicted} and {len(example.margin_lower)} margins of {classes} classes"
        if is_verified and label != example.predicted and self.first.arithmetic is Arithmetic.FLOAT32:
            return f"verified as {label}, though predicted {example.predicted}"
        if sizes[0] != sizes[1]:
            return f"{example.verdict.value} with a counterexample of {sizes[0]:,} numbers, not {sizes[1]:,}"
        return None

    def _judged(
        self,
        subject: Subject,
        images: Tensor,
        labels: Tensor,
        places: Mapping[int, int],
        eps: float,
        journal: Journal,
        workers: Workers,
        left: Mapping[int, Example],
    ) -> Iterator[list[Example]]:
        """Yield examples with their final verdict: first those that the first method decides, then one by one.

        It has left those of `left`. `places` are those of the indices among the images.
        """
        indices = list(places)
        batches = [b for n, b in enumerate(self.first.batches(len(images))) if n % workers.count == workers.rank]
        known = journal.examples.keys() | left.keys()
        mine = [batch for batch in batches if not all(indices[place] in known for place in batch)]
        untouched = (indices[place] for batch in batches if batch not in mine for place in batch)
        waiting = [left[index] for index in untouched if index not in journal.examples]
        for examples in self.first.judge(subject, images, labels, eps, mine, indices):
            new = [example for example in examples if example.index not in journal.examples]
            still = [example for example in new if self.rest is not None and example.verdict is Verdict.UNKNOWN]
            waiting += still
            yield [example for example in new if example not in still]
        for example in waiting:
            yield [self._decided(subject, images[places[example.index]], eps, example)]

    def _decided(self, subject: Subject, image: Tensor, eps: float, example: Example) -> Example:
        """Return the example with the verdict and margins of the rest of the plan."""
        assert self.rest is not None
        network = subject.network
        decision = self.rest.run(subject, Ball(image, example.label).within(eps, network))
        example = replace(example, verdict=decision.verdict, seconds=decision.seconds)
        if decision.counterexample is not None:
            point = decision.counterexample.inputs
            return replace(example, method=ATTACKED, counterexample=point)
        others = [other for other in range(network.classes) if other != example.label]
        margins = list(example.margin_lower)
        for other, margin in zip(others, decision.margins[0] if decision.margins else (), strict=False):
            if isfinite(margin):
                margins[other] = margin if not isfinite(margins[other]) else max(margin, margins[other])
        return replace(example, method=decision.method, margin_lower=tuple(margins))


def _sorted(earlier: Sequence[Example], wanted: Container[int]) -> tuple[dict[int, Example], dict[int, Example]]:
    """Return, by index, the examples with a wanted index that are decided and those that are open."""
    found: tuple[dict[int, Example], dict[int, Example]] = {}, {}
    for example in earlier:
        if example.index in wanted:
            found[example.verdict not in (Verdict.VERIFIED, Verdict.FALSIFIED)][example.index] = example
    return found
