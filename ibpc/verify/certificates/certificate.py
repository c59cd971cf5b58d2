"""Certificates: what is claimed of which network and property, as JSON that can be checked again.

A certificate of a property contains the property itself in exact rationals, so that checking needs only the model file.
A certificate of a data set names the data by their hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final, TypeAlias

from ibpc.artifact import MANIFEST, tool_versions
from ibpc.bounds import Proof, methods_proved_by
from ibpc.errors import ArtifactError, first_line
from ibpc.files import sha256_of
from ibpc.rounding import Arithmetic
from ibpc.verify.decide import Decision, image_plan
from ibpc.verify.falsification import Counterexample
from ibpc.verify.properties import Property, Row
from ibpc.verify.proving.proof import Names
from ibpc.verify.results import Robustness
from ibpc.verify.verdicts import ATTACKED

Steps: TypeAlias = list[list[Any]]

FORMAT_VERSION: Final = 3
# Methods without choices: a data set's certificate says enough to compute their margins again.
INTERVAL_METHODS: Final = methods_proved_by(Proof.INTERVALS)
PLANE_METHODS: Final = methods_proved_by(Proof.PLANES, Proof.TIGHTENED_PLANES)
# By how much a margin is lowered before it is written, since its proof is replayed in other orders of summation.
_ALLOWANCE: Final = 1e-6
# The same for linear bounds of an image, whose lines are not written: where a box is nearly symmetric about 0 the
# checker, which finds its own, may take the other one.
_ALLOWANCE_WITHOUT_LINES: Final = 1e-2
ASSUMPTIONS: Final = {
    Arithmetic.REAL.value: "real arithmetic; rounding is not accounted for",
    Arithmetic.FLOAT32.value: (
        "any IEEE-754 binary32 execution of the operators as they stand in the file, round to nearest, sums of "
        "products in any order with or without fused multiply-add (no TF32, Winograd or FFT convolutions), elementary "
        "functions within 8 ulps"
    ),
}


@dataclass(frozen=True)
class ModelFile:
    """The model that a certificate is about: its file or artifact, and the normalization in front of it."""

    path: str
    sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, path: Path, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> ModelFile:
        """Return the model in a file or artifact, with its present hash."""
        return cls(
            str(path), fingerprint(path), None if mean is None else tuple(mean), None if std is None else tuple(std)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "model": self.path,
            "model_sha256": self.sha256,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelFile:
        """Return the model that validated JSON data names."""
        mean, std = (None if data[key] is None else tuple(data[key]) for key in ("mean", "std"))
        return cls(data["model"], data["model_sha256"], mean, std)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a model file, or of an artifact's manifest, which holds those of all its files.

    Raises ArtifactError where it cannot be read.
    """
    try:
        return sha256_of((path / MANIFEST if path.is_dir() else path).read_bytes())
    except OSError as error:
        raise ArtifactError.at(
            path, f"it cannot be read: {first_line(error)}", "the model's file or artifact"
        ) from error


@dataclass(frozen=True)
class Claim:
    """One claim of a certificate: whether it holds, and why not (or by how much)."""

    name: str
    holds: bool
    detail: str = ""


def property_certificate(
    model: ModelFile, prop: Property, decision: Decision, notes: Sequence[str], names: Names | None = None
) -> dict[str, Any]:
    """Return the certificate of one property as plain JSON data.

    With `names`, the names of values in the model's file, it contains a proof of each bound, and margins slightly lower
    than found; a bound without a proof is left out.
    """
    found = decision.counterexample
    proofs = None if names is None else _proofs(prop, decision, names)
    margins = decision.margins if proofs is None else _proved(decision, proofs)
    return {
        **_head("property", model, decision.arithmetic, notes),
        "property": prop.name,
        "verdict": decision.verdict.value,
        "method": decision.method,
        "seconds": round(decision.seconds, 3),
        "margin_lower": [[_number(margin) for margin in row] for row in margins],
        "counterexample": None if found is None else _counterexample(found),
        "region": _region(prop),
        **({} if proofs is None else {"proofs": proofs}),
    }


def _counterexample(found: Counterexample) -> dict[str, Any]:
    return {"inputs": list(found.inputs), "outputs": list(found.outputs), "judge": found.judge}


def _proofs(prop: Property, decision: Decision, names: Names) -> list[list[Steps | None]]:
    return [
        [None if proof is None else proof.steps(names, rows) for proof, rows in zip(found, case.disjuncts, strict=True)]
        for found, case in zip(decision.proofs, prop.cases, strict=True)
    ]


def _proved(decision: Decision, proofs: Sequence[Sequence[Steps | None]]) -> list[list[float]]:
    """Return the margins that have a proof, slightly lowered, and −∞ for the others."""
    return [
        [
            _lowered(margin) if steps is not None and place is not None and place.has_margin else -inf
            for margin, steps, place in zip(*row, strict=True)
        ]
        for row in zip(decision.margins, proofs, decision.proofs, strict=True)
    ]


def _lowered(margin: float, allowance: float = _ALLOWANCE) -> float:
    return margin - allowance * max(1.0, abs(margin))


def data_certificate(
    model: ModelFile, data: str, data_sha256: str, result: Robustness, notes: Sequence[str]
) -> dict[str, Any]:
    """Return the certificate of a set of test images as plain JSON data."""
    head, found = _head("data", model, result.arithmetic, notes), result.to_json()
    for example in found["examples"]:
        method = image_plan(result.method)[0] if example["method"] == ATTACKED else example["method"]
        if method not in INTERVAL_METHODS:
            known = example["margin_lower"]
            kept = known if method in PLANE_METHODS else [None] * len(known)
            lowered = [None if margin is None else _lowered(margin, _ALLOWANCE_WITHOUT_LINES) for margin in kept]
            example["margin_lower"] = _with_own(lowered, example["label"])
    return {**head, "data": data, "data_sha256": data_sha256, "split": "test", **found}


def _with_own(margins: Sequence[float | None], label: int) -> list[float | None]:
    """Return margins with 0 at the label, where it is no bound."""
    return [0.0 if other == label and margin is not None else margin for other, margin in enumerate(margins)]


def _head(kind: str, model: ModelFile, arithmetic: Arithmetic, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "certificate": FORMAT_VERSION,
        "kind": kind,
        **model.to_json(),
        "arithmetic": arithmetic.value,
        "assumptions": ASSUMPTIONS[arithmetic.value],
        "notes": list(notes),
        "versions": tool_versions(),
    }


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _region(prop: Property) -> dict[str, Any]:
    return {
        "inputs": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in prop.inputs],
        "outputs": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in prop.outputs],
        "cases": [
            {
                "lower": [str(value) for value in case.box.lower],
                "upper": [str(value) for value in case.box.upper],
                "open_lower": sorted(case.box.open_lower),
                "open_upper": sorted(case.box.open_upper),
                "disjuncts": [[_row(row) for row in rows] for rows in case.disjuncts],
            }
            for case in prop.cases
        ],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "outputs": [[index, str(value)] for index, value in row.outputs],
        "inputs": [[index, str(value)] for index, value in row.inputs],
        "bound": str(row.bound),
        "strict": row.strict,
    }
