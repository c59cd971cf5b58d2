"""Checking a certificate again, trusting nothing but the model file: every claim on its own, by other means.

Bounds are checked by `ibpc.verify.checking`, intervals and planes in binary64 on the ONNX file with none of the
compiler's operators or passes; those of a proof in each leaf of its tree. Counterexamples are checked by ONNX Runtime
and exact arithmetic.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ibpc.artifact import is_artifact
from ibpc.data import Dataset, fit_images
from ibpc.errors import ModelError, PropertyError
from ibpc.rounding import Arithmetic
from ibpc.verify.certificate import (
    INTERVAL_METHODS,
    PLANE_METHODS,
    Claim,
    ModelFile,
    decision_of,
    fingerprint,
    property_of,
)
from ibpc.verify.checking import Checker
from ibpc.verify.checking.proofs import Leaf, leaves
from ibpc.verify.checking.regions import EmptyError, Region
from ibpc.verify.decide import Counterexample, Decision
from ibpc.verify.properties import Case, Conjunction, Property, Row, Terms, common_denominator
from ibpc.verify.replay import Replay
from ibpc.verify.robustness import Verdict

# How far a claim in real arithmetic, whose rounding nobody accounts for, may lie above the checker's bound, relative to
# the ends of the range.
_UNACCOUNTED: Final = 1e-4


def check_model(model: ModelFile) -> Claim:
    """Return whether the model file is the one that the certificate is about."""
    path = Path(model.path)
    if not (path.is_file() or is_artifact(path)):
        return Claim("model", False, f"{path}: there is no such file or artifact")
    found = fingerprint(path)
    return Claim("model", found == model.sha256, f"SHA-256 {found[:16]}…, the certificate says {model.sha256[:16]}…")


# ── one property ────────────────────────────────────────────────────────────────────────────────────────────────
def check_property(data: Mapping[str, Any], model: onnx.ModelProto, where: str) -> Iterator[Claim]:
    """Yield each claim of a property's certificate (checked JSON data), judged on the model alone."""
    prop, decision = property_of(data, where), decision_of(data)
    if decision.counterexample is not None or decision.verdict is Verdict.FALSIFIED:
        yield from _check_counterexample(prop, decision.counterexample, model)
    if decision.verdict is Verdict.VERIFIED or any(isfinite(margin) for row in decision.margins for margin in row):
        try:
            yield from _check_bounds(prop, decision, data.get("proofs"), Checker(model))
        except (ModelError, PropertyError) as error:
            yield Claim("bounds", False, str(error))


def _check_counterexample(prop: Property, found: Counterexample | None, model: onnx.ModelProto) -> Iterator[Claim]:
    replay = Replay(model)
    if found is None or not len(found.inputs) == prop.input_count == sum(map(prod, replay.input_sizes)):
        yield Claim("counterexample", False, "there is none that fits the inputs")
        return
    point = torch.tensor(found.inputs, dtype=torch.float32)
    exact = point.double().tolist() == [float(value) for value in found.inputs]
    inside = exact and any(case.box.inside(point) for case in prop.cases)
    yield Claim("counterexample lies in the box", inside)
    outputs = replay([part[0] for part in prop.split(point[None], replay.input_sizes)])
    if len(outputs) != prop.output_count:
        yield Claim("outputs", False, f"the property has {prop.output_count:,}, the model {len(outputs):,}")
        return
    yield Claim("ONNX Runtime computes unsafe outputs there", prop.violated(point, outputs), _listed(outputs.tolist()))


def _check_bounds(
    prop: Property, decision: Decision, proofs: Sequence[Sequence[Any]] | None, checker: Checker
) -> Iterator[Claim]:
    if proofs is None and decision.method not in INTERVAL_METHODS:
        found = f"they were made by {decision.method}, and there is no proof of them"
        yield Claim("bounds", False, found)
        return
    if len(decision.margins) != len(prop.cases):
        yield Claim("bounds", False, f"margins for {len(decision.margins)} cases of {len(prop.cases)}")
        return
    if proofs is not None and len(proofs) != len(prop.cases):
        yield Claim("bounds", False, f"proofs for {len(proofs)} cases of {len(prop.cases)}")
        return
    for number, (case, margins) in enumerate(zip(prop.cases, decision.margins, strict=True)):
        if len(margins) != len(case.disjuncts):
            yield Claim(f"case {number + 1}", False, f"{len(margins)} margins for {len(case.disjuncts)} disjuncts")
        elif proofs is None:
            yield from _check_case(f"case {number + 1}", case, margins, decision, prop, checker)
        else:
            yield from _check_proofs(f"case {number + 1}", case, margins, proofs[number], decision, prop, checker)


