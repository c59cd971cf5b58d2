"""Checking a certificate again, trusting nothing but the model file: every claim on its own, by other means.

Bounds are checked by `ibpc.verify.checking`, interval arithmetic in binary64 on the ONNX file with none of the
compiler's operators or passes; counterexamples by ONNX Runtime and exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ibpc.data import Dataset, fit_images
from ibpc.errors import ModelError
from ibpc.rounding import Arithmetic
from ibpc.verify.certificate import Claim, ModelFile, decision_of, fingerprint, property_of
from ibpc.verify.checking import Checker
from ibpc.verify.decide import Counterexample, Decision
from ibpc.verify.properties import Case, Conjunction, Property, Row, Terms, common_denominator
from ibpc.verify.replay import Replay
from ibpc.verify.robustness import Verdict

# How far a claim in real arithmetic, whose rounding nobody accounts for, may lie above the checker's bound, relative to
# the ends of the range.
_UNACCOUNTED: Final = 1e-4
REPLAYED: Final = "ibp"


def check_model(model: ModelFile) -> Claim:
    """Return whether the model file is the one that the certificate is about."""
    path = Path(model.path)
    if not path.exists():
        return Claim("model", False, f"{path}: there is no such file")
    found = fingerprint(path)
    return Claim("model", found == model.sha256, f"SHA-256 {found[:16]}…, the certificate says {model.sha256[:16]}…")


# ── one property ────────────────────────────────────────────────────────────────────────────────────────────────
def check_property(data: Mapping[str, Any], model: onnx.ModelProto, where: str) -> Iterator[Claim]:
    """Yield each claim of a property's certificate (checked JSON data), judged on the model alone."""
    prop, decision = property_of(data, where), decision_of(data)
    if decision.counterexample is not None or decision.verdict is Verdict.FALSIFIED:
        yield from _check_counterexample(prop, decision.counterexample, model)
    if decision.margins or decision.verdict is Verdict.VERIFIED:
        try:
            yield from _check_bounds(prop, decision, Checker(model))
        except ModelError as error:
            yield Claim("bounds", False, str(error))


def _check_counterexample(prop: Property, found: Counterexample | None, model: onnx.ModelProto) -> Iterator[Claim]:
    if found is None or len(found.inputs) != prop.input_count:
        yield Claim("counterexample", False, "there is none that fits the inputs")
        return
    point = torch.tensor(found.inputs, dtype=torch.float32)
    exact = all(Fraction(a) == Fraction(b) for a, b in zip(point.tolist(), found.inputs, strict=True))
    inside = exact and any(case.box.inside(point) for case in prop.cases)
    yield Claim("counterexample lies in the box", inside)
    shapes = [tensor.shape for tensor in prop.inputs]
    outputs = Replay(model)([part[0] for part in prop.split(point[None], shapes)])
    yield Claim("ONNX Runtime computes unsafe outputs there", prop.violated(point, outputs), _listed(outputs.tolist()))


def _check_bounds(prop: Property, decision: Decision, checker: Checker) -> Iterator[Claim]:
    if decision.method != REPLAYED:
        found = f"they were made by {decision.method}; the checker computes interval bounds only"
        yield Claim("bounds", False, found)
        return
    if len(decision.margins) != len(prop.cases):
        yield Claim("bounds", False, f"margins for {len(decision.margins)} cases of {len(prop.cases)}")
        return
    for number, (case, margins) in enumerate(zip(prop.cases, decision.margins, strict=True)):
        yield from _check_case(f"case {number + 1}", case, margins, decision, prop, checker)


def _check_case(
    name: str, case: Case, margins: Sequence[float], decision: Decision, prop: Property, checker: Checker
) -> Iterator[Claim]:
    if len(margins) != len(case.disjuncts):
        yield Claim(name, False, f"{len(margins)} margins for {len(case.disjuncts)} disjuncts")
        return
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
    """Yield each claim of a data set's certificate: the data, the shares, and every verified example.

    `shape` and `limits` are those of the network's input. A falsified example is a claim about an attack, of which the
    certificate keeps no trace but where the image itself is misclassified; it is not checked.
    """
    yield Claim("data", dataset.sha256 == data["data_sha256"], f"SHA-256 {dataset.sha256[:16]}…")
    examples = data["examples"]
    verified = [example for example in examples if example["verdict"] == Verdict.VERIFIED.value]
    share = len(verified) / len(examples) if examples else 0.0
    same = len(examples) == data["n"] and abs(share - data["certified_accuracy"]) < 1e-12
    yield Claim("certified accuracy", same, f"{len(verified):,} of {len(examples):,} examples")
    others = [example for example in verified if example["method"] != REPLAYED]
    if others:
        names = ", ".join(sorted({example["method"] for example in others}))
        found = f"{len(others):,} were proved by {names}; the checker computes interval bounds only"
        yield Claim("other bounds", False, found)
    replayable = [example for example in verified if example["method"] == REPLAYED]
    try:
        yield from _check_examples(replayable, data, model, dataset, shape, limits, progress)
    except ModelError as error:
        yield Claim("examples", False, str(error))


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
        index, label = example["index"], example["label"]
        if index >= len(images) or label != int(dataset.test.labels[index]):
            yield Claim(f"example {index}", False, "it is not in the data, or its label differs")
            continue
        claim = _check_example(example, images[index], data["eps"], limits, checker, data["arithmetic"])
        if not claim.holds:
            yield claim
    yield Claim("examples", True, f"{len(verified):,} verified ones were bounded again")


def _check_example(
    example: Mapping[str, Any],
    image: torch.Tensor,
    eps: float,
    limits: tuple[float, float],
    checker: Checker,
    arithmetic: str,
) -> Claim:
    """Bound z_label − z_other of one example over its box, in binary64."""
    x = image.double().flatten().numpy()
    lower, upper = (np.clip(np.nextafter(x + side * eps, side * np.inf), *limits) for side in (-1, 1))
    count, label = len(example["margin_lower"]), example["label"]
    others = [other for other in range(count) if other != label]
    rows = np.zeros((len(others), count))
    rows[:, label] = 1.0
    rows[range(len(others)), others] = -1.0
    bounds, tops = checker.bound_rows([lower], [upper], rows, arithmetic)
    claimed = [example["margin_lower"][other] for other in others]
    slack = _UNACCOUNTED if arithmetic == Arithmetic.REAL.value else 0.0
    holds = all(
        margin is not None and bound > 0 and margin <= bound + slack * scale
        for margin, bound, scale in zip(claimed, bounds.tolist(), _scales(bounds, tops).tolist(), strict=True)
    )
    return Claim(f"example {example['index']}", holds, f"the checker bounds its least margin by {bounds.min():.6g}")
