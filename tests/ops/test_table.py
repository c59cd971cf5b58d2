"""Every row of the table against every property."""

from __future__ import annotations

from collections import Counter

import pytest

from ibpc.ops import operators
from tests.ops.cases import Case, rows
from tests.ops.harness import PROPERTIES, Property

CASES = rows()

# Input is where a value enters a graph: it computes nothing, takes no operand, and is no ONNX node.
ROWLESS = {"Input"}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", PROPERTIES.values(), ids=PROPERTIES.keys())
def test_property(check: Property, case: Case) -> None:
    names = {check: name for name, check in PROPERTIES.items()}
    if names[check] in case.without:
        pytest.skip(case.without[names[check]])
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