def _check_case(
    name: str, case: Case, margins: Sequence[float], decision: Decision, prop: Property, checker: Checker
) -> Iterator[Claim]:
    tried = [[*rows, *_summed(rows)] for rows in case.disjuncts]
    flat = [row for rows in tried for row in rows]
    ends = [side.double().numpy() for side in case.box.outer]
    lower, scales = _excesses(checker, ends, flat, case, decision.arithmetic, prop)
    position = 0
    for index, (rows, margin) in enumerate(zip(tried, margins, strict=True)):
        here = slice(position, position + len(rows))
        found = [pair for pair in zip(rows, lower[here], strict=True) if pair[1] is not None]
        position += len(rows)
        best = max((float(excess) for _, excess in found if excess is not None), default=-np.inf)
        place = f"{name}, disjunct {index + 1}"
        slack = _UNACCOUNTED * max(scales[here], default=1.0) if decision.arithmetic is Arithmetic.REAL else 0.0
        if isfinite(margin):
            yield Claim(
                f"{place}: margin ≥ {margin:.6g}", margin <= best + slack, f"the checker bounds it by {best:.6g}"
            )
        if decision.verdict is Verdict.VERIFIED:
            refuted = any(e is not None and (e > 0 or (row.strict and e == 0)) for row, e in found)
            yield Claim(f"{place}: cannot be met", refuted, f"the checker bounds the margin by {best:.6g}")


def _check_proofs(
    name: str,
    case: Case,
    margins: Sequence[float],
    proofs: Sequence[Any],
    decision: Decision,
    prop: Property,
    checker: Checker,
) -> Iterator[Claim]:
    """Replay the proofs of a case's disjuncts, each leaf on its own."""
    if len(proofs) != len(case.disjuncts):
        yield Claim(name, False, f"{len(proofs)} proofs for {len(case.disjuncts)} disjuncts")
        return
    for index, (rows, margin, steps) in enumerate(zip(case.disjuncts, margins, proofs, strict=True)):
        place = f"{name}, disjunct {index + 1}"
        if steps is None:
            if isfinite(margin) or decision.verdict is Verdict.VERIFIED:
                yield Claim(place, False, f"there is no proof; what {decision.method} found cannot be replayed")
            continue
        try:
            replayed = _replayed(steps, case, rows, decision.arithmetic, prop, checker)
        except (ModelError, PropertyError) as error:
            yield Claim(f"{place}: proof", False, str(error))
            continue
        if isfinite(margin):
            slack = _UNACCOUNTED * max(1.0, abs(margin)) if decision.arithmetic is Arithmetic.REAL else 0.0
            found = f"its {replayed.leaves:,} leaves are bounded by {replayed.margin:.6g}"
            yield Claim(f"{place}: margin ≥ {margin:.6g}", margin <= replayed.margin + slack, found)
        if decision.verdict is Verdict.VERIFIED:
            found = f"{replayed.open_leaves:,} of {replayed.leaves:,} leaves are open, the least margin is "
            yield Claim(f"{place}: cannot be met", not replayed.open_leaves, f"{found}{replayed.margin:.6g}")


@dataclass(frozen=True)
class _Replayed:
    """What a proof shows: the least margin of its leaves, how many there are, and how many do not refute."""

    margin: float
    leaves: int
    open_leaves: int


def _replayed(
    steps: Sequence[Any], case: Case, rows: Conjunction, arithmetic: Arithmetic, prop: Property, checker: Checker
) -> _Replayed:
    margin, count, unrefuted = float("inf"), 0, 0
    ends = [side.double().numpy() for side in case.box.outer]
    for leaf in leaves(steps, checker, ends[0], ends[1], arithmetic.value):
        count += 1
        row = _weighted(rows, leaf.weights)
        bound = _excess(checker, leaf, row, prop, arithmetic)
        margin = min(margin, float(bound))
        unrefuted += not (bound > 0 or (row.strict and bound == 0))
    return _Replayed(margin, count, unrefuted)


