"""The claims of a data set's certificate: the data, the accuracies, every prediction, counterexample and margin."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibpc.data import Dataset, fit_images, listed
from ibpc.errors import ModelError, PropertyError
from ibpc.progress import ignore
from ibpc.rounding import Arithmetic
from ibpc.verify.allowances import UNACCOUNTED, magnitudes
from ibpc.verify.certificates.certificate import INTERVAL_METHODS, PLANE_METHODS, Claim
from ibpc.verify.checking import Checker
from ibpc.verify.checking.regions import EmptyError, Region
from ibpc.verify.replay import Replay
from ibpc.verify.verdicts import Verdict


@dataclass(frozen=True, eq=False)
class DataCheck:
    """A data set's certificate (validated JSON data), and the model and data that it is judged on.

    `shape` and `limits` describe the network's input.
    """

    certificate: Mapping[str, Any]
    model: onnx.ModelProto
    dataset: Dataset
    shape: tuple[int, ...]
    limits: tuple[float, float]

    def claims(self, progress: Callable[[int], object] = ignore) -> Iterator[Claim]:
        """Yield each claim; `progress` gets the number of examples whose bounds were begun."""
        digest = self.dataset.sha256
        yield Claim("data", digest == self.certificate["data_sha256"], f"SHA-256 {digest[:16]}…")
        try:
            misplaced = self._misplaced()
            yield Claim("images", misplaced is None, misplaced or self._which())
            if misplaced is None:
                yield from self._shares()
                yield from self._answers()
                yield from self._counterexamples()
                yield from self._bounds(progress)
        except (ModelError, PropertyError) as error:
            yield Claim("examples", False, str(error))

    @property
    def _examples(self) -> Sequence[Mapping[str, Any]]:
        examples: Sequence[Mapping[str, Any]] = self.certificate["examples"]
        return examples

    def _with_verdict(self, verdict: Verdict) -> list[Mapping[str, Any]]:
        return [example for example in self._examples if example["verdict"] == verdict.value]

    @cached_property
    def _replay(self) -> Replay:
        return Replay(self.model)

    @cached_property
    def _images(self) -> Tensor:
        return fit_images(self.dataset.test.floats(), self.shape)

    # ── the list of examples ────────────────────────────────────────────────────────────────────────────────────
    def _misplaced(self) -> str | None:
        """Return what is wrong with the list of examples, None if it is that of the images with their labels."""
        examples, count, stated = self._examples, len(self._replay.input_sizes), self._stated
        if count != 1:
            return f"the model has {count:,} inputs, an image is one"
        if not all(index < after for index, after in pairwise(stated)):
            return "the indices of its images do not increase"
        if len(stated) != len(examples):
            return f"there are {len(examples):,} examples of {len(stated):,} images"
        classes = len(self._replay([self._images[0]])) if examples else 0
        for place, (index, example) in enumerate(zip(stated, examples, strict=True)):
            if example["index"] != index:
                return f"example {place} is number {example['index']} of the data, not {index}"
            if not self._is_there(example):
                return f"example {place} is not in the data, or its label differs"
            if len(example["margin_lower"]) != classes or not max(example["label"], example["predicted"]) < classes:
                return f"example {place} does not have the {classes:,} classes of the model"
        return None

    @property
    def _stated(self) -> Sequence[int]:
        """The indices of the images that the certificate is about: the first of the data, if it names none."""
        indices: Sequence[int] = self.certificate.get("images", range(len(self._examples)))
        return indices

    def _which(self) -> str:
        """Return which of the data the examples are, as text."""
        which = f"{len(self._examples):,} of {len(self.dataset.test):,} test images"
        return f"{which}: {listed(self._stated)}" if "images" in self.certificate else f"the first {which}"

    def _is_there(self, example: Mapping[str, Any]) -> bool:
        index, labels = int(example["index"]), self.dataset.test.labels
        return index < len(labels) and int(example["label"]) == int(labels[index])

    def _shares(self) -> Iterator[Claim]:
        claimed, count = self.certificate, len(self._examples)
        right = sum(example["predicted"] == example["label"] for example in self._examples)
        verified, falsified = (len(self._with_verdict(each)) for each in (Verdict.VERIFIED, Verdict.FALSIFIED))
        same = _is_close(claimed["nominal_accuracy"], _share(right, count))
        yield Claim("nominal accuracy", same, f"{right:,} of {count:,} examples")
        same = count == claimed["n"] and _is_close(claimed["certified_accuracy"], _share(verified, count))
        yield Claim("certified accuracy", same, f"{verified:,} of {count:,} examples")
        same = _is_close(claimed["attack_accuracy"], _share(count - falsified, count))
        yield Claim("attack accuracy", same, f"{falsified:,} of {count:,} examples are falsified")

    # ── in ONNX Runtime ─────────────────────────────────────────────────────────────────────────────────────────
    def _answers(self) -> Iterator[Claim]:
        """Run every image: the claimed class must have the greatest output, up to rounding."""
        for example in self._examples:
            outputs = self._replay([self._images[example["index"]]])
            predicted, best = example["predicted"], float(outputs.max())
            least = best - UNACCOUNTED * max(1.0, abs(best))
            if not float(outputs[predicted]) >= least:
                yield Claim(_named(example), False, f"{self._replay.judge} does not classify it as {predicted}")

    def _counterexamples(self) -> Iterator[Claim]:
        """Run every counterexample. Certificates of version 1 have none: their falsified examples fail."""
        known = self._with_verdict(Verdict.FALSIFIED)
        for example in known:
            image, label = self._images[example["index"]], example["label"]
            point = _unpacked(example.get("counterexample"), image)
            if point is None or not self._in_ball(point, image.double().numpy()):
                yield Claim(_named(example), False, "its counterexample is not in its box")
                continue
            outputs = self._replay([torch.from_numpy(point)])
            others = torch.cat([outputs[:label], outputs[label + 1 :]])
            if not bool((outputs[label] <= others).any()):
                yield Claim(_named(example), False, f"{self._replay.judge} classifies its counterexample as {label}")
        if known:
            yield Claim("counterexamples", True, f"{len(known):,} were run in {self._replay.judge}")

    def _in_ball(self, point: NDArray[np.float32], x: NDArray[np.float64]) -> bool:
        """Return whether the point lies in the exact ball around x and within the limits.

        Distances are rounded to binary64: one that is then below ε is at most ε, one that equals ε is compared exactly.
        """
        wide, (least, most), eps = point.astype(np.float64), self.limits, self.certificate["eps"]
        distance = np.abs(wide - x)
        pairs = zip(wide[distance == eps].tolist(), x[distance == eps].tolist(), strict=True)
        edge = all(abs(Fraction(here) - Fraction(there)) <= Fraction(eps) for here, there in pairs)
        return edge and bool(np.all((distance <= eps) & (wide >= least) & (wide <= most)))

    # ── by the checker ──────────────────────────────────────────────────────────────────────────────────────────
    def _bounds(self, progress: Callable[[int], object]) -> Iterator[Claim]:
        """Bound every example again that is verified or has a claimed margin."""
        checker, claimed = Checker(self.model), [example for example in self._examples if _claims_bounds(example)]
        for done, example in enumerate(claimed):
            progress(done + 1)
            claim = self._bounded(example, checker)
            if not claim.holds:
                yield claim
        yield Claim("examples", True, f"{len(claimed):,} were bounded again")

    def _bounded(self, example: Mapping[str, Any], checker: Checker) -> Claim:
        """Bound z_label − z_other of one example over its box, by intervals and, for other methods, by planes too."""
        arithmetic, label = self.certificate["arithmetic"], example["label"]
        lower, upper = self._box(self._images[example["index"]])
        classes = len(example["margin_lower"])
        others = [other for other in range(classes) if other != label]
        rows = np.zeros((len(others), classes))
        rows[:, label] = 1.0
        rows[range(len(others)), others] = -1.0
        bounds, tops = checker.bound_rows([lower], [upper], rows, arithmetic)
        method = example.get("method", self.certificate["method"])
        if method not in INTERVAL_METHODS:
            bounds = np.maximum(bounds, _linear_bounds(checker, lower, upper, rows, arithmetic))
        least = bounds.min(initial=np.inf)
        is_open = example["verdict"] == Verdict.VERIFIED.value and not least > 0
        if is_open and method not in (*INTERVAL_METHODS, *PLANE_METHODS):
            found = f"{method} chose how to bound it, and its choices are not kept; without them the least margin is"
            return Claim(_named(example), False, f"{found} {least:.6g}")
        slack = UNACCOUNTED if arithmetic == Arithmetic.REAL.value else 0.0
        ends = (bounds + slack * magnitudes(bounds, tops)).tolist()
        ends.insert(label, 0.0)
        claimed = example["margin_lower"]
        pairs = zip(claimed, ends, strict=True)
        high = next((other for other, (margin, end) in enumerate(pairs) if margin is not None and margin > end), None)
        found = f"the checker bounds its least margin by {least:.6g}"
        if high is not None:
            found = f"the checker bounds its margin against class {high} by {ends[high]:.6g}, less than is claimed"
        return Claim(_named(example), high is None and not is_open, found)

    def _box(self, image: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the box of an image, flat, rounded outward."""
        x, eps = image.double().flatten().numpy(), self.certificate["eps"]
        lower, upper = (np.clip(np.nextafter(x + side * eps, side * np.inf), *self.limits) for side in (-1, 1))
        return lower, upper


