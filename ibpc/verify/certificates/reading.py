"""Reading a property's certificate: the property, and the decision that it claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from math import inf
from typing import Any

from ibpc.errors import PropertyError
from ibpc.frontends.validate import ONNX_RUNTIME
from ibpc.rounding import Arithmetic
from ibpc.verify.decide import Decision
from ibpc.verify.falsification import Counterexample
from ibpc.verify.properties import LARGEST, Box, Case, DeclaredTensor, Property, Row, Terms
from ibpc.verify.verdicts import Verdict


def property_of(data: Mapping[str, Any], where: str) -> Property:
    """Return the property in a certificate. Raises PropertyError if its parts do not fit together."""
    region = data["region"]
    inputs, outputs = (
        tuple(DeclaredTensor(tensor["name"], tuple(tensor["shape"])) for tensor in region[side])
        for side in ("inputs", "outputs")
    )
    prop = Property(data["property"], inputs, outputs, tuple(_case(case) for case in region["cases"]))
    if not all(_fits(case, prop.input_count, prop.output_count) for case in prop.cases):
        raise PropertyError.at(f"{where}: $.region", "cases that do not fit the inputs and outputs", "a certificate")
    return prop


def decision_of(data: Mapping[str, Any]) -> Decision:
    """Return the decision that a certificate claims."""
    found = data["counterexample"]
    margins = tuple(tuple(-inf if m is None else float(m) for m in row) for row in data["margin_lower"])
    return Decision(
        Verdict(data["verdict"]),
        data["method"],
        Arithmetic(data["arithmetic"]),
        float(data["seconds"]),
        margins,
        None if found is None else _counterexample(found),
    )


def _counterexample(data: Mapping[str, Any]) -> Counterexample:
    return Counterexample(tuple(data["inputs"]), tuple(data["outputs"]), data.get("judge", ONNX_RUNTIME))


def _case(data: Mapping[str, Any]) -> Case:
    lower, upper = (tuple(Fraction(value) for value in data[side]) for side in ("lower", "upper"))
    box = Box(lower, upper, frozenset(data["open_lower"]), frozenset(data["open_upper"]))
    rows = tuple(
        tuple(Row(_terms(row["outputs"]), _terms(row["inputs"]), Fraction(row["bound"]), row["strict"]) for row in rows)
        for rows in data["disjuncts"]
    )
    return Case(box, rows)


def _terms(pairs: Sequence[Sequence[Any]]) -> Terms:
    return tuple((int(index), Fraction(value)) for index, value in pairs)


def _fits(case: Case, inputs: int, outputs: int) -> bool:
    rows = [row for rows in case.disjuncts for row in rows]
    ends = case.box.open_lower | case.box.open_upper
    return (
        len(case.box.lower) == len(case.box.upper) == inputs
        and all(low <= high for low, high in zip(case.box.lower, case.box.upper, strict=True))
        and all(abs(end) <= LARGEST for end in (*case.box.lower, *case.box.upper))
        and all(index < inputs for index in ends)
        and all(_in_order(row.outputs, outputs) and _in_order(row.inputs, inputs) for row in rows)
    )


def _in_order(terms: Terms, count: int) -> bool:
    """Return whether indices increase strictly and are less than a count: a repeated index would be ambiguous."""
    indices = [index for index, _ in terms]
    return all(low < high for low, high in pairwise([-1, *indices, count]))
