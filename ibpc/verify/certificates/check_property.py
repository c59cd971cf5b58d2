"""The claims of a property's certificate: its counterexample, and bounds that exclude all unsafe outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isfinite, prod
from typing import Any, Final

import numpy as np
import onnx
import torch

from ibpc.errors import ModelError, PropertyError
from ibpc.rounding import Arithmetic
from ibpc.verify.allowances import UNACCOUNTED, magnitudes
from ibpc.verify.certificates.certificate import INTERVAL_METHODS, Claim
from ibpc.verify.certificates.reading import decision_of, property_of
from ibpc.verify.checking import Checker
from ibpc.verify.checking.proofs import Leaf, Memory, leaves
from ibpc.verify.decide import Decision
from ibpc.verify.falsification import Counterexample
from ibpc.verify.properties import Case, Conjunction, Property, Row
from ibpc.verify.replay import Replay
from ibpc.verify.rows import weighted, whole_coefficients, whole_scale, with_sum
from ibpc.verify.verdicts import Verdict

# How far outputs may differ between machines: relative and absolute tolerance.
_TOLERANCE: Final = 1e-3


def check_property(data: Mapping[str, Any], model: onnx.ModelProto, where: str) -> Iterator[Claim]:
    """Yield each claim of a property's certificate (validated JSON data), judged on the model alone."""
    prop, decision = property_of(data, where), decision_of(data)
    if decision.counterexample is not None or decision.verdict is Verdict.FALSIFIED:
        yield from _check_counterexample(prop, decision.counterexample, model)
    if decision.verdict is Verdict.VERIFIED or any(isfinite(margin) for row in decision.margins for margin in row):
        try:
            yield from _Bounds(prop, decision, data.get("proofs"), Checker(model)).claims()
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
    yield Claim(
        f"{replay.judge} computes unsafe outputs there", prop.violated(point, outputs), _listed(outputs.tolist())
    )
    claimed = torch.tensor(found.outputs, dtype=torch.float64)
    alike = claimed.shape == outputs.shape and torch.allclose(claimed, outputs, _TOLERANCE, _TOLERANCE)
    yield Claim("it computes the outputs that are claimed", alike, _listed(found.outputs))


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values[:10]) + (", …" if len(values) > 10 else "")


@dataclass(frozen=True, eq=False)
class _Excess:
    """A lower bound of a row's Σ c·y + Σ a·x − bound, None if it is not finite.

    `scale` is the size that unaccounted rounding is relative to.
    """

    row: Row
    least: Fraction | None
    scale: float

    @property
    def refutes(self) -> bool:
        """Whether the row cannot hold."""
        return self.least is not None and _refutes(self.row, self.least)


@dataclass(frozen=True)
class _Replayed:
    """The result of replaying a proof: the least margin of its leaves, their number, and how many do not refute."""

    margin: Fraction | float
    leaves: int
    open_leaves: int