def _named(example: Mapping[str, Any]) -> str:
    return f"example {example['index']}"


def _claims_bounds(example: Mapping[str, Any]) -> bool:
    """Return whether an example is verified or has a claimed margin, other than the 0 of its own label."""
    return example["verdict"] == Verdict.VERIFIED.value or any(
        margin is not None and (margin != 0 or other != example["label"])
        for other, margin in enumerate(example["margin_lower"])
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _is_close(claimed: float, found: float) -> bool:
    return abs(claimed - found) < 1e-12


def _unpacked(text: str | None, like: Tensor) -> NDArray[np.float32] | None:
    """Return the packed point in the shape of an image, None if the text is not one."""
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(text or "", validate=True), 4 * like.numel() + 1)
        return np.frombuffer(unpacked, "<f4").reshape(like.shape).copy()
    except (ValueError, zlib.error):
        return None


def _linear_bounds(
    checker: Checker, lower: NDArray[np.float64], upper: NDArray[np.float64], rows: NDArray[np.float64], arithmetic: str
) -> NDArray[np.float64]:
    """Return lower bounds of the rows by planes, over boxes tightened by planes."""
    try:
        region = checker.tightened(Region(lower, upper), arithmetic)
    except EmptyError:
        return np.full(len(rows), np.inf)
    return checker.lower_bounds(region, rows, arithmetic)
