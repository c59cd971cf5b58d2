"""Every row of the table against every property."""

from __future__ import annotations

from collections import Counter

import pytest
from _pytest.mark import ParameterSet

from ibpc.errors import ModelError
from ibpc.ops import operators
from tests.ops.cases import Case, rows
from tests.ops.harness import PROPERTIES, Property

CASES = rows()

# Input marks where a value enters a graph: it computes nothing, has no operand, and is no ONNX node.
ROWLESS = {"Input"}


def judged(name: str, check: Property, case: Case) -> ParameterSet:
    """Return one property of one row, marked as failing if the row lists it under `without`."""
    reason = case.without.get(name)
    # What the checker refuses it may refuse; a bound that it gives has to hold.
    kind = ModelError if name == "checker" else None
    marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=kind)]
    return pytest.param(check, case, marks=marks, id=f"{name}-{case}")


@pytest.mark.parametrize(
    ("check", "case"), [judged(name, check, case) for name, check in PROPERTIES.items() for case in CASES]
)
def test_property(check: Property, case: Case) -> None:
    check(case, operators()[case.operator])


def test_every_operator_has_two_rows() -> None:
    counts = Counter(case.operator for case in CASES)
    short = {name for name in operators() if counts[name] < 2}
    assert short == ROWLESS


def test_rows_name_known_operators() -> None:
    assert {case.operator for case in CASES} <= set(operators())


def test_rows_have_names_of_their_own() -> None:
    counts = Counter(map(str, CASES))
    assert [name for name, count in counts.items() if count > 1] == []
    assert all(case.name for case in CASES)


def test_exceptions_name_properties_and_reasons() -> None:
    for case in CASES:
        assert set(case.without) <= set(PROPERTIES), str(case)
        assert all(case.without.values()), str(case)