def _weighted(rows: Conjunction, weights: Sequence[float]) -> Row:
    """Return the sum of a conjunction's rows times weights ≥ 0: it holds where all rows do.

    Raises PropertyError for weights that do not fit, and for those that add up to nothing.
    """
    if len(weights) != len(rows) or not any(weights):
        raise PropertyError.at("proof", f"weights {list(weights)[:10]}", f"{len(rows)}, not all of them 0")
    pairs = [(row, Fraction(weight)) for row, weight in zip(rows, weights, strict=True) if weight]
    scales = [weight for _, weight in pairs]
    return Row(
        _added([row.outputs for row, _ in pairs], scales),
        _added([row.inputs for row, _ in pairs], scales),
        sum((weight * row.bound for row, weight in pairs), Fraction()),
        any(row.strict for row, _ in pairs),
    )


def _excess(checker: Checker, leaf: Leaf, row: Row, prop: Property, arithmetic: Arithmetic) -> Fraction | float:
    """Return a lower bound of Σ c·y + Σ a·x − bound in a leaf; infinite where nothing is there, or nothing known."""
    scale = _scale(row)
    if not scale:
        return -np.inf
    matrix = np.zeros(prop.output_count)
    for index, value in row.outputs:
        matrix[index] = float(value * scale)
    bound = checker.lower_bound(leaf.region, matrix, arithmetic.value, leaf.multipliers, leaf.choices)
    if not isfinite(bound):
        return bound
    lower, upper = leaf.region.lower, leaf.region.upper
    least = sum((a * Fraction(float((lower if a > 0 else upper)[i])) for i, a in row.inputs), Fraction())
    return Fraction(bound) / scale + least - row.bound


def _excesses(
    checker: Checker, ends: Sequence[Any], rows: Sequence[Row], case: Case, arithmetic: Arithmetic, prop: Property
) -> tuple[list[Fraction | None], list[float]]:
    """Return a lower bound of Σ c·y + Σ a·x − bound for each row, None where nothing finite is known, and its scale."""
    scales = [_scale(row) for row in rows]
    matrix = np.zeros((len(rows), prop.output_count))
    for number, (row, scale) in enumerate(zip(rows, scales, strict=True)):
        for index, value in row.outputs if scale else ():
            matrix[number, index] = float(value * scale)
    sizes = [tensor.size for tensor in prop.inputs]
    lower, upper = (np.split(end, np.cumsum(sizes)[:-1]) for end in ends)
    bounds, tops = checker.bound_rows(lower, upper, matrix, arithmetic.value)
    excesses = [
        Fraction(float(bound)) / scale + case.box.least(row.inputs) - row.bound
        if np.isfinite(bound) and scale
        else None
        for bound, row, scale in zip(bounds, rows, scales, strict=True)
    ]
    sizes_of_rows = _scales(bounds, tops) / np.array([max(1.0, float(scale)) for scale in scales])
    return excesses, np.maximum(sizes_of_rows, 1.0).tolist()


def _scale(row: Row) -> Fraction:
    """Return the least integer that makes the row's coefficients integers of at most 53 bits, or 0 for none.

    Coefficients that binary64 rounds would make the bound one of another row.
    """
    bottom = common_denominator(value for _, value in row.outputs)
    if bottom is None or any(abs(value * bottom) > 2**53 for _, value in row.outputs):
        return Fraction(0)
    return Fraction(bottom)


def _scales(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what rounding that nobody accounts for is relative to: the greater end of the range, at least 1."""
    ends = np.maximum(np.abs(lower), np.abs(upper))
    return np.maximum(np.where(np.isfinite(ends), ends, 1.0), 1.0)


def _summed(rows: Conjunction) -> Iterator[Row]:
    """Yield the sum of a conjunction's rows, scaled alike: where all hold, it holds."""
    several = [row for row in rows if row.outputs]
    if len(several) < 2:
        return
    scales = [1 / max(abs(value) for _, value in row.outputs) for row in several]
    yield Row(
        _added([row.outputs for row in several], scales),
        _added([row.inputs for row in several], scales),
        sum((scale * row.bound for row, scale in zip(several, scales, strict=True)), Fraction()),
        any(row.strict for row in several),
    )


def _added(terms: Sequence[Terms], scales: Sequence[Fraction]) -> Terms:
    total: dict[int, Fraction] = {}
    for pairs, scale in zip(terms, scales, strict=True):
        for index, value in pairs:
            total[index] = total.get(index, Fraction()) + scale * value
    return tuple(sorted((index, value) for index, value in total.items() if value))


def _linear_bounds(
    checker: Checker, lower: NDArray[np.float64], upper: NDArray[np.float64], rows: NDArray[np.float64], arithmetic: str
) -> NDArray[np.float64]:
    """Return lower bounds of the rows by planes over boxes that were tightened by planes."""
    try:
        region = checker.tightened(Region(lower, upper), arithmetic)
    except EmptyError:
        return np.full(len(rows), np.inf)
    return np.array([checker.lower_bound(region, row, arithmetic) for row in rows])


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values[:10]) + (", …" if len(values) > 10 else "")