@dataclass(frozen=True, eq=False)
class _Bounds:
    """The claimed bounds of a property, the steps of their proofs, and the checker that judges them."""

    prop: Property
    decision: Decision
    proofs: Sequence[Sequence[Any]] | None
    checker: Checker

    def claims(self) -> Iterator[Claim]:
        """Yield each claim about bounds."""
        cases, margins, proofs, method = self.prop.cases, self.decision.margins, self.proofs, self.decision.method
        if proofs is None and method not in INTERVAL_METHODS:
            yield Claim("bounds", False, f"they were made by {method}, and there is no proof of them")
        elif len(margins) != len(cases):
            yield Claim("bounds", False, f"margins for {len(margins)} cases of {len(cases)}")
        elif proofs is not None and len(proofs) != len(cases):
            yield Claim("bounds", False, f"proofs for {len(proofs)} cases of {len(cases)}")
        else:
            for number, (case, claimed) in enumerate(zip(cases, margins, strict=True)):
                name = f"case {number + 1}"
                if len(claimed) != len(case.disjuncts):
                    yield Claim(name, False, f"{len(claimed)} margins for {len(case.disjuncts)} disjuncts")
                elif proofs is None:
                    yield from self._by_intervals(name, case, claimed)
                else:
                    yield from self._by_proofs(name, case, claimed, proofs[number])

    # ── by intervals ────────────────────────────────────────────────────────────────────────────────────────────
    def _by_intervals(self, name: str, case: Case, margins: Sequence[float]) -> Iterator[Claim]:
        tried = [list(with_sum(rows)) for rows in case.disjuncts]
        excesses = iter(self._excesses(case, [row for rows in tried for row in rows]))
        for index, (rows, margin) in enumerate(zip(tried, margins, strict=True)):
            found = [next(excesses) for _ in rows]
            best = max((excess.least for excess in found if excess.least is not None), default=-inf)
            slack = self._slack(max((excess.scale for excess in found), default=1.0))
            place = f"{name}, disjunct {index + 1}"
            if isfinite(margin):
                bounded = f"the checker bounds it by {float(best):.6g}"
                yield Claim(f"{place}: margin ≥ {margin:.6g}", Fraction(margin) <= best + slack, bounded)
            if self.decision.verdict is Verdict.VERIFIED:
                refuted = any(excess.refutes for excess in found)
                yield Claim(f"{place}: cannot be met", refuted, f"the checker bounds the margin by {float(best):.6g}")

    def _excesses(self, case: Case, rows: Sequence[Row]) -> list[_Excess]:
        """Bound the excesses of all rows over a case's box at once."""
        ends = [side.double().numpy() for side in case.box.outer]
        cuts = np.cumsum([tensor.size for tensor in self.prop.inputs])[:-1]
        lower, upper = (np.split(end, cuts) for end in ends)
        matrix = np.zeros((len(rows), self.prop.output_count))
        for number, row in enumerate(rows):
            matrix[number] = whole_coefficients(row, self.prop.output_count)
        bounds, tops = self.checker.bound_rows(lower, upper, matrix, self.decision.arithmetic.value)
        found = []
        for row, bound, size in zip(rows, bounds.tolist(), magnitudes(bounds, tops).tolist(), strict=True):
            scale = whole_scale(row)
            least = None
            if scale and isfinite(bound):
                least = Fraction(bound) / scale + case.box.least(row.inputs) - row.bound
            found.append(_Excess(row, least, max(1.0, size / max(1.0, float(scale)))))
        return found

    # ── by proofs ───────────────────────────────────────────────────────────────────────────────────────────────
    def _by_proofs(self, name: str, case: Case, margins: Sequence[float], proofs: Sequence[Any]) -> Iterator[Claim]:
        """Replay the proofs of a case's disjuncts, leaf by leaf."""
        if len(proofs) != len(case.disjuncts):
            yield Claim(name, False, f"{len(proofs)} proofs for {len(case.disjuncts)} disjuncts")
            return
        is_verified, memory = self.decision.verdict is Verdict.VERIFIED, Memory()
        for index, (rows, margin, steps) in enumerate(zip(case.disjuncts, margins, proofs, strict=True)):
            place = f"{name}, disjunct {index + 1}"
            if steps is None:
                if isfinite(margin) or is_verified:
                    found = f"there is no proof; what {self.decision.method} found cannot be replayed"
                    yield Claim(place, False, found)
                continue
            try:
                replayed = self._replayed(steps, case, rows, memory)
            except (ModelError, PropertyError) as error:
                yield Claim(f"{place}: proof", False, str(error))
                continue
            if isfinite(margin):
                slack = self._slack(max(1.0, abs(margin)))
                found = f"its {replayed.leaves:,} leaves are bounded by {float(replayed.margin):.6g}"
                yield Claim(f"{place}: margin ≥ {margin:.6g}", Fraction(margin) <= replayed.margin + slack, found)
            if is_verified:
                found = f"{replayed.open_leaves:,} of {replayed.leaves:,} leaves are open, the least margin is "
                yield Claim(f"{place}: cannot be met", not replayed.open_leaves, f"{found}{float(replayed.margin):.6g}")

    def _replayed(self, steps: Sequence[Any], case: Case, rows: Conjunction, memory: Memory) -> _Replayed:
        margin: Fraction | float = inf
        count, unrefuted = 0, 0
        lower, upper = (side.double().numpy() for side in case.box.outer)
        for leaf in leaves(steps, self.checker, lower, upper, self.decision.arithmetic.value, memory):
            row = weighted(rows, leaf.weights)
            bound = self._leaf_excess(leaf, row)
            count, margin = count + 1, min(margin, bound)
            unrefuted += not _refutes(row, bound)
        return _Replayed(margin, count, unrefuted)

    def _leaf_excess(self, leaf: Leaf, row: Row) -> Fraction | float:
        """Return a lower bound of Σ c·y + Σ a·x − bound in a leaf: ∞ if the leaf is empty, −∞ if nothing is known."""
        scale = whole_scale(row)
        if not scale:
            return -inf
        matrix = whole_coefficients(row, self.prop.output_count)
        arithmetic = self.decision.arithmetic.value
        bound = self.checker.lower_bound(leaf.region, matrix, arithmetic, leaf.multipliers, leaf.choices)
        if not isfinite(bound):
            return bound
        lower, upper = leaf.region.lower, leaf.region.upper
        least = sum((a * Fraction(float((lower if a > 0 else upper)[i])) for i, a in row.inputs), Fraction())
        return Fraction(bound) / scale + least - row.bound

    def _slack(self, scale: float) -> Fraction:
        """Return how far a claim may lie above the checker's bound: a Fraction, since a sum of floats is rounded."""
        return Fraction(UNACCOUNTED * scale if self.decision.arithmetic is Arithmetic.REAL else 0)


def _refutes(row: Row, least: Fraction | float) -> bool:
    """Return whether a row whose excess is at least `least` cannot hold."""
    return least > 0 or (row.strict and least == 0)
