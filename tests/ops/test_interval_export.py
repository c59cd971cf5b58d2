"""The interval rule of every operator, exported as ONNX, gives in ONNX Runtime the bounds that it gives in PyTorch."""

from __future__ import annotations

import pytest

from ibpc.exports.bounds import Claimed, export_bounds
from ibpc.ops import operators
from ibpc.rounding import Arithmetic
from tests.ops.cases import Case, rows
from tests.ops.harness import graph_of
from tests.ops.scene import draw

FIRST = {case.operator: case for case in reversed(rows()) if draw(case, operators()[case.operator]).boxes}


@pytest.mark.parametrize("case", FIRST.values(), ids=str)
def test_an_exported_rule_gives_the_same_bounds(case: Case, tmp_path) -> None:
    """`export_bounds` itself runs the file in ONNX Runtime and refuses to write one with other results."""
    scene = draw(case, operators()[case.operator])
    graph = graph_of(scene.in_float32())
    export_bounds(graph, tmp_path / "bounds.onnx", Claimed.OUTPUTS, Arithmetic.FLOAT32)
    assert (tmp_path / "bounds.onnx").stat().st_size > 0
