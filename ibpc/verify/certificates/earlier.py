"""Verdicts of an earlier certificate of the same question, so that only what it leaves open is tried again."""

from __future__ import annotations

from pathlib import Path

from ibpc.data import Dataset
from ibpc.errors import Problem, PropertyError, raise_all
from ibpc.rounding import Arithmetic
from ibpc.verify.certificates.certificate import ModelFile
from ibpc.verify.certificates.schema import read_certificate
from ibpc.verify.results import Example


def earlier_verdicts(
    path: Path, model: ModelFile, dataset: Dataset, eps: float, arithmetic: Arithmetic
) -> tuple[Example, ...]:
    """Return the examples of a data set's certificate, which are believed.

    Raises PropertyError or SpecError for a file that is none, and PropertyError for one of another network, data set,
    radius or arithmetic.
    """
    data, asked = read_certificate(path), model.to_json()
    asked |= {"kind": "data", "data_sha256": dataset.sha256, "eps": eps, "arithmetic": arithmetic.value}
    wanted = {key: value for key, value in asked.items() if key != "model"}
    raise_all(
        PropertyError,
        [
            Problem(f"{path}: {key}", f"found {data.get(key)}", f"{value}, as for what is certified now")
            for key, value in wanted.items()
            if data.get(key) != value
        ],
    )
    try:
        return tuple(map(Example.from_json, data["examples"]))
    except (KeyError, TypeError, ValueError):
        raise PropertyError.at(
            f"{path}: examples", "malformed verdicts", "a certificate as certify writes it"
        ) from None