# ── a data set ──────────────────────────────────────────────────────────────────────────────────────────────────
def check_data(
    data: Mapping[str, Any],
    model: onnx.ModelProto,
    dataset: Dataset,
    shape: tuple[int, ...],
    limits: tuple[float, float],
    progress: Callable[[int], object] = int,
) -> Iterator[Claim]:
    """Yield each claim of a data set's certificate: the data, the shares, every verified and every falsified example.

    `shape` and `limits` are those of the network's input.
    """
    yield Claim("data", dataset.sha256 == data["data_sha256"], f"SHA-256 {dataset.sha256[:16]}…")
    examples = data["examples"]
    misplaced = _misplaced(examples, dataset)
    yield Claim("examples", misplaced is None, misplaced or f"the first {len(examples):,} of the data")
    if misplaced is not None:
        return
    yield from _check_answers(data, model, dataset, shape)
    verified = [example for example in examples if example["verdict"] == Verdict.VERIFIED.value]
    share = len(verified) / len(examples) if examples else 0.0
    same = len(examples) == data["n"] and abs(share - data["certified_accuracy"]) < 1e-12
    yield Claim("certified accuracy", same, f"{len(verified):,} of {len(examples):,} examples")
    falsified = [example for example in examples if example["verdict"] == Verdict.FALSIFIED.value]
    kept = 1.0 - len(falsified) / len(examples) if examples else 0.0
    same = abs(kept - data["attack_accuracy"]) < 1e-12
    yield Claim("attack accuracy", same, f"{len(falsified):,} of {len(examples):,} examples are falsified")
    yield from _check_falsified(falsified, data["eps"], model, dataset, shape, limits, data["certificate"])
    try:
        yield from _check_examples(verified, data, model, dataset, shape, limits, progress)
    except ModelError as error:
        yield Claim("examples", False, str(error))


def _misplaced(examples: Sequence[Mapping[str, Any]], dataset: Dataset) -> str | None:
    """Return what is wrong with the list of examples, None if they are the first of the data, each with its label."""
    classes = len(examples[0]["margin_lower"]) if examples else 0
    for place, example in enumerate(examples):
        if example["index"] != place:
            return f"example {place} is number {example['index']} of the data"
        if not _is_there(example, dataset):
            return f"example {place} is not in the data, or its label differs"
        if len(example["margin_lower"]) != classes or not max(example["label"], example["predicted"]) < classes:
            return f"example {place} does not have the classes of the others"
    return None


def _check_answers(
    data: Mapping[str, Any], model: onnx.ModelProto, dataset: Dataset, shape: tuple[int, ...]
) -> Iterator[Claim]:
    """Run every image in ONNX Runtime: its answer is the one claimed, or as good but for rounding."""
    replay, images, examples = Replay(model), fit_images(dataset.test.floats(), shape), data["examples"]
    right = sum(example["predicted"] == example["label"] for example in examples)
    share = right / len(examples) if examples else 0.0
    same = abs(share - data["nominal_accuracy"]) < 1e-12
    yield Claim("nominal accuracy", same, f"{right:,} of {len(examples):,} examples")
    for example in examples:
        outputs = replay([images[example["index"]]])[: len(example["margin_lower"])]
        predicted, best = example["predicted"], float(outputs.max())
        if not predicted < len(outputs) or not float(outputs[predicted]) >= best - _UNACCOUNTED * max(1.0, abs(best)):
            yield Claim(f"example {example['index']}", False, f"ONNX Runtime does not classify it as {predicted}")


def _check_falsified(
    falsified: Sequence[Mapping[str, Any]],
    eps: float,
    model: onnx.ModelProto,
    dataset: Dataset,
    shape: tuple[int, ...],
    limits: tuple[float, float],
    version: int,
) -> Iterator[Claim]:
    """Run every counterexample in ONNX Runtime; certificates of version 1 have none."""
    known = falsified if version > 1 else [example for example in falsified if "counterexample" in example]
    replay, images = Replay(model), fit_images(dataset.test.floats(), shape)
    for example in known:
        index, label = example["index"], example["label"]
        point, x = _unpacked(example.get("counterexample"), images[index]), images[index].double().numpy()
        if point is None or not _in_ball(point, x, eps, limits):
            yield Claim(f"example {index}", False, "its counterexample is not in its box")
            continue
        outputs = replay([torch.from_numpy(point)])[: len(example["margin_lower"])]
        if not bool(outputs[label] <= torch.cat([outputs[:label], outputs[label + 1 :]]).max()):
            yield Claim(f"example {index}", False, f"ONNX Runtime classifies its counterexample as {label}")
    if known:
        yield Claim("counterexamples", True, f"{len(known):,} were run in ONNX Runtime")


def _unpacked(text: str | None, like: torch.Tensor) -> NDArray[np.float32] | None:
    """Return the packed point in the shape of an image, None where it is none."""
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(text or "", validate=True), 4 * like.numel() + 1)
        return np.frombuffer(unpacked, "<f4").reshape(like.shape).copy()
    except (ValueError, zlib.error):
        return None


def _in_ball(point: NDArray[np.float32], x: NDArray[np.float64], eps: float, limits: tuple[float, float]) -> bool:
    """Return whether the point lies in the exact ball around x and within the limits.

    A distance is rounded to binary64, which is not beyond ε if it is below it afterwards; one that equals ε then may
    be, and counts as outside but for the image itself.
    """
    wide = point.astype(np.float64)
    near = (np.abs(wide - x) < eps) | (wide == x)
    return bool(np.all(near & (wide >= limits[0]) & (wide <= limits[1])))


def _is_there(example: Mapping[str, Any], dataset: Dataset) -> bool:
    index = int(example["index"])
    return index < len(dataset.test.labels) and int(example["label"]) == int(dataset.test.labels[index])


def _check_examples(
    verified: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    model: onnx.ModelProto,
    dataset: Dataset,
    shape: tuple[int, ...],
    limits: tuple[float, float],
    progress: Callable[[int], object],
) -> Iterator[Claim]:
    checker, images = Checker(model), fit_images(dataset.test.floats(), shape)
    for done, example in enumerate(verified):
        progress(done + 1)
        claim = _check_example(example, images[example["index"]], data, limits, checker)
        if not claim.holds:
            yield claim
    yield Claim("examples", True, f"{len(verified):,} verified ones were bounded again")


def _check_example(
    example: Mapping[str, Any],
    image: torch.Tensor,
    data: Mapping[str, Any],
    limits: tuple[float, float],
    checker: Checker,
) -> Claim:
    """Bound z_label − z_other of one example over its box, by intervals or, for other methods, by planes."""
    x, eps, arithmetic = image.double().flatten().numpy(), data["eps"], data["arithmetic"]
    lower, upper = (np.clip(np.nextafter(x + side * eps, side * np.inf), *limits) for side in (-1, 1))
    count, label = len(example["margin_lower"]), example["label"]
    others = [other for other in range(count) if other != label]
    rows = np.zeros((len(others), count))
    rows[:, label] = 1.0
    rows[range(len(others)), others] = -1.0
    bounds, tops = checker.bound_rows([lower], [upper], rows, arithmetic)
    method = example.get("method", data["method"])
    if method not in INTERVAL_METHODS:
        bounds = np.maximum(bounds, _linear_bounds(checker, lower, upper, rows, arithmetic))
    claimed = [example["margin_lower"][other] for other in others]
    slack = _UNACCOUNTED if arithmetic == Arithmetic.REAL.value else 0.0
    verified = bool((bounds > 0).all())
    if not verified and method not in (*INTERVAL_METHODS, *PLANE_METHODS):
        found = f"{method} chose how to bound it, of which nothing is kept; without that its least margin is"
        return Claim(f"example {example['index']}", False, f"{found} {bounds.min():.6g}")
    claims = zip(claimed, bounds.tolist(), _scales(bounds, tops).tolist(), strict=True)
    holds = verified and all(margin is None or margin <= bound + slack * scale for margin, bound, scale in claims)
    return Claim(f"example {example['index']}", holds, f"the checker bounds its least margin by {bounds.min():.6g}")
